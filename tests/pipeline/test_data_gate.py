"""The data gate on spoilt logs: each fault is named, and nothing else is."""

from __future__ import annotations

import itertools
import json
import logging
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow_data_validation as tfdv
from google.protobuf import text_format
from log_statistics import (
    Rows,
    cut_off,
    findings,
    flip_conversions,
    flip_labels,
    renamed,
    retyped,
    rewrite,
    shuffle_items,
    split_table,
    spoilt,
    spoilt_throughout,
    statistics,
)
from tensorflow_data_validation.statistics.stats_impl import generate_statistics_in_memory
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2
from tfx_bsl.tfxio.tensor_representation_util import InferTensorRepresentationsFromMixedSchema

from piano_tf.data import cpcd, jdsearch, lastfm
from piano_tf.data.logs import check_log, read_spec, write_log
from piano_tf.data.splits import ByShare
from piano_tf.errors import ConfigError, LogError
from piano_tf.features import SPEC_FILE, SPLITS, Axis, FeatureSpec
from piano_tf.simulation.logs import SPEC as SIMULATED
from tfx_pipeline.configs import DataLimits, PipelineConfig, Shift, environment
from tfx_pipeline.gates import identity
from tfx_pipeline.gates.anomalies import told_of_comparison
from tfx_pipeline.gates.data import (
    DRIFT,
    HELD_OUT_SKEW,
    SKEW,
    DataError,
    against_schema,
    judge,
)
from tfx_pipeline.gates.findings import Finding
from tfx_pipeline.gates.shift import (
    click_rate,
    conversion_shift,
    conversions_per_click,
    history_length,
    item_distance,
)
from tfx_pipeline.schema import contract_schema, curated_schema, read_schema, schema_file

# Where it shows that a split differs from the others, and from the last accepted run.
SHOWS = {"train": {SKEW, DRIFT}, "validation": {SKEW, HELD_OUT_SKEW}, "test": {HELD_OUT_SKEW}}
PUBLISHED = Path(__file__).parents[2].parent / "shared" / "data"


class Sample(NamedTuple):
    """A good log of a dataset with a schema of its own.

    Attributes:
      dataset: Its name.
      log: The folder.
      limits: Those that it keeps.
      foreign: Column -> a value outside the schema.
      gone: An item feature that the schema asks for.
    """

    dataset: str
    log: Path
    limits: DataLimits
    foreign: dict[str, Any]
    gone: str


@pytest.fixture(scope="module", params=["simulated", "cpcd", "jdsearch"])
def sample(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """The simulated log, or one that an adapter writes from its published sample."""
    dataset = request.param
    if dataset == "simulated":
        foreign = {"item_language": "english", "item_popularity": 100.0, "history_age": -1.0}
        return Sample(dataset, request.getfixturevalue("logs"), DataLimits(), foreign, gone="album")
    published = PUBLISHED / dataset
    if not published.is_dir():
        pytest.skip(f"needs the published sample of {dataset} in {published}")
    log = tmp_path_factory.mktemp(dataset) / "log"
    if dataset == "cpcd":
        source = cpcd.read(published)
        write_log(source, log, source.rule)
        # Conversations have hardly a track in common.
        limits = DataLimits(skew=Shift(items=1.0))
        foreign = {"timestamp": 1_700_000_000, "initial_score": -1.0, "history_age": 11.0}
        return Sample(dataset, log, limits, foreign, gone="release")
    write_log(jdsearch.read(published), log, ByShare(1 / 3, 1 / 3))
    log = spoilt_throughout(log, log.parent, ask_the_same)
    # Three lists, one a split.
    limits = DataLimits(skew=Shift(items=1.0, history_length=1000.0, click_rate=1000.0))
    foreign = {"timestamp": 2**32, "initial_score": -1.0, "history_age": 401.0}
    return Sample(dataset, log, limits, foreign, gone="shop")


def ask_the_same(rows: Rows) -> None:
    """One query for all: those of three lists differ by the whole of what they may."""
    for row in rows:
        row["query"] = "1"


def named(found: list[Finding]) -> set[tuple[str, str]]:
    return {(finding.column, finding.where) for finding in found}


def told(found: list[Finding], column: str) -> tuple[str, str]:
    """Rule and value of the one finding about a column."""
    ((rule, value),) = ((one.rule, one.value) for one in found if one.column == column)
    return rule, value


def test_a_clean_log_keeps_every_rule_alone_and_after_itself(sample: Sample) -> None:
    check_log(sample.log)
    assert findings(sample.log, before=sample.log, limits=sample.limits) == []


def test_ids_shuffled_against_their_rows_are_named(logs: Path, tmp_path: Path) -> None:
    found = findings(spoilt(logs, tmp_path / "log", "validation", shuffle_items))
    assert ("item_artist", "validation") in named(found)
    assert {where for _, where in named(found)} == {"validation"}
    assert all("'item_id'" in finding.rule for finding in found)


def test_listeners_shuffled_against_their_rows_are_named(logs: Path, tmp_path: Path) -> None:
    def change(rows: Rows) -> None:
        ids = [row["user_id"] for row in rows]
        for row, other in zip(rows, np.random.default_rng(0).permutation(ids), strict=True):
            row["user_id"] = str(other)

    found = findings(spoilt(logs, tmp_path / "log", "train", change))
    assert ("user_country", "train") in named(found)
    assert {column for column, _ in named(found)} <= {"user_country", "user_language"}


def test_ids_shuffled_in_histories_are_named(logs: Path, tmp_path: Path) -> None:
    found = findings(
        spoilt(logs, tmp_path / "log", "test", lambda rows: shuffle_items(rows, "history_item_id"))
    )
    assert named(found) == {
        (f"history_item_{name}", "test") for name in ("artist", "genre", "mood")
    }
    assert all("'history_item_id'" in finding.rule for finding in found)


def test_items_that_bear_other_ids_than_before_are_named(logs: Path, tmp_path: Path) -> None:
    """Renamed throughout, ids agree with their features; but other ids are popular now."""

    def change(rows: Rows) -> None:
        for row in rows:
            row["item_id"] = [f"new-{item}" for item in row["item_id"]]

    found = findings(spoilt(logs, tmp_path / "log", "train", change), before=logs)
    assert named(found) == {("item_id", SKEW), ("item_id", DRIFT)}


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_flipped_labels_are_named(logs: Path, tmp_path: Path, split: str) -> None:
    found = named(findings(spoilt(logs, tmp_path / "log", split, flip_labels), before=logs))
    assert ("click", split) in found
    assert {where for column, where in found if column == "click"} == {split, *SHOWS[split]}
    conversions = {where for column, where in found if column == "conversion"}
    assert conversions == {where for column, where in found if column == "click"} - {split}
    assert {column for column, _ in found} <= {"click", "conversion"}


def test_conversions_flipped_in_all_splits_are_named_by_drift(logs: Path, tmp_path: Path) -> None:
    """The clicks of a day, and its splits among each other, are as they were."""
    flipped = spoilt_throughout(logs, tmp_path, flip_conversions)
    check_log(flipped)
    found = findings(flipped, before=logs)
    assert named(found) == {("conversion", DRIFT)}
    assert told(found, "conversion") == (
        "odds after a click within a factor of 1.5, beyond noise (data.drift.conversion_odds)",
        f"{conversions_per_click(statistics(logs, 'train')):.4g} and "
        f"{conversions_per_click(statistics(flipped, 'train')):.4g} per click",
    )


@pytest.mark.parametrize(("split", "expected"), SHOWS.items())
def test_conversions_flipped_in_one_split_are_named_by_skew(
    logs: Path, tmp_path: Path, split: str, expected: set[str]
) -> None:
    flipped = spoilt(logs, tmp_path / "log", split, flip_conversions)
    assert named(findings(flipped, before=logs)) == {("conversion", where) for where in expected}


def test_conversions_that_are_lost_are_named(logs: Path, tmp_path: Path) -> None:
    def change(rows: Rows) -> None:
        for row in rows:
            row["conversion"] = [0 for _ in row["conversion"]]

    found = findings(spoilt_throughout(logs, tmp_path, change), before=logs)
    assert named(found) == {("conversion", DRIFT)}


def test_histories_that_are_lost_are_named(logs: Path, tmp_path: Path) -> None:
    def change(rows: Rows) -> None:
        for row in rows[10:]:
            for column in row:
                if column.startswith("history_"):
                    row[column] = []

    found = findings(spoilt(logs, tmp_path / "log", "validation", change))
    assert named(found) == {("history_item_id", where) for where in SHOWS["validation"]}


def test_one_query_of_all_is_named(logs: Path, tmp_path: Path) -> None:
    def change(rows: Rows) -> None:
        for row in rows[::2]:
            row["query"] = "faze"

    found = findings(spoilt(logs, tmp_path / "log", "validation", change))
    assert named(found) == {("query", where) for where in SHOWS["validation"]}
    assert "faze" in found[0].value


def other_popularity(rows: Rows) -> None:
    """All candidates as unpopular as the schema allows."""
    for row in rows:
        row["item_popularity"] = [-30.0 for _ in row["item_popularity"]]


@pytest.mark.parametrize(("split", "expected"), SHOWS.items())
def test_popularities_that_shift_are_named(
    logs: Path, tmp_path: Path, split: str, expected: set[str]
) -> None:
    found = findings(spoilt(logs, tmp_path / "log", split, other_popularity), before=logs)
    assert named(found) == {("item_popularity", where) for where in expected}
    assert all("Jensen-Shannon divergence" in one.rule for one in found)


def test_queries_that_drift_are_named(logs: Path, tmp_path: Path) -> None:
    def change(rows: Rows) -> None:
        for row in rows[::2]:
            row["query"] = "faze"

    found = findings(spoilt_throughout(logs, tmp_path, change), before=logs)
    assert named(found) == {("query", DRIFT)}
    assert "faze" in found[0].value


def test_histories_of_another_length_than_before_are_named(logs: Path, tmp_path: Path) -> None:
    def change(rows: Rows) -> None:
        for row in rows:
            for column in row:
                if column.startswith("history_"):
                    row[column] = row[column][:1]

    found = findings(spoilt_throughout(logs, tmp_path, change), before=logs)
    assert named(found) == {("history_item_id", DRIFT)}
    assert told(found, "history_item_id")[0] == (
        "mean length within a factor of 2.5 (data.drift.history_length)"
    )


def test_values_outside_the_schema_are_named(sample: Sample, tmp_path: Path) -> None:
    def change(rows: Rows) -> None:
        for row in rows:
            for column, value in sample.foreign.items():
                is_list = isinstance(row[column], list)
                row[column] = [value] * len(row[column]) if is_list else value

    bad = spoilt(sample.log, tmp_path / "log", "test", change)
    found = [one for one in findings(bad, limits=sample.limits) if one.where == "test"]
    assert {one.column for one in found} == {*sample.foreign}
    for column, value in sample.foreign.items():
        rule, got = told(found, column)
        if isinstance(value, str):
            assert rule.startswith("one of '")
            assert got == f"{value!r} (100 % of values)"
        else:
            assert re.fullmatch(r"at (least|most) \S+ \(schema\)", rule)
            assert float(got) == value


def test_a_list_longer_than_the_schema_allows_is_named(sample: Sample, tmp_path: Path) -> None:
    longest = {one.name: one.value_count.max for one in curated(sample.dataset)}["item_id"]

    def change(rows: Rows) -> None:
        for column, values in rows[0].items():
            if isinstance(values, list) and not column.startswith("history_"):
                rows[0][column] = values[:1] * (longest + 1)

    bad = spoilt(sample.log, tmp_path / "log", "test", change)
    # Its values may make what is clicked, or asked, another thing than in the other splits.
    found = [one for one in findings(bad, limits=sample.limits) if one.where != HELD_OUT_SKEW]
    spec = read_spec(sample.log)
    candidates = {column.name for column in spec.columns() if column.axis is Axis.ITEM}
    assert named(found) >= {(column, "test") for column in candidates}
    assert {where for _, where in named(found)} == {"test"}
    for column in candidates - {"item_id"}:
        assert told(found, column) == (f"at most {longest} values (schema)", str(longest + 1))


@pytest.mark.parametrize("gone", [True, False])
def test_columns_that_come_or_go_are_named(sample: Sample, tmp_path: Path, gone: bool) -> None:
    """The log and its feature spec agree, so that the contract has nothing against it."""
    folder = Path(shutil.copytree(sample.log, tmp_path / "log"))
    spec = json.loads((folder / SPEC_FILE).read_text())
    if gone:
        del spec["item"][sample.gone]
        spec["history_item"].pop(sample.gone, None)
    else:
        spec["item"]["tempo"] = "float"
    (folder / SPEC_FILE).write_text(json.dumps(spec))
    known = {column.name for column in read_spec(folder).columns()}

    def change(lists: pa.Table) -> pa.Table:
        if gone:
            return lists.select([name for name in lists.column_names if name in known])
        tempo = [[1.0] * len(items) for items in lists["item_id"].to_pylist()]
        return lists.append_column("item_tempo", pa.array(tempo, pa.list_(pa.float32())))

    for split in SPLITS:
        rewrite(folder, split, change)
    check_log(folder)
    found = findings(folder, limits=sample.limits)
    column = f"item_{sample.gone}" if gone else "item_tempo"
    assert named(found) == {(column, split) for split in SPLITS}
    rule = "a column" if gone else "no column"
    assert {one.rule for one in found} == {f"{rule} of this name (schema)"}


def test_the_limits_decide(logs: Path, tmp_path: Path) -> None:
    folder = spoilt(logs, tmp_path / "log", "validation", flip_labels)
    anything = DataLimits(
        highest_click_rate=1.0, skew=Shift(click_rate=1000.0, conversion_odds=1000.0)
    )
    assert findings(folder, limits=anything) == []
    nothing = DataLimits(
        drift=Shift(click_rate=1.0, conversion_odds=1.0, history_length=1.0, items=0.0),
        least_identity=1.0,
    )
    assert findings(logs, before=logs, limits=nothing) == []


def test_the_error_names_the_first_finding_and_the_page(caplog: pytest.LogCaptureFixture) -> None:
    found = [Finding("click", "train", "at most 0.5", "0.93"), Finding("query", "train", "a", "b")]
    with caplog.at_level(logging.INFO), pytest.raises(DataError) as error:
        judge(found, "/run/statistics.html")
    assert str(error.value) == (
        "2 rules are broken, first column 'click' in train: got 0.93, expected at most 0.5 "
        "(statistics: /run/statistics.html); the table of all of them is above"
    )
    assert "query   train  a            b" in caplog.messages
    assert caplog.messages[-1] == "statistics: file:///run/statistics.html"
    with pytest.raises(DataError) as error:
        judge(found[:1], "/run/statistics.html")
    assert str(error.value) == (
        "a rule is broken, column 'click' in train: got 0.93, expected at most 0.5 "
        "(statistics: /run/statistics.html)"
    )
    judge([], "/run/statistics.html")


ODD = """
feature {
  name: "text" type: BYTES value_count { min: 1 max: 2 } presence { min_fraction: 1 }
  string_domain { value: "x" value: "y" }
  skew_comparator { infinity_norm { threshold: 0.1 } }
}
feature {
  name: "number" type: FLOAT presence { min_fraction: 0.9 } float_domain { min: -1 max: 1 }
  skew_comparator { jensen_shannon_divergence { threshold: 0.05 } }
}
feature { name: "gone" type: INT presence { min_fraction: 1 } }
"""


def odd(text: list[list[str] | None], number: list[list[float] | None]) -> Any:
    columns = {"text": pa.array(text, pa.list_(pa.string()))}
    columns["number"] = pa.array(number, pa.list_(pa.float32()))
    return generate_statistics_in_memory(pa.RecordBatch.from_pydict(columns))


def test_what_tfdv_finds_is_told_in_words() -> None:
    """In another script too, which TFDV's own words are escaped in."""
    schema = text_format.Parse(ODD, schema_pb2.Schema())
    found = odd(
        [["x", "宇多田"], ["a", "b", "c", "d"], ["宇多田"], None], [[2.5], [-3.25], [0], None]
    )
    plain = odd([["x"]] * 4, [[0.1]] * 4)
    against = tfdv.validate_statistics(found, schema)
    told = [str(one) for one in against_schema(against, found, schema, "train")]
    assert sorted(told) == [
        "column 'gone' in train: got none, expected a column of this name (schema)",
        "column 'number' in train: got -3.25, expected at least -1 (schema)",
        "column 'number' in train: got 2.5, expected at most 1 (schema)",
        "column 'number' in train: got none in 1 of 4 lists, expected a value in at least 90 % of "
        "lists (schema)",
        "column 'text' in train: got '宇多田' (28.6 % of values), 'd' (14.3 % of values), 'c' "
        "(14.3 % of values), 2 more, expected one of 'x', 'y' (schema)",
        "column 'text' in train: got 4, expected at most 2 values (schema)",
        "column 'text' in train: got none in 1 of 4 lists, expected a value in every list (schema)",
    ]
    against = tfdv.validate_statistics(found, schema, serving_statistics=plain)
    assert list(told_of_comparison(against)) == [
        ("number", "Jensen-Shannon divergence at most 0.05 (schema)", "1"),
        ("text", "change in the share of any value at most 0.1 (schema)", "0.8571, of 'x'"),
    ]


# --- measures ---


def test_identity_is_agreement_beyond_chance(logs: Path) -> None:
    """Against the definition, pair by pair."""
    rows = [
        pair
        for row in split_table(logs, "test").slice(0, 40).to_pylist()
        for pair in zip(row["item_id"], row["item_language"], strict=True)
    ]
    same = [
        one[1] == other[1] for one, other in itertools.combinations(rows, 2) if one[0] == other[0]
    ]
    shares = np.array(list(Counter(value for _, value in rows).values())) / len(rows)
    chance = (shares**2).sum()
    expected = (np.mean(same) - chance) / (1 - chance)
    assert expected == 1.0  # a track has one language
    assert identity.identity(logs, "test", "item_id", "item_language") == pytest.approx(expected)


def test_identity_of_a_mixed_feature(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    values = {"user_id": ["a", "a", "a", "b", "b"], "user_country": ["x", "x", "y", "y", "y"]}
    pq.write_table(pa.table(values), tmp_path / "test" / "one.parquet")
    agreement = (2 * 1 + 2 * 1) / (3 * 2 + 2 * 1)
    chance = (2 / 5) ** 2 + (3 / 5) ** 2
    expected = (agreement - chance) / (1 - chance)
    found = identity.identity(tmp_path, "test", "user_id", "user_country")
    assert found == pytest.approx(expected)
    constant = {"user_id": ["a", "a"], "user_country": ["x", "x"]}
    pq.write_table(pa.table(constant), tmp_path / "test" / "one.parquet")
    assert identity.identity(tmp_path, "test", "user_id", "user_country") is None


def test_what_describes_what() -> None:
    assert ("item_id", "item_artist") in set(identity.described(SIMULATED))
    assert ("user_id", "user_country") in set(identity.described(SIMULATED))
    assert ("history_item_id", "history_item_artist") in set(identity.described(SIMULATED))
    assert set(identity.described(lastfm.SPEC)) == {
        ("item_id", "item_tag"),
        ("history_item_id", "history_item_tag"),
    }


def test_measures_are_those_of_the_log(logs: Path) -> None:
    rows = split_table(logs, "train").to_pylist()
    found = statistics(logs, "train")
    clicks = [click for row in rows for click in row["click"]]
    assert click_rate(found) == pytest.approx(np.mean(clicks))
    conversions = [conversion for row in rows for conversion in row["conversion"]]
    assert conversions_per_click(found) == pytest.approx(np.sum(conversions) / np.sum(clicks))
    lengths = [len(row["history_item_id"]) for row in rows]
    assert 0 in lengths
    assert history_length(found) == pytest.approx(np.mean(lengths))
    shares = [
        Counter(item for row in rows for item in row["item_id"])
        for rows in (rows, split_table(logs, "test").to_pylist())
    ]
    expected = sum(
        abs(shares[0][item] / shares[0].total() - shares[1][item] / shares[1].total()) / 2
        for item in {*shares[0], *shares[1]}
    )
    assert item_distance(found, statistics(logs, "test")) == pytest.approx(expected)


def labelled(clicks: int, conversions: int) -> statistics_pb2.DatasetFeatureStatisticsList:
    """Statistics of the labels of 10,000 candidates."""
    columns = "".join(
        f'features {{ path {{ step: "{label}" }} num_stats {{ '
        f"common_stats {{ tot_num_values: 10000 }} mean: {count / 10000} }} }} "
        for label, count in (("click", clicks), ("conversion", conversions))
    )
    return text_format.Parse(
        f"datasets {{ {columns} }}", statistics_pb2.DatasetFeatureStatisticsList()
    )


def test_the_odds_of_conversions_count_beyond_noise() -> None:
    half, third = labelled(6000, 3000), labelled(6000, 2000)
    shift = conversion_shift(half, third)
    assert 1.75 < shift < 2.0, "twice the odds, less what chance explains of 6,000 clicks"
    assert conversion_shift(third, half) == pytest.approx(shift)
    assert conversion_shift(labelled(60, 30), labelled(60, 20)) == 1.0
    assert conversion_shift(labelled(600, 60), labelled(600, 0)) > 50.0
    assert conversion_shift(labelled(600, 12), labelled(60, 0)) == 1.0
    for none in (labelled(0, 0), labelled(600, 0)):
        assert conversion_shift(none, none) == 1.0
        assert conversions_per_click(none) == 0.0
    assert conversion_shift(labelled(600, 600), labelled(600, 600)) == 1.0


@pytest.mark.parametrize("size", [(300, 37), (850, 100), (5000, 600)])
@pytest.mark.parametrize("share", [0.01, 0.2, 0.65])
def test_chance_alone_hardly_moves_the_odds(size: tuple[int, int], share: float) -> None:
    """Clicks of a training and a validation split that convert alike."""
    rng = np.random.default_rng(0)
    pairs = [[labelled(n, int(rng.binomial(n, share))) for n in size] for _ in range(500)]
    assert np.mean([conversion_shift(*pair) > 1.5 for pair in pairs]) <= 0.01


def items(total: int, **counts: int) -> statistics_pb2.DatasetFeatureStatisticsList:
    """Statistics of item ids, of which the most frequent are listed."""
    text = "".join(
        f'top_values {{ value: "{item}" frequency: {count} }} ' for item, count in counts.items()
    )
    text = f"common_stats {{ tot_num_values: {total} }} {text}"
    return text_format.Parse(
        f'datasets {{ features {{ path {{ step: "item_id" }} string_stats {{ {text} }} }} }}',
        statistics_pb2.DatasetFeatureStatisticsList(),
    )


def test_the_distance_of_items_does_not_overstate_what_is_not_listed() -> None:
    assert item_distance(items(10, a=5, b=5), items(10, c=5, d=5)) == 1.0
    assert item_distance(items(10, a=5, b=5), items(10, a=10)) == pytest.approx(0.5)
    # c and d may hold as much of the left side as b does.
    left, right = items(10, a=5, b=2), items(10, c=5, d=5)
    assert item_distance(left, right) == pytest.approx(max(0.7, 2 * (0.5 - 0.2)))


# --- schemas ---


def curated(dataset: str) -> list[schema_pb2.Feature]:
    """The columns of a dataset's own schema."""
    text = curated_schema(dataset).read_text()
    return list(text_format.Parse(text, schema_pb2.Schema()).feature)


def test_the_schema_of_lastfm_takes_what_its_adapter_writes(tmp_path: Path) -> None:
    """A part of the published assignments: those of every tenth listener.

    Too few for the comparators, whose bounds are of the whole log.
    """
    published = PUBLISHED / "lastfm"
    if not published.is_dir():
        pytest.skip(f"needs the HetRec 2011 Last.fm files in {published}")
    part = tmp_path / "part"
    part.mkdir()
    shutil.copy(published / "tags.dat", part)
    header, *lines = (published / "user_taggedartists.dat").read_bytes().splitlines()
    few = [line for line in lines if int(line.split(b"\t")[0]) % 10 == 0]
    (part / "user_taggedartists.dat").write_bytes(b"\n".join([header, *few]) + b"\n")
    log = tmp_path / "log"
    write_log(lastfm.read(part), log, ByShare())
    check_log(log)
    assert [one for one in findings(log) if one.rule.endswith("(schema)")] == []


@pytest.mark.parametrize(
    ("features", "compared"),
    [
        (SIMULATED, {"query", "item_popularity"}),
        (lastfm.SPEC, {"query", "item_popularity"}),
        (cpcd.SPEC, {"query"}),
        (jdsearch.SPEC, {"query"}),
    ],
    ids=lambda one: one.dataset if isinstance(one, FeatureSpec) else "",
)
def test_a_curated_schema_is_within_the_contract(features: FeatureSpec, compared: set[str]) -> None:
    strictly = {one.name: one for one in curated(features.dataset)}
    contract = {one.name: one for one in contract_schema(features).feature}
    assert list(strictly) == list(contract)
    for name, loose in contract.items():
        strict = strictly[name]
        assert strict.type == loose.type, name
        assert strict.presence.min_fraction >= loose.presence.min_fraction, name
        assert strict.value_count.min >= loose.value_count.min, name
        assert strict.value_count.max > 0, f"{name}: without a bound on its length"
        if loose.HasField("int_domain"):
            assert strict.int_domain == loose.int_domain, name
        assert set(strict.string_domain.value) <= set(loose.string_domain.value) or (
            not loose.string_domain.value
        ), name
        assert not strict.HasField("shape"), f"{name}: a shape would make it dense in Transform"
    for comparator in ("skew_comparator", "drift_comparator"):
        assert {name for name, one in strictly.items() if one.HasField(comparator)} == compared


def test_any_other_log_is_held_to_the_contract(logs: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(logs, tmp_path / "log"))
    spec = read_spec(folder).model_copy(update={"dataset": "shop"})
    (folder / SPEC_FILE).write_text(spec.model_dump_json())
    assert findings(folder) == []

    def change(rows: Rows) -> None:
        rows[0]["history_age"] = [-2.0 for _ in rows[0]["history_age"]]

    assert named(findings(spoilt(folder, tmp_path / "bad", "validation", change))) == {
        ("history_age", "validation")
    }


SHOP = FeatureSpec(dataset="shop", item={"price": "float"})
# The lifecycle stages of which tfx_bsl makes no tensor.
LEFT_OUT = (
    schema_pb2.DEPRECATED,
    schema_pb2.DISABLED,
    schema_pb2.PLANNED,
    schema_pb2.ALPHA,
    schema_pb2.DEBUG_ONLY,
    schema_pb2.VALIDATION_DERIVED,
)


def own_schema(path: Path, change: Callable[[dict[str, schema_pb2.Feature]], None]) -> Path:
    """A team's own file: the contract's schema of a shop, changed."""
    rules = {one.name: one for one in contract_schema(SHOP).feature}
    change(rules)
    text = text_format.MessageToString(schema_pb2.Schema(feature=[*rules.values()]))
    path.write_text(text)
    return path


def test_a_teams_own_schema_takes_the_place_of_the_other(logs: Path, tmp_path: Path) -> None:
    text = curated_schema("simulated").read_text()
    own = tmp_path / "own.pbtxt"
    own.write_text(text.replace('value: "desktop" ', ""))
    found = findings(logs, own_schema=own)
    assert named(found) == {("context_device", split) for split in SPLITS}
    assert all("desktop" in one.value for one in found)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda rules: rules.pop("item_price"), "'item_price': missing, and the log has it"),
        (
            lambda rules: rules.update(item_cost=schema_pb2.Feature(name="item_cost")),
            "'item_cost': the log has no such column",
        ),
        (
            lambda rules: rules.update(again=rules["item_price"]),
            "'item_price': named twice",
        ),
        (
            lambda rules: setattr(rules["item_price"], "type", schema_pb2.BYTES),
            "'item_price': got type BYTES, expected FLOAT",
        ),
        (
            lambda rules: rules["query"].shape.dim.add(size=1),
            "'query': got a shape, expected value_count: lists have lengths of their own",
        ),
        (
            lambda rules: rules["item_price"].value_counts.value_count.add(min=1),
            "'item_price': got value_counts, expected value_count: lists are not nested",
        ),
        (
            lambda rules: setattr(rules["item_price"], "deprecated", True),
            "'item_price': deprecated, so that Transform would leave it out, and the log has it",
        ),
        *(
            (
                lambda rules, stage=stage: setattr(rules["query"], "lifecycle_stage", stage),
                f"'query': got lifecycle_stage {schema_pb2.LifecycleStage.Name(stage)}, which "
                "Transform leaves out, expected one of UNKNOWN_STAGE, BETA, PRODUCTION",
            )
            for stage in LEFT_OUT
        ),
    ],
)
def test_a_schema_of_other_columns_is_refused(
    tmp_path: Path, change: Callable[[dict[str, schema_pb2.Feature]], None], sentence: str
) -> None:
    own = own_schema(tmp_path / "own.pbtxt", change)
    with pytest.raises(ConfigError) as error:
        schema_file(SHOP, tmp_path / "schemas", own)
    assert str(error.value) == f"schema {own}: column {sentence}"
    assert [*tmp_path.iterdir()] == [own]


@pytest.mark.parametrize("stage", sorted(schema_pb2.LifecycleStage.values()))
def test_the_stages_left_out_are_those_that_make_no_tensor(stage: int, tmp_path: Path) -> None:
    def change(rules: dict[str, schema_pb2.Feature]) -> None:
        rules["query"].lifecycle_stage = stage

    read = read_schema(own_schema(tmp_path / "own.pbtxt", change))
    tensors = InferTensorRepresentationsFromMixedSchema(read)
    assert ("query" not in tensors) == (stage in LEFT_OUT)


@pytest.mark.parametrize(
    "said",
    [
        'tensor_representation_group { key: "" value { } }',
        "represent_variable_length_as_ragged: true",
        'sparse_feature { name: "query" }',
        'weighted_feature { name: "query" }',
    ],
)
def test_how_columns_become_tensors_is_not_for_a_schema_to_say(said: str, tmp_path: Path) -> None:
    own = own_schema(tmp_path / "own.pbtxt", lambda rules: None)
    own.write_text(own.read_text() + said + "\n")
    with pytest.raises(ConfigError) as error:
        schema_file(SHOP, tmp_path / "schemas", own)
    assert str(error.value) == (
        f"schema {own}: got {re.split('[: ]', said)[0]}, expected none: Transform reads columns "
        "by their type and value_count"
    )


@pytest.mark.parametrize(
    "content",
    [
        b"feature { name: ",
        b'{"feature": []}',
        b"\xff\xfe",
        b"generate_legacy_feature_spec: true",  # the public format has no such field
    ],
)
def test_a_file_that_is_no_schema_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    own = tmp_path / "own.pbtxt"
    own.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        PipelineConfig.from_environment(
            environment(logs=tmp_path, home=tmp_path / "run", schema=own)
        )
    assert str(error.value).startswith(f"schema {own}: no TensorFlow Metadata schema in text (")
    assert len(str(error.value).splitlines()) == 1


def test_a_schema_that_says_something_else_has_another_name(tmp_path: Path) -> None:
    """TFX's cache goes by the name."""
    one = schema_file(FeatureSpec(dataset="shop"), tmp_path)
    other = schema_file(FeatureSpec(dataset="shop", initial_score=True), tmp_path)
    assert one != other
    assert schema_file(FeatureSpec(dataset="shop"), tmp_path) == one


# --- the contract, before any statistic ---


@pytest.mark.parametrize(
    ("change", "column", "told"),
    [
        (renamed, "item_genres", "unknown column; dataset 'simulated' declares "),
        (retyped, "item_age", "got type list<item: string>, expected list<item: float>"),
    ],
)
def test_a_schema_that_changed_is_named(
    logs: Path, tmp_path: Path, change: Callable[[pa.Table], pa.Table], column: str, told: str
) -> None:
    folder = Path(shutil.copytree(logs, tmp_path / "log"))
    file = rewrite(folder, "validation", change)
    with pytest.raises(LogError) as error:
        check_log(folder)
    assert str(error.value).startswith(f"{file}, column {column!r}")
    assert told in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_truncated_file_is_named(logs: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(logs, tmp_path / "log"))
    file = cut_off(folder, "test")
    with pytest.raises(LogError) as error:
        check_log(folder)
    assert str(error.value).startswith(f"{file}: ")
    assert len(str(error.value).splitlines()) == 1
