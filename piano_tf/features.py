"""The search-list contract: the name, type and shape of every column, spelt here and nowhere else.

A shown list is one row. Its candidates stand in first-stage order, its history newest first. N is
the number of candidates of a list, H that of its history entries; both differ from row to row.

==================  ========  =======  =============================================================
column              shape     type
==================  ========  =======  =============================================================
list_id             scalar    string   unique in the log
user_id, query      scalar    string
timestamp           scalar    int64    Unix seconds
item_id             [N]       string   never empty: "" pads a batch
initial_score       [N]       float    where the dataset declares it
item_<name>         [N]       either   string or float, as the dataset declares
user_<name>         scalar    either
context_<name>      scalar    either
history_query       [H]       string
history_item_id     [H]       string   never empty
history_action      [H]       string   `click` or `conversion`
history_age         [H]       float    days before this request
history_item_<name> [H]       either   a feature that the dataset declares of items too
click, conversion   [N]       int64    0 or 1, conversion <= click; absent when serving
==================  ========  =======  =============================================================

Batches pad lists at the end, strings with "" and numbers with 0. Masks are boolean, True = real.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

import pyarrow as pa
import pydantic

from piano_tf.config import EncodingConfig, Frozen
from piano_tf.errors import ConfigError

FeatureType = Literal["string", "float"]

CLICK = "click"
CONVERSION = "conversion"
LABELS = (CLICK, CONVERSION)
LIST_CLICK = "list_click"
LIST_CONVERSION = "list_conversion"
OUTPUTS = (CLICK, CONVERSION, LIST_CLICK, LIST_CONVERSION)
ACTIONS = (CLICK, CONVERSION)
SPLITS = ("train", "validation", "test")
SPEC_FILE = "features.json"

_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")


class Axis(enum.Enum):
    """Along what a column has one value each."""

    LIST = "list"
    ITEM = "item"
    HISTORY = "history"


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of a log.

    Attributes:
      name: Its name, the same in Parquet, tf.Example and every signature.
      type: `string`, `float` or `int64`.
      axis: Whether it has one value per list, per candidate or per history entry.
      table: Name of what encodes its values, a vocabulary for strings and the moments for floats;
        columns that name the same one share it. Empty for what needs nothing learnt from data.
    """

    name: str
    type: Literal["string", "float", "int64"]
    axis: Axis
    table: str = ""

    @property
    def arrow_type(self) -> pa.DataType:
        value = {"string": pa.string(), "float": pa.float32(), "int64": pa.int64()}[self.type]
        return value if self.axis is Axis.LIST else pa.list_(value)


def _as_pairs(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    for name, type in value.items():
        if type not in get_args(FeatureType):
            expected = " or ".join(repr(known) for known in get_args(FeatureType))
            raise ValueError(f"feature {name!r}: got type {type!r}, expected {expected}")
    return tuple(value.items())


# A mapping name -> type in JSON and in constructors; pairs inside, so that a spec stays immutable.
_Features = Annotated[
    tuple[tuple[str, FeatureType], ...],
    pydantic.BeforeValidator(_as_pairs),
    pydantic.PlainSerializer(dict),
]


class FeatureSpec(Frozen):
    """Which optional columns a dataset has; the required ones are there always.

    Attributes:
      dataset: Name of the dataset, for people.
      initial_score: Whether the first stage's scores are logged.
      item, user, context, history_item: Feature name -> `string` or `float`; the column of feature
        `artist` in `item` is `item_artist`.

    >>> artist = {"artist": "string"}
    >>> spec = FeatureSpec(dataset="shop", item=artist, history_item=artist)
    >>> [column.name for column in spec.columns() if column.axis is Axis.ITEM]
    ['item_id', 'item_artist', 'click', 'conversion']
    >>> FeatureSpec.from_json(spec.model_dump_json()) == spec
    True
    """

    dataset: str
    initial_score: bool = False
    item: _Features = ()
    user: _Features = ()
    context: _Features = ()
    history_item: _Features = ()

    @pydantic.model_validator(mode="after")
    def _check(self) -> FeatureSpec:
        for group in ("item", "user", "context", "history_item"):
            names = [name for name, _ in getattr(self, group)]
            for name in names:
                if not _NAME.match(name) or name == "id":
                    raise ValueError(
                        f"{group} feature {name!r}: expected lower-case letters, digits and "
                        "underscores, and not 'id'"
                    )
            if len(set(names)) < len(names):
                raise ValueError(f"{group}: a feature is declared twice in {names}")
        for name, type in self.history_item:
            if (name, type) not in self.item:
                raise ValueError(
                    f"history_item feature {name!r}: expected an item feature of the same name and "
                    f"type {type!r}, for the two share one encoding"
                )
        return self

    def columns(self, *, labels: bool = True) -> tuple[Column, ...]:
        """All columns of a log with this spec, in the order in which they are written."""
        columns = [
            Column("list_id", "string", Axis.LIST),
            Column("user_id", "string", Axis.LIST, "user_id"),
            Column("query", "string", Axis.LIST, "query"),
            Column("timestamp", "int64", Axis.LIST),
            *_feature_columns("user", self.user, Axis.LIST),
            *_feature_columns("context", self.context, Axis.LIST),
            Column("item_id", "string", Axis.ITEM, "item_id"),
        ]
        if self.initial_score:
            columns.append(Column("initial_score", "float", Axis.ITEM, "initial_score"))
        columns += _feature_columns("item", self.item, Axis.ITEM)
        columns += [
            Column("history_query", "string", Axis.HISTORY, "query"),
            Column("history_item_id", "string", Axis.HISTORY, "item_id"),
            Column("history_action", "string", Axis.HISTORY),
            Column("history_age", "float", Axis.HISTORY),
            *_feature_columns("item", self.history_item, Axis.HISTORY, prefix="history_"),
        ]
        if labels:
            columns += [Column(label, "int64", Axis.ITEM) for label in LABELS]
        return tuple(columns)

    def inputs_along(self, axis: Axis) -> list[str]:
        """Names of the columns of an axis, without labels."""
        return [column.name for column in self.columns(labels=False) if column.axis is axis]

    def tables(self, type: FeatureType) -> dict[str, tuple[Column, ...]]:
        """Name of each vocabulary (`string`) or pair of moments (`float`) -> its columns."""
        found: dict[str, tuple[Column, ...]] = {}
        for column in self.columns(labels=False):
            if column.table and column.type == type:
                found[column.table] = (*found.get(column.table, ()), column)
        return found

    @property
    def arrow_schema(self) -> pa.Schema:
        """The Parquet schema of a log with this spec."""
        return pa.schema([(column.name, column.arrow_type) for column in self.columns()])


def _feature_columns(
    group: str, features: _Features, axis: Axis, *, prefix: str = ""
) -> list[Column]:
    return [
        Column(f"{prefix}{group}_{name}", type, axis, f"{group}_{name}") for name, type in features
    ]


class InputSpec(Frozen):
    """What a model must know of its encoded inputs before it is built.

    Encoded inputs keep the names of the raw columns: strings are int64 ids (0 pads), floats are
    standardised, and `query` [B, T] and `history_query` [B, H, T] are ids of T tokens.

    Attributes:
      features: The dataset's columns.
      encoding: How they were encoded.
      rows: Vocabulary name -> rows of an embedding table over its ids, padding included.
    """

    features: FeatureSpec
    encoding: EncodingConfig
    rows: dict[str, int]


def require_tables(features: FeatureSpec, encoding: EncodingConfig) -> None:
    """Raises a `ConfigError` for a configured table that the columns do not have."""
    known = features.tables("string")
    for name, _ in encoding.tables:
        if name not in known:
            raise ConfigError(f"encoding.tables: got {name!r}, expected one of {', '.join(known)}")
