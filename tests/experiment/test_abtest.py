"""Policies in a small world: the truth above the first stage, the experiment around the truth."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats
from small_world import SETTINGS, Oracle

from piano_tf.errors import ConfigError, PianoError
from piano_tf.experiment import ExperimentConfig, PolicyConfig, abtest
from piano_tf.experiment.measures import CTR, MEASURES, sums
from piano_tf.experiment.policies import FirstStage, ListSelection, Request, Sorted, by_score
from piano_tf.experiment.results import (
    Experiment,
    aa_table,
    bucket_table,
    slice_table,
    truth_table,
)
from piano_tf.experiment.traffic import SCHEMA, past_of_the_log, run
from piano_tf.simulation import SimulationConfig, World, simulate
from piano_tf.simulation.draws import logistic
from piano_tf.simulation.logs import ListColumns
from piano_tf.simulation.past import Past
from piano_tf.simulation.searches import searches_of

DAYS = range(30, 35)


@pytest.fixture(scope="module")
def settings() -> SimulationConfig:
    return SETTINGS


@pytest.fixture(scope="module")
def world(settings: SimulationConfig) -> World:
    return World(settings)


@pytest.fixture(scope="module")
def logged(world: World) -> tuple[Past, pa.Table]:
    return past_of_the_log(world)


class Truth:
    """Sorts by what listeners want, which only the world knows."""

    def __init__(self, world: World) -> None:
        self._world = world

    def order(self, request: Request) -> np.ndarray:
        appeal = request.searches.appeal(self._world)
        return by_score(appeal.click, appeal.mask)


def tables_of(world: World, logged: tuple[Past, pa.Table]) -> dict[str, pa.Table]:
    return {
        name: run(world, policy, copy.deepcopy(logged[0]), DAYS)
        for name, policy in {"first stage": FirstStage(), "truth": Truth(world)}.items()
    }


@pytest.fixture(scope="module")
def tables(world: World, logged: tuple[Past, pa.Table]) -> dict[str, pa.Table]:
    return tables_of(world, logged)


# --- traffic ---


def test_the_log_again_is_the_log(
    settings: SimulationConfig, logged: tuple[Past, pa.Table]
) -> None:
    log = pa.Table.from_batches(simulate(settings).batches)
    again = logged[1]
    assert again.schema == SCHEMA
    for column, label in (("clicks", "click"), ("conversions", "conversion")):
        expected = [sum(labels) for labels in log[label].to_pylist()]
        assert again[column].to_pylist() == expected
    lengths = [len(history) for history in log["history_query"].to_pylist()]
    assert again["history"].to_pylist() == lengths


def test_a_run_is_the_same_again(world: World, logged, tables) -> None:
    again = tables_of(world, logged)
    assert all(again[name].equals(table) for name, table in tables.items())


def test_policies_meet_the_same_searches(tables: dict[str, pa.Table]) -> None:
    one, other = tables.values()
    assert one.num_rows == 500
    for column in ("list", "day", "listener", "kind"):
        assert one[column].equals(other[column]), column
    assert not one["clicks"].equals(other["clicks"])


def test_histories_go_on_by_what_each_policy_brought(world: World, logged) -> None:
    """What a policy is told of the past is what it made listeners do, and nothing later."""
    seen: dict[str, list[list[tuple[str, str]]]] = {}

    class Noting(Truth):
        def order(self, request: Request) -> np.ndarray:
            for row in request.rows().to_pylist():
                past = zip(row["history_query"], row["history_item_id"], strict=True)
                seen.setdefault(row["user_id"], []).append(list(past))
            return super().order(request)

    table = run(world, Noting(world), copy.deepcopy(logged[0]), DAYS)
    for number, name in enumerate(world.listeners.ids):
        own = table.filter(pa.array(table["listener"].to_numpy() == number))
        pasts, clicks = seen.get(name, []), own["clicks"].to_pylist()
        for earlier, later, new in zip(pasts, pasts[1:], clicks, strict=False):
            kept = min(len(earlier), 50 - new)
            assert later[new:] == earlier[:kept]


def test_the_truth_is_better_than_the_first_stage(tables: dict[str, pa.Table]) -> None:
    for measure in ("any_click", "expected_any_click", "expected_clicks"):
        first, best = (np.mean(tables[n][measure].to_numpy()) for n in ("first stage", "truth"))
        assert best > 1.05 * first, measure


def test_acts_are_as_often_as_is_expected(tables: dict[str, pa.Table]) -> None:
    for table in tables.values():
        p = table["expected_any_click"].to_numpy()
        deviation = np.sqrt((p * (1 - p)).sum())
        assert abs(table["any_click"].to_numpy().sum() - p.sum()) < 4 * deviation


# --- policies ---


@pytest.fixture
def request_of_a_day(world: World, logged: tuple[Past, pa.Table]) -> Request:
    searches = searches_of(world, 31).rows(slice(0, 40))
    return Request(searches, logged[0].of(searches), ListColumns(world))


def test_sorting_is_by_the_score(world: World, request_of_a_day: Request) -> None:
    searches = request_of_a_day.searches
    order = Sorted(Oracle(world, 31)).order(request_of_a_day)
    np.testing.assert_array_equal(order, Truth(world).order(request_of_a_day))
    appeal = searches.appeal(world)
    both = np.log(logistic(appeal.click)) + 2 * np.log(logistic(appeal.conversion))
    order = Sorted(Oracle(world, 31), (1.0, 2.0)).order(request_of_a_day)
    np.testing.assert_array_equal(order, by_score(both, searches.mask))


def test_a_list_is_selected_by_what_is_expected_of_it(world: World, request_of_a_day) -> None:
    sweep, value = ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0)), (1.0, 0.5)
    oracle = Oracle(world, 31)
    order = ListSelection(oracle, sweep, value).order(request_of_a_day)
    assert oracle.asked == 1 + len(sweep)
    appeal = request_of_a_day.searches.appeal(world)

    def value_of(order: np.ndarray) -> np.ndarray:
        expected = world.behaviour.expected(appeal.ordered(order))
        return expected.list_click + 0.5 * expected.list_conversion

    orders = [Sorted(oracle, weights).order(request_of_a_day) for weights in sweep]
    values = np.array([value_of(one) for one in orders])
    np.testing.assert_allclose(value_of(order), values.max(axis=0))
    assert len(set(values.argmax(axis=0))) == 3  # no sorting is the best for all lists


def test_ties_stand_as_they_do() -> None:
    score = np.array([[1.0, 2.0, 1.0, 2.0]])
    mask = np.array([[True, True, True, False, False]])
    assert by_score(score, mask).tolist() == [[1, 0, 2, 3, 4]]


# --- the experiment ---


def experiment_of(world: World, logged, tables: dict[str, pa.Table], **changes) -> Experiment:
    plain = Experiment(
        listeners=world.listeners.ids,
        tables=tables,
        before=logged[1],
        assigned=list(tables),
        control="first stage",
        reference=None,
        first_day=DAYS.start,
        days=len(DAYS),
        salt="0",
        seed=0,
        aa=0,
    )
    return dataclasses.replace(plain, **changes)


def test_the_measured_lift_is_around_the_true_one(world: World, logged, tables) -> None:
    held = []
    for salt in range(40):
        experiment = experiment_of(world, logged, tables, salt=str(salt))
        buckets = [experiment.bucket(name) for name in tables]
        assert (np.sum(buckets, axis=0) == 1).all()
        lift = experiment.adjusted("truth", CTR).lift
        true = experiment.truth("truth", CTR)
        assert true.low > 0.03
        held.append(lift.low < true.value < lift.high)
    assert np.mean(held) > 0.8


def test_a_slice_is_of_its_lists(world: World, logged, tables) -> None:
    experiment = experiment_of(world, logged, tables)
    some = np.array(tables["first stage"]["history"].to_numpy() >= 30)
    one, other = (
        sums(table.filter(pa.array(some)), CTR.expected(), 200, DAYS) for table in tables.values()
    )
    found = experiment.truth("truth", CTR, rows="history of 30 or more")
    assert found.value == pytest.approx(other.ratio / one.ratio - 1)


def test_who_is_not_assigned_takes_no_listener(world: World, logged, tables) -> None:
    three = tables | {"the same": tables["first stage"]}
    alone = experiment_of(world, logged, tables)
    beside = experiment_of(world, logged, three, assigned=list(tables), reference="truth")
    for name in tables:
        np.testing.assert_array_equal(alone.bucket(name), beside.bucket(name))
        assert alone.truth(name, CTR) == beside.truth(name, CTR)
    lift = beside.truth("the same", CTR, over="truth").value
    assert (1 + lift) * (1 + beside.truth("truth", CTR).value) == pytest.approx(1)


def test_a_difference_from_itself_is_found_as_often_as_is_claimed(world, logged, tables) -> None:
    experiment = experiment_of(world, logged, tables, aa=200)
    for measure in MEASURES:
        p = experiment.false_positives(measure)
        assert stats.binomtest(int((p < 0.05).sum()), 200, 0.05).pvalue > 0.001, measure.name


def test_tables_say_what_was_found(world: World, logged, tables) -> None:
    three = tables | {"the same": tables["first stage"]}
    experiment = experiment_of(
        world, logged, three, assigned=list(tables), reference="truth", aa=100
    )
    table = bucket_table(experiment, CTR)
    first, best = (dict(zip(table.header, row, strict=True)) for row in table.rows)
    assert [first["policy"], best["policy"]] == list(tables)
    assert first["lift"] == first["p"] == first["days"] == "-"
    adjusted = experiment.adjusted("truth", CTR)
    assert best["listeners"] == str(int(experiment.bucket("truth").sum()))
    assert float(best["CTR"]) == pytest.approx(experiment.in_bucket("truth", CTR).ratio, abs=1e-4)
    assert best["with CUPED"].startswith(f"{adjusted.lift.value:+.1%} [{adjusted.lift.low:+.1%}")
    assert best["detectable"] == f"{adjusted.detectable:.1%}"

    over = slice_table(experiment, CTR, "truth")
    assert [row[0] for row in over.rows] == ["first stage", "the same"]
    assert over.rows[0][1:] == over.rows[1][1:]
    for title, cell in zip(over.header[1:], over.rows[0][1:], strict=True):
        rows = None if title == "all" else title
        lift = experiment.truth("first stage", CTR, over="truth", rows=rows)
        assert cell.startswith(f"{lift.value:+.1%}")

    truth = {row[0]: row[1:] for row in truth_table(experiment).rows}
    assert truth["the same"][0] == truth["first stage"][0]
    assert truth["the same"][1] == "+0.0% [+0.0%, +0.0%]"

    (ctr, *_) = aa_table(experiment).rows
    share = (experiment.false_positives(CTR) < 0.05).mean()
    assert ctr == ["CTR", f"{share:.1%}", "1.0% to 10.0%"]


def test_an_experiment_is_written_whole(settings: SimulationConfig, tmp_path: Path) -> None:
    (tmp_path / "world.json").write_text(settings.model_dump_json())
    (tmp_path / "experiment.json").write_text(
        json.dumps(
            {
                "world": "world.json",
                "output": "results",
                "policies": {"first stage": {}, "the same": {}, "in truth": {"assigned": False}},
                "control": "first stage",
                "reference": "the same",
                "days": 2,
                "aa": 20,
            }
        )
    )
    heard: list[tuple[int, int, str]] = []
    results = abtest(
        ExperimentConfig.load(tmp_path / "experiment.json"), progress=lambda *one: heard.append(one)
    )
    assert results == tmp_path / "results" / "results.md"
    text = results.read_text()
    assert "2 days, 200 lists of 200 listeners; control: first stage" in text
    for title in ("The truth", "over the same, by query and history", "20 A/A experiments"):
        assert title in text
    assert heard[-1] == (600, 600, "in truth")
    rows = pq.read_table(tmp_path / "results" / "results.parquet").to_pylist()
    same = [row for row in rows if row["policy"] == "the same"]
    assert [row["true_value"] for row in same] == [0.0] * 4
    one, other = (
        pq.read_table(tmp_path / "results" / "lists" / f"{name}.parquet")
        for name in ("first-stage", "the-same")
    )
    assert one.equals(other) and one.num_rows == 200


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"control": "PRM"}, "control: got 'PRM', expected one of first stage"),
        ({"policies": {"a": {}, "b": {"model": "m", "server": "s"}}}, "a model and a server"),
        ({"policies": {"a": {}, "b": {"weights": [1, 0]}}}, "need a model or a server"),
        ({"policies": {"a": {}}}, "policies"),
        ({"policies": {"first stage": {}, "First-Stage": {}}}, "differ in letters or digits"),
        (
            {"policies": {"first stage": {}, "b": {"model": "m", "selection": {"sweep": []}}}},
            "sweep",
        ),
        ({"reference": "PRM"}, "reference: got 'PRM', expected one of first stage, b"),
        ({"policies": {"first stage": {"assigned": False}, "b": {}}}, "is not assigned"),
        ({"policies": {"first stage": {}, "b": {"assigned": False}}}, "two that are assigned"),
    ],
)
def test_an_impossible_experiment_is_refused(change: dict, message: str) -> None:
    plain = {"world": "w", "output": "o", "policies": {"first stage": {}, "b": {}}}
    plain["control"] = "first stage"
    with pytest.raises(ConfigError, match=message):
        ExperimentConfig.from_json(json.dumps(plain | change))


def test_more_days_than_there_are_is_one_sentence(settings, tmp_path: Path) -> None:
    (tmp_path / "world.json").write_text(settings.model_dump_json())
    config = ExperimentConfig(
        world=str(tmp_path / "world.json"),
        output=str(tmp_path / "out"),
        policies={"a": PolicyConfig(), "b": PolicyConfig()},
        control="a",
        days=6,
    )
    with pytest.raises(PianoError, match="days: got 6, expected 1 to 5"):
        abtest(config)
    assert not (tmp_path / "out").exists()
