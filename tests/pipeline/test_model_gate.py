"""The model gate: what noise can explain neither refuses a model nor shows that it is as good."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from scipy import special

from piano_tf.evaluation.lists import Lists
from piano_tf.evaluation.predictions import Predictions, initial_order
from tfx_pipeline.configs import Thresholds
from tfx_pipeline.gates.measures import ALL_LISTS, Part
from tfx_pipeline.gates.model import FIRST_STAGE, LAST_MODEL, Comparison, compare
from tfx_pipeline.pushing import newest_version, same_files

CANDIDATES = 12
LIMITS = Thresholds()


def lists(count: int, seed: int = 0) -> Lists:
    """A click and a conversion in each list, more often where the first stage is right."""
    rng = np.random.default_rng(seed)
    places = np.minimum(rng.geometric(0.3, count) - 1, CANDIDATES - 1)
    clicked = np.arange(CANDIDATES) == places[:, np.newaxis]
    return Lists(
        list_id=np.array([f"list-{number}" for number in range(count)]),
        user_id=np.array([f"user-{number % (count // 2)}" for number in range(count)]),
        mask=np.ones((count, CANDIDATES), bool),
        labels={"click": clicked, "conversion": clicked},
        history_length=np.zeros(count, np.int64),
        query_frequency=np.zeros(count, np.int64),
        item_popularity=np.zeros((count, CANDIDATES), np.int64),
    )


def noisy(truth: Lists, noise: float, seed: int) -> np.ndarray:
    """The first stage's order, the more spoilt the more noise."""
    draws = np.random.default_rng(seed).normal(size=truth.mask.shape)
    return initial_order(truth) + noise * draws


def said(scores: np.ndarray) -> Predictions:
    """Of a model that orders so."""
    p = special.expit(scores)
    return Predictions(scores, p, p / 2, p.max(axis=1), p.max(axis=1) / 2)


def measured(
    truth: Lists,
    scores: np.ndarray,
    last: np.ndarray | None,
    limits: Thresholds,
    *slices: Part,
) -> Comparison:
    parts = [Part(ALL_LISTS, np.ones(len(truth), bool)), *slices]
    return compare(truth, said(scores), None if last is None else said(last), parts, limits)


def against(changes: Comparison, other: str) -> list[str]:
    return [one.complaint or "" for one in changes.changes if one.against == other]


def test_a_model_that_changes_nothing_passes() -> None:
    truth = lists(200)
    scores = noisy(truth, 1.0, seed=1)
    found = measured(truth, scores, scores, Thresholds(largest_first_stage_loss=1.0))
    assert found.complaints == ()
    assert all(one.change == one.low == one.high == 0 for one in found.changes[:2])


def test_a_first_model_is_held_to_the_first_stage_alone() -> None:
    truth = lists(200)
    found = measured(truth, initial_order(truth), None, LIMITS)
    assert {one.against for one in found.changes} == {FIRST_STAGE}
    assert found.complaints == ()


def test_a_loss_that_is_shown_refuses() -> None:
    truth = lists(400)
    found = measured(truth, noisy(truth, 30.0, seed=1), initial_order(truth), LIMITS)
    for other in (LAST_MODEL, FIRST_STAGE):
        for complaint in against(found, other):
            assert f"below {other}'s" in complaint
            assert "shown to lose more than" in complaint
    assert len(found.complaints) == 4


def test_noise_alone_refuses_no_model() -> None:
    """Of two models that are equally good, on enough lists, whichever came later passes."""
    truth = lists(4000)
    limits = LIMITS.model_copy(update={"largest_first_stage_loss": 1.0})
    for seed in range(10):
        one, other = (noisy(truth, 0.5, seed=2 * seed + which) for which in (0, 1))
        assert measured(truth, one, other, limits).complaints == ()


def test_too_few_lists_show_nothing_and_what_then_is_a_setting() -> None:
    truth = lists(20)
    one, other = noisy(truth, 0.5, seed=1), noisy(truth, 0.5, seed=2)
    found = measured(truth, one, other, LIMITS)
    assert all(change.is_undecided for change in found.changes[:2])
    for complaint in against(found, LAST_MODEL):
        assert "may be more than 0.01 below" in complaint
    blesses = LIMITS.model_copy(update={"undecided": "bless"})
    assert against(measured(truth, one, other, blesses), LAST_MODEL) == ["", ""]
    # Against the first stage there is nothing served to keep.
    assert all(change.is_undecided for change in found.changes[2:])
    assert against(found, FIRST_STAGE) == ["", ""]


def test_a_gain_by_noise_shows_nothing() -> None:
    """The model is better by far on the few lists there are, and was drawn to be."""
    truth = lists(20)
    draws = [noisy(truth, 3.0, seed) for seed in range(40)]
    gains = [measured(truth, one, draws[0], LIMITS).changes[0] for one in draws[1:]]
    luckiest = max(gains, key=lambda one: one.change)
    assert luckiest.change > LIMITS.largest_loss
    # Most of what only seems better is undecided; with 39 draws some interval misses.
    seeming = [one for one in gains if one.change > 0]
    assert np.mean([one.is_undecided for one in seeming]) > 0.8


def test_the_interval_is_over_listeners() -> None:
    """Each list twice, by the same listener, tells no more than once."""
    once = lists(100)
    each_own = Lists(**{**vars(once), "user_id": once.list_id})
    twice = Lists(
        **{
            name: (
                {label: np.concatenate([values, values]) for label, values in value.items()}
                if name == "labels"
                else np.concatenate([value, value])
            )
            for name, value in vars(each_own).items()
        }
    )
    one, other = noisy(once, 1.0, seed=1), noisy(once, 1.0, seed=2)
    left = measured(each_own, one, other, LIMITS).changes[0]
    both = (np.concatenate([values, values]) for values in (one, other))
    right = measured(twice, *both, LIMITS).changes[0]
    assert right.lists == 2 * left.lists
    assert right.change == pytest.approx(left.change)
    assert right.high - right.low == pytest.approx(left.high - left.low, rel=0.02)


def test_how_many_lists_would_tell() -> None:
    """The interval narrows with the root of the number of lists."""
    truth = lists(400)
    few = measured(truth, noisy(truth, 1.0, 1), noisy(truth, 1.0, 2), LIMITS).changes[0]
    told = few.model_copy(update={"change": 0.0, "low": -0.02, "high": 0.02, "lists": 100})
    assert told.complaint is not None
    assert told.complaint.endswith("some 400 lists would tell, if the change is what it seems")
    assert "would tell" not in (told.model_copy(update={"change": -0.02}).complaint or "")


def test_without_two_listeners_nothing_is_shown() -> None:
    truth = lists(4)
    alone = Lists(**{**vars(truth), "user_id": np.array(["ada"] * 4)})
    found = measured(alone, initial_order(alone), initial_order(alone), LIMITS)
    assert all(one.is_undecided for one in found.changes)


# --- what is served already ---


def saved(folder: Path, weights: str) -> Path:
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_text("graph")
    (folder / "variables" / "data").write_text(weights)
    return folder


def test_the_same_model_is_known_by_its_content(tmp_path: Path) -> None:
    model = saved(tmp_path / "trained", "1")
    same, other = saved(tmp_path / "same", "1"), saved(tmp_path / "other", "2")
    os.utime(same / "variables" / "data", (0, 0))
    assert same_files(model, same)
    assert not same_files(model, other)
    (same / "assets").write_text("")
    assert not same_files(model, same)


def test_the_newest_version_is_the_highest_that_is_whole(tmp_path: Path) -> None:
    assert newest_version(tmp_path / "pushed") is None
    saved(tmp_path / "pushed" / "9", "1")
    newest = saved(tmp_path / "pushed" / "10", "2")
    (tmp_path / "pushed" / "11").mkdir()
    (tmp_path / "pushed" / ".10.tmp").mkdir()
    assert newest_version(tmp_path / "pushed") == newest
