"""What a log is held to beyond its columns and types, as TensorFlow Metadata's schema.

A dataset that has a file in `schemas/` is held to that, written by hand. Any other is held to what
its feature spec and the contract of `piano_tf.features` say. A file that a team names itself takes
the place of either. Nothing is inferred from the data: a
schema that was would take whatever happens to be there, a poisoned log's too, for the rule.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from piano_tf.errors import ConfigError
from piano_tf.features import ACTIONS, LABELS, Axis, Column, FeatureSpec
from piano_tf.files import replacing

_CURATED = Path(__file__).parent / "schemas"
_TYPES = {"string": schema_pb2.BYTES, "float": schema_pb2.FLOAT, "int64": schema_pb2.INT}
# The largest difference in the share of one query; small splits differ by some hundredths.
_QUERY_SHIFT = 0.2
# Transform leaves out columns in any other stage, and those that are deprecated.
_STAGES = (schema_pb2.UNKNOWN_STAGE, schema_pb2.BETA, schema_pb2.PRODUCTION)
# By what else a schema can say which tensors columns become.
_TENSORS = (
    "tensor_representation_group",
    "represent_variable_length_as_ragged",
    "sparse_feature",
    "weighted_feature",
)


def curated_schema(dataset: str) -> Path:
    """The file of a dataset's own schema, which need not be there."""
    return _CURATED / f"{dataset}.pbtxt"


def contract_schema(features: FeatureSpec) -> schema_pb2.Schema:
    """The schema of every log with these features.

    >>> [click] = [one for one in contract_schema(FeatureSpec(dataset="shop")).feature
    ...            if one.name == "click"]
    >>> click.int_domain.min, click.int_domain.max, click.value_count.min
    (0, 1, 1)
    """
    return schema_pb2.Schema(feature=[_feature(column) for column in features.columns()])


def _feature(column: Column) -> schema_pb2.Feature:
    feature = schema_pb2.Feature(name=column.name, type=_TYPES[column.type])
    feature.value_count.min = 1
    if column.axis is Axis.LIST:
        feature.value_count.max = 1
    # ExampleGen leaves out what is "", 0 or an empty list; these cannot be any of it.
    if column.axis is Axis.ITEM or column.name == "list_id":
        feature.presence.CopyFrom(schema_pb2.FeaturePresence(min_fraction=1.0, min_count=1))
    if column.name in LABELS:
        feature.int_domain.CopyFrom(schema_pb2.IntDomain(min=0, max=1))
    if column.name == "history_action":
        feature.string_domain.value.extend(ACTIONS)
    if column.name == "history_age":
        feature.float_domain.CopyFrom(schema_pb2.FloatDomain(min=0.0))
    if column.name == "query":
        for comparator in (feature.skew_comparator, feature.drift_comparator):
            comparator.infinity_norm.threshold = _QUERY_SHIFT
    return feature


def read_schema(path: Path) -> schema_pb2.Schema:
    """A schema in Protocol Buffers' text format.

    Raises:
      ConfigError: There is no such file, or it holds something else.
    """
    try:
        return text_format.Parse(path.read_bytes(), schema_pb2.Schema())
    except OSError as error:
        raise ConfigError(f"schema {path}: cannot be read ({error.strerror})") from error
    except (text_format.ParseError, UnicodeDecodeError) as error:
        told = " ".join(str(error).split())
        raise ConfigError(
            f"schema {path}: no TensorFlow Metadata schema in text ({told})"
        ) from error


def require_columns(path: Path, features: FeatureSpec) -> None:
    """Finds out, before long work, whether a team's own schema is of the columns of a log.

    Args:
      path: Its file.
      features: The log's columns.

    Raises:
      ConfigError: It cannot be read; or a column is missing, unknown, named twice or of another
        type, or has a shape or nested lengths, or would be left out; or it says how columns become
        tensors.
    """
    expected = {column.name: column for column in features.columns()}
    seen: set[str] = set()
    schema = read_schema(path)
    for name in _TENSORS:
        if getattr(schema, name):
            raise ConfigError(
                f"schema {path}: got {name}, expected none: Transform reads columns by their type "
                "and value_count"
            )
    for feature in schema.feature:
        fault = _fault(feature, expected.get(feature.name))
        if feature.name in seen:
            fault = "named twice"
        if fault is not None:
            raise ConfigError(f"schema {path}: column {feature.name!r}: {fault}")
        seen.add(feature.name)
    for name in expected:
        if name not in seen:
            raise ConfigError(f"schema {path}: column {name!r}: missing, and the log has it")


def _fault(feature: schema_pb2.Feature, column: Column | None) -> str | None:
    """Why Transform could not read a column by its rule."""
    if column is None:
        return "the log has no such column"
    if feature.type != _TYPES[column.type]:
        got, wanted = map(schema_pb2.FeatureType.Name, (feature.type, _TYPES[column.type]))
        return f"got type {got}, expected {wanted}"
    if feature.HasField("shape"):
        return "got a shape, expected value_count: lists have lengths of their own"
    if feature.HasField("value_counts"):
        return "got value_counts, expected value_count: lists are not nested"
    if feature.deprecated:
        return "deprecated, so that Transform would leave it out, and the log has it"
    if feature.lifecycle_stage not in _STAGES:
        got = schema_pb2.LifecycleStage.Name(feature.lifecycle_stage)
        expected = ", ".join(map(schema_pb2.LifecycleStage.Name, _STAGES))
        return f"got lifecycle_stage {got}, which Transform leaves out, expected one of {expected}"
    return None


def schema_file(features: FeatureSpec, folder: Path, own: Path | None = None) -> Path:
    """Writes the schema that a log is held to; its name changes with what it says.

    TFX's cache knows a schema by the name of its file alone.

    Args:
      features: The log's columns.
      folder: Where to write.
      own: A team's own file, if it has one.

    Raises:
      ConfigError: That cannot be used for this log.
    """
    if own is not None:
        require_columns(own, features)
    chosen = own or curated_schema(features.dataset)
    if chosen.exists():
        text = chosen.read_text(encoding="utf-8")
    else:
        text = text_format.MessageToString(contract_schema(features))
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = folder / f"{features.dataset}-{digest}.pbtxt"
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path
