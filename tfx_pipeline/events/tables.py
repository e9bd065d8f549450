"""The canonical tables that every rule works on, whatever a team's own look like.

==========  =====================================================================================
table       columns (all nullable to Arrow; a row that lacks what is not marked ? is a dead letter)
==========  =====================================================================================
search      request_id, user_id string; time int64; query string; item_id list<string>;
            initial_score list<float> where mapped; arrived_at? int64; context_<name>?
click       request_id?, user_id? string (one of them); item_id string; time int64;
            arrived_at? int64
conversion  as click, and kind? string
item        item_id string; valid_from int64; item_<name>?
user        user_id string; valid_from int64; user_<name>?
==========  =====================================================================================

Times are Unix microseconds. Features are string or float32, as the mapping declares.
"""

from __future__ import annotations

import pyarrow as pa

from piano_tf.features import FeatureType
from tfx_pipeline.events.config import EventsConfig, FeatureColumn

SEARCH, CLICK, CONVERSION, ITEM, USER = "search", "click", "conversion", "item", "user"
EVENTS = (SEARCH, CLICK, CONVERSION)
KINDS = (*EVENTS, ITEM, USER)

_TYPES: dict[FeatureType, pa.DataType] = {"string": pa.string(), "float": pa.float32()}


def schemas(config: EventsConfig) -> dict[str, pa.Schema]:
    """Name of each table that the mapping has -> its canonical schema."""
    text, time = pa.string(), pa.int64()
    search = [("request_id", text), ("user_id", text), ("time", time), ("query", text)]
    search.append(("item_id", pa.list_(text)))
    if config.search.columns.initial_score is not None:
        search.append(("initial_score", pa.list_(pa.float32())))
    search.append(("arrived_at", time))
    search += _features("context", config.search.context)
    act = [("request_id", text), ("user_id", text), ("item_id", text), ("time", time)]
    act.append(("arrived_at", time))
    found = {SEARCH: search}
    if config.click is not None:
        found[CLICK] = act
    if config.conversion is not None:
        found[CONVERSION] = [*act, ("kind", text)]
    if config.item is not None:
        found[ITEM] = [("item_id", text), ("valid_from", time)]
        found[ITEM] += _features("item", config.item.features)
    if config.user is not None:
        found[USER] = [("user_id", text), ("valid_from", time)]
        found[USER] += _features("user", config.user.features)
    return {kind: pa.schema(columns) for kind, columns in found.items()}


def columns_of(kind: str, config: EventsConfig) -> dict[str, str]:
    """Canonical column of a table that the mapping has -> what the team calls it."""
    table = getattr(config, kind)
    found = {
        name: column for name, column in table.columns.model_dump().items() if column is not None
    }
    group = "context" if kind == SEARCH else kind
    features: dict[str, FeatureColumn] = getattr(
        table, "context" if kind == SEARCH else "features", {}
    )
    for name, feature in features.items():
        found[f"{group}_{name}"] = name if feature.column is None else feature.column
    return found


def _features(group: str, features: dict[str, FeatureColumn]) -> list[tuple[str, pa.DataType]]:
    return [(f"{group}_{name}", _TYPES[feature.type]) for name, feature in features.items()]
