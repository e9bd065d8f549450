"""What listeners do with lists, against slow references and against what is to be expected."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piano_tf.simulation import BehaviourConfig, World
from piano_tf.simulation.behaviour import Appeal, Behaviour
from piano_tf.simulation.searches import searches_of

PLAIN = BehaviourConfig(
    stop_after_click=0,
    stop_after_conversion=0,
    abandonment=0,
    click_tiring=0,
    conversion_tiring=0,
    contrast=0,
)


def behaviour(world: World, config: BehaviourConfig) -> Behaviour:
    return Behaviour(config, world.catalogue, world.listeners, world.queries)


def some_appeal(world: World, lists: int = 6, ranks: int = 5, seed: int = 0) -> Appeal:
    """Lists of tracks of few artists, so that company matters; the last of few candidates."""
    rng = np.random.default_rng(seed)
    track = rng.integers(0, 10, (lists, ranks)) * 80 + rng.integers(0, 2, (lists, ranks))
    mask = np.arange(ranks) < np.maximum(1, ranks - np.arange(lists) % ranks)[:, np.newaxis]
    day, listener = 34, rng.integers(0, 150, lists)  # when every track is out
    query = rng.integers(0, len(world.queries), lists)
    return world.behaviour.appeal(day, listener, query, track, mask)


def sigmoid(x: float) -> float:
    return 1 / (1 + np.exp(-x))


def slowly(world: World, config: BehaviourConfig, appeal: Appeal, row: int) -> dict:
    """Every way a list can go, one by one, each with its probability."""
    c = config
    n = int(appeal.mask[row].sum())
    x, y = appeal.click[row], appeal.conversion[row]
    track, rel = appeal.track[row], appeal.relevance[row]
    p, v = [], []
    for r in range(n):
        tired = sum(
            0.8 ** (r - s - 1) * float(world.catalogue.likeness(track[s], track[r]))
            for s in range(r)
        )
        beside = [x[s] for s in (r - 1, r + 1) if 0 <= s < n]
        contrast = np.tanh((x[r] - np.mean(beside)) / 2) if beside else 0
        p.append(sigmoid(x[r] - c.click_tiring * tired + c.contrast * contrast))
        v.append(sigmoid(y[r] - c.conversion_tiring * tired))
    found = {name: np.zeros(n) for name in ("examination", "click", "conversion")}
    found |= {"list_click": 0.0, "list_conversion": 0.0}
    # An act at each rank (nothing, click, conversion), and how many ranks are looked at.
    for end in range(1, n + 1):
        for acts in itertools.product(range(3), repeat=end):
            chance = 1.0
            for r, act in enumerate(acts):
                chance *= (1 - p[r], p[r] * (1 - v[r]), p[r] * v[r])[act]
                stop = (c.abandonment * (1 - rel[r]), c.stop_after_click, c.stop_after_conversion)
                on = ((r + 1) / (r + 2)) ** c.examination_decay * (1 - stop[act])
                if r + 1 < end:
                    chance *= on
                elif end < n:
                    chance *= 1 - on
            for r, act in enumerate(acts):
                found["examination"][r] += chance
                found["click"][r] += chance * (act >= 1)
                found["conversion"][r] += chance * (act == 2)
            found["list_click"] += chance * any(acts)
            found["list_conversion"] += chance * (2 in acts)
    return found


@pytest.mark.parametrize("config", [BehaviourConfig(), PLAIN], ids=["whole", "plain"])
def test_what_is_expected_is_the_sum_over_all_ways_to_go(world: World, config) -> None:
    appeal = some_appeal(world)
    found = behaviour(world, config).expected(appeal)
    for row in range(6):
        for name, values in slowly(world, config, appeal, row).items():
            mine = getattr(found, name)[row]
            mine = mine[: len(values)] if np.ndim(values) else mine
            np.testing.assert_allclose(mine, values, err_msg=name, rtol=1e-9)
    padding = ~appeal.mask
    for name in ("examination", "click", "conversion", "attraction", "conviction"):
        assert not getattr(found, name)[padding].any(), name


def test_without_stops_examination_is_of_the_rank_alone(world: World) -> None:
    appeal = some_appeal(world, lists=20, ranks=7)
    found = behaviour(world, PLAIN).expected(appeal).examination
    expected = (1.0 + np.arange(7)) ** -PLAIN.examination_decay * appeal.mask
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("config", [BehaviourConfig(), PLAIN], ids=["whole", "plain"])
def test_acts_are_as_often_as_is_expected(world: World, config: BehaviourConfig) -> None:
    one = some_appeal(world, lists=3)
    times = 20_000
    many = Appeal(*(np.repeat(values, times, axis=0) for values in one))
    room = behaviour(world, config)
    acts = room.act(np.random.default_rng(1).random((*many.mask.shape, 3)), many)
    assert (acts.conversion <= acts.click).all() and (acts.click <= acts.examined).all()
    assert not (acts.examined & ~many.mask).any()
    assert (np.diff(acts.examined.astype(int), axis=1) <= 0).all()
    expected = room.expected(one)
    for drawn, rates in (
        (acts.examined, expected.examination),
        (acts.click, expected.click),
        (acts.conversion, expected.conversion),
        (acts.click.any(axis=1), expected.list_click),
        (acts.conversion.any(axis=1), expected.list_conversion),
    ):
        shares = drawn.reshape(3, times, *drawn.shape[1:]).mean(axis=1)
        deviation = np.sqrt(rates * (1 - rates) / times)
        assert (np.abs(shares - rates) <= 4.5 * deviation + 1e-12).all()


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(5)), more=st.integers(1, 3))
def test_a_list_is_what_its_order_makes_it(world: World, order: list[int], more: int) -> None:
    appeal = Appeal(*(values[:1] for values in some_appeal(world)))
    moved = appeal.ordered(np.array([order]))
    padded = Appeal(*(np.pad(values, ((0, 0), (0, more))) for values in moved))
    direct, other, wide = (
        world.behaviour.expected(lists)
        for lists in (Appeal(*(values[:, order] for values in appeal)), moved, padded)
    )
    for name in direct._fields:
        one = getattr(direct, name)
        np.testing.assert_allclose(getattr(other, name), one, rtol=1e-12)
        found = getattr(wide, name)
        np.testing.assert_allclose(found[..., :5] if found.ndim == 2 else found, one, rtol=1e-9)


def test_the_company_matters_only_where_it_is_said_to(world: World) -> None:
    appeal = some_appeal(world, lists=8)
    backwards = np.argsort(np.where(appeal.mask, -np.arange(5), 1), axis=1)
    turned = appeal.ordered(backwards)
    for config, same in ((PLAIN, True), (BehaviourConfig(), False)):
        room = behaviour(world, config)
        before, after = room.expected(appeal).attraction, room.expected(turned).attraction
        assert np.allclose(np.take_along_axis(before, backwards, axis=1), after) == same


def test_near_duplicates_tire(world: World) -> None:
    c = world.catalogue
    version = int(np.flatnonzero(c.song != np.arange(len(c.song)))[0])
    other = int(np.flatnonzero(c.artist != c.artist[version])[0])
    ones = np.ones((1, 2))

    def conviction(first: int) -> float:
        track = np.array([[first, version]])
        appeal = Appeal(track, ones > 0, ones, 0 * ones, 0 * ones)
        return world.behaviour.expected(appeal).conviction[0, 1]

    assert conviction(other) == 0.5
    assert conviction(int(c.song[version])) == pytest.approx(1 / (1 + np.e))


def test_what_is_best_for_clicks_is_not_best_for_conversions(world: World) -> None:
    appeal = searches_of(world, 2).appeal(world)
    alone = behaviour(world, PLAIN).expected(appeal)
    found = []
    for value in (alone.attraction, alone.attraction * alone.conviction):
        order = np.argsort(np.where(appeal.mask, -value, np.inf), axis=1, kind="stable")
        found.append(world.behaviour.expected(appeal.ordered(order)))
    by_click, by_conversion = found
    assert by_click.click.sum() > 1.02 * by_conversion.click.sum()
    assert by_conversion.conversion.sum() > 1.02 * by_click.conversion.sum()
