"""The scripts of `experiments/`: what they hold against the truth is the truth."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from small_world import SETTINGS, Oracle

from piano_tf.experiment.traffic import past_of_the_log
from piano_tf.simulation import SimulationConfig, World, simulate
from piano_tf.simulation.searches import DAY, searches_of

FOLDER = Path(__file__).parents[2] / "experiments"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"experiments_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def changed(settings: SimulationConfig, **parts: dict) -> SimulationConfig:
    """The settings with something else in some of their parts."""
    values = settings.model_dump()
    return SimulationConfig.model_validate(
        {**values, **{name: {**values[name], **part} for name, part in parts.items()}}
    )


@pytest.fixture(scope="module")
def world() -> World:
    return World(SETTINGS)


# --- examination ---


def test_true_examination_of_a_position_based_world_is_its_formula() -> None:
    stops = {"abandonment": 0.0, "stop_after_click": 0.0, "stop_after_conversion": 0.0}
    config = changed(SETTINGS, behaviour=stops)
    found = script("examination").true_examination(World(config), range(2))
    expected = np.arange(1, 1 + len(found)) ** -config.behaviour.examination_decay
    np.testing.assert_allclose(found, expected)


# --- attention ---


def test_same_intent_is_what_each_past_act_meant_on_its_own_day() -> None:
    """By hand: who did what, and when, is written down anew from the log."""
    attention = script("attention")
    settings = changed(SETTINGS, queries={"meaning_change": 0.1})
    world = World(settings)
    past, _ = past_of_the_log(world)
    searches = searches_of(world, SETTINGS.days, randomised=False)
    history = past.of(searches)
    same, there = attention.same_intent(world, searches, history, width=10)
    assert same.shape == there.shape == (len(searches.number), 10)
    acts: dict[str, list[tuple[int, int]]] = {}
    for batch in simulate(settings).batches:
        rows = batch.to_pydict()
        for user, query, time, click in zip(
            *(rows[name] for name in ("user_id", "query", "timestamp", "click")), strict=True
        ):
            acts.setdefault(user, []).extend([(time, query)] * sum(click))
    numbers = {text: number for number, text in enumerate(world.queries.texts)}
    others = 0
    for row, listener in enumerate(searches.listener):
        own = sorted(acts.get(world.listeners.ids[listener], []), key=lambda act: -act[0])[:10]
        assert there[row].sum() == len(own)
        present = world.queries.intent(SETTINGS.days, listener, searches.query[row])
        for place, (time, query) in enumerate(own):
            day = (time - SETTINGS.start) // DAY
            meant = world.queries.intent(day, listener, numbers[query])
            assert same[row, place] == (meant == present)
            others += meant != world.queries.intent(SETTINGS.days, listener, numbers[query])
    assert same.any() and others


def test_means_are_over_lists_and_intervals_over_listeners() -> None:
    mean = script("attention").mean_over_listeners
    values = np.array([1.0, 1.0, 1.0, 0.0])
    assert mean(values, np.array([0, 0, 0, 5])).startswith("0.750 [0.000, 1.000]")


# --- frontier ---


@pytest.fixture(scope="module")
def points(world: World) -> dict[str, dict[tuple[float, float], tuple[float, float]]]:
    """Of a model that knows the world."""
    frontier = script("frontier")
    frontier.DAYS, frontier.LISTS = 1, 60
    found = frontier.points_of(world, Oracle(world, SETTINGS.days), frontier.requests(world))
    return {
        curve: {weights: (ctr, cvr) for weights, ctr, cvr in points}
        for curve, points in found.items()
    }


def test_a_model_that_knows_the_world_sorts_as_the_truth_does(points) -> None:
    for weights, reached in points["truth, sorted"].items():
        if weights == (0.0, 1.0):
            continue  # many conversions are equally likely, and rounding decides
        assert points["the model, sorted"][weights] == pytest.approx(reached)
    for value, reached in points["the same orders, chosen by truth"].items():
        assert points["the model, list selection"][value] == pytest.approx(reached, abs=1e-5)


def test_nothing_is_above_the_best_order(points) -> None:
    best = points["truth, best order"]
    for value, reached in best.items():
        worth = np.dot(value, reached)
        for curve in points.values():
            for other in curve.values():
                assert worth >= np.dot(value, other) - 1e-3  # a local search, seldom not the best
    assert best[1.0, 0.0][0] > points["truth, sorted"][1.0, 0.0][0]
    assert best[0.0, 1.0][1] > points["truth, sorted"][0.0, 1.0][1]


def test_what_is_drawn_is_every_point_and_once_more_what_a_model_reaches(points) -> None:
    drawn = {
        curve: [(weights, *reached) for weights, reached in of_curve.items()]
        for curve, of_curve in points.items()
    }
    whole, near = script("frontier").plot(drawn).axes
    assert [line.get_label() for line in whole.lines] == list(points)
    for line, of_curve in zip(whole.lines, points.values(), strict=True):
        np.testing.assert_allclose(line.get_xydata(), list(of_curve.values()))
    assert len(near.lines) == len(points) - 2
