"""The search-list contract: columns, their order and their types, and specs as JSON."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piano_tf.config import EncodingConfig
from piano_tf.errors import ConfigError
from piano_tf.features import LABELS, Axis, FeatureSpec, InputSpec

names = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(lambda name: name != "id")
features = st.dictionaries(names, st.sampled_from(["string", "float"]), max_size=4)


@st.composite
def specs(draw: st.DrawFn) -> FeatureSpec:
    item = draw(features)
    known = sorted(item)
    past = draw(st.lists(st.sampled_from(known), unique=True)) if known else []
    return FeatureSpec(
        dataset=draw(st.text(max_size=8)),
        initial_score=draw(st.booleans()),
        item=item,
        user=draw(features),
        context=draw(features),
        history_item={name: item[name] for name in past},
    )


@given(specs())
@settings(max_examples=40)
def test_spec_survives_json(spec: FeatureSpec) -> None:
    again = FeatureSpec.from_json(spec.model_dump_json())
    assert again == spec
    assert again.columns() == spec.columns()
    inputs = InputSpec(features=spec, encoding=EncodingConfig(), rows={"query": 3})
    assert InputSpec.from_json(inputs.model_dump_json()) == inputs


@given(specs())
@settings(max_examples=40)
def test_columns_are_unique_and_labels_are_last_and_optional(spec: FeatureSpec) -> None:
    columns = [column.name for column in spec.columns()]
    assert len(set(columns)) == len(columns)
    assert tuple(columns[-2:]) == LABELS
    assert [column.name for column in spec.columns(labels=False)] == columns[:-2]
    assert spec.arrow_schema.names == columns
    assert ("initial_score" in columns) == spec.initial_score


@given(specs())
@settings(max_examples=40)
def test_every_value_has_one_table_and_history_shares_the_items(spec: FeatureSpec) -> None:
    strings, floats = spec.tables("string"), spec.tables("float")
    assert not strings.keys() & floats.keys()
    tables = {
        column.name: table
        for found in (strings, floats)
        for table, columns in found.items()
        for column in columns
    }
    assert tables["history_item_id"] == tables["item_id"] == "item_id"
    assert tables["history_query"] == tables["query"] == "query"
    for name, _ in spec.history_item:
        assert tables[f"history_item_{name}"] == tables[f"item_{name}"]
    bare = {"list_id", "timestamp", "history_action", "history_age"}
    assert {c.name for c in spec.columns(labels=False)} - tables.keys() == bare


def test_types_in_parquet() -> None:
    spec = FeatureSpec(dataset="shop", item={"artist": "string"}, context={"hour": "float"})
    types = {field.name: field.type for field in spec.arrow_schema}
    assert types["timestamp"] == pa.int64()
    assert types["context_hour"] == pa.float32()
    assert types["item_artist"] == types["history_query"] == pa.list_(pa.string())
    assert types["history_age"] == pa.list_(pa.float32())
    assert types["click"] == types["conversion"] == pa.list_(pa.int64())
    axes = {column.name: column.axis for column in spec.columns()}
    assert {name for name, axis in axes.items() if axis is Axis.HISTORY} == {
        "history_query",
        "history_item_id",
        "history_action",
        "history_age",
    }


@pytest.mark.parametrize(
    ("json", "said"),
    [
        ('{"dataset": "d", "items": {}}', "items: got {}; expected one of dataset"),
        ('{"item": {}}', "dataset"),
        (
            '{"dataset": "d", "item": {"artist": "text"}}',
            "feature 'artist': got type 'text', expected 'string' or 'float'",
        ),
        ('{"dataset": "d", "item": {"Artist": "string"}}', "item feature 'Artist'"),
        ('{"dataset": "d", "user": {"id": "string"}}', "user feature 'id'"),
        ('{"dataset": "d", "context": {"": "string"}}', "context feature ''"),
        ('{"dataset": "d", "item": {"a\\n": "string"}}', "item feature"),
        ('{"dataset": "d", "history_item": {"artist": "string"}}', "history_item feature 'artist'"),
        (
            '{"dataset": "d", "item": {"year": "float"}, "history_item": {"year": "string"}}',
            "history_item feature 'year'",
        ),
    ],
)
def test_wrong_spec_is_one_sentence(json: str, said: str) -> None:
    with pytest.raises(ConfigError) as fault:
        FeatureSpec.from_json(json)
    assert said in str(fault.value)
    assert "\n" not in str(fault.value)


def test_a_feature_declared_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="declared twice"):
        FeatureSpec(dataset="d", item=(("artist", "string"), ("artist", "float")))


def test_spec_cannot_be_changed() -> None:
    spec = FeatureSpec(dataset="d", item={"artist": "string"})
    with pytest.raises(ValueError, match="frozen"):
        spec.item = ()
    assert isinstance(spec.item, tuple)
    assert hash(spec) == hash(FeatureSpec(dataset="d", item={"artist": "string"}))
