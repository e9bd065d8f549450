"""The model gate: what noise can explain neither refuses a model nor shows that it is as good."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import special

from piano_tf.evaluation.lists import Lists, read_lists
from piano_tf.evaluation.predictions import Predictions, initial_order
from piano_tf.evaluation.probability import auc, probability_metrics
from piano_tf.evaluation.ranking import list_metrics
from tfx_pipeline.configs import Thresholds
from tfx_pipeline.gates.measures import ALL_LISTS, Measure, Part, measures, parts_of
from tfx_pipeline.gates.model import FIRST_STAGE, LAST_MODEL, Comparison, compare

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


# --- slices ---


def slices(truth: Lists, count: int) -> list[Part]:
    number = np.arange(len(truth)) % count
    return [Part(f"device {one}", number == one) for one in range(count)]


def test_a_loss_on_a_slice_alone_refuses_and_is_named() -> None:
    truth = lists(2000)
    ten = slices(truth, 10)
    scores = initial_order(truth).copy()
    scores[ten[3].members] = noisy(truth, 30.0, seed=1)[ten[3].members]
    limits = LIMITS.model_copy(update={"largest_loss": 0.2, "largest_first_stage_loss": 1.0})
    found = measured(truth, scores, initial_order(truth), limits, *ten)
    assert len(found.complaints) == 2
    assert found.complaints[0].startswith("click NDCG@10 where device 3 is ")
    assert {one.part for one in found.changes if one.against == FIRST_STAGE} == {ALL_LISTS}


def test_noise_on_many_slices_refuses_no_model() -> None:
    """Nothing is lost, and of 120 intervals as narrow as that of all lists some would say so."""
    truth = lists(800)
    many = slices(truth, 20)  # of 40 lists and 20 listeners each
    limits = LIMITS.model_copy(
        update={"largest_slice_loss": 0.0, "undecided": "bless", "largest_first_stage_loss": 1.0}
    )
    for seed in range(6):
        one, other = (noisy(truth, 0.5, seed=2 * seed + which) for which in (0, 1))
        assert measured(truth, one, other, limits, *many).complaints == ()


def test_parts_are_quarters_and_declared_columns(tiny, tmp_path: Path) -> None:
    devices = ("phone", "", "speaker")
    rows = [tiny.row(number, context_device=devices[number % 3]) for number in range(120)]
    log_dir = tiny.write(tmp_path / "log", rows)
    truth = read_lists(log_dir, "test")
    parts = {part.name: part.members for part in parts_of(truth, log_dir, "test")}
    assert next(iter(parts)) == ALL_LISTS
    assert parts[ALL_LISTS].all()
    declared = [name for name in parts if name.startswith("context_device")]
    assert declared == [f"context_device {one}" for one in ("unknown", "phone", "speaker")]
    assert sum(parts[name] for name in declared).tolist() == [1] * len(truth)
    assert {"history length", "query frequency", "item popularity"} <= {
        " ".join(name.split()[:2]) for name in parts
    }
    # The test split is the last quarter, lists 90 to 119.
    assert [name for name in parts if name.startswith("user_plays")] == [
        "user_plays 90 to 97",
        "user_plays 98 to 104",
        "user_plays 105 to 111",
        "user_plays 112 to 119",
    ]
    assert parts["user_plays 98 to 104"].tolist() == [98 <= n <= 104 for n in range(90, 120)]


def test_of_many_values_the_most_frequent_have_slices_and_the_rest_is_one(
    tiny, tmp_path: Path
) -> None:
    """Of 14 values, one in the hands of a single listener: 12 slices and the others."""
    rows = []
    for number in range(1120):
        share = number % 14
        user = "one" if share == 0 else f"user-{number % 97}"
        # The last of the values that many listeners have is the rarest.
        device = "device-1" if share == 13 and number % 4 else f"device-{share}"
        rows.append(tiny.row(number, user_id=user, context_device=device, context_hour=0.5))
    log_dir = tiny.write(tmp_path / "log", rows)
    truth = read_lists(log_dir, "test")
    parts = {part.name: part.members for part in parts_of(truth, log_dir, "test")}
    declared = [name for name in parts if name.startswith("context_device")]
    assert declared[0] == "context_device device-1", "the most frequent one first"
    assert {*declared[:-1]} == {f"context_device device-{share}" for share in range(1, 13)}
    assert declared[-1] == "context_device (others)"
    assert sum(parts[name] for name in declared).tolist() == [1] * len(truth)
    assert not [name for name in parts if name.startswith("context_hour")], "all have the same"


def test_a_column_that_names_each_list_has_no_slices(tiny, tmp_path: Path) -> None:
    rows = [tiny.row(number, context_device=f"session-{number}") for number in range(120)]
    log_dir = tiny.write(tmp_path / "log", rows)
    parts = parts_of(read_lists(log_dir, "test"), log_dir, "test")
    assert not [part.name for part in parts if part.name.startswith("context_device")]


def test_no_interval_is_beyond_what_a_figure_can_be() -> None:
    """Ten listeners, of whom one is unlike the rest, at the level that many slices ask for."""
    nine_of_ten, users = np.repeat([1.0, 0.0], [9, 1]), np.arange(10)
    ndcg, last = (Measure(above, np.ones(10)) for above in (nine_of_ten, 1 - nine_of_ten))
    level = 1 - 1e-9
    assert ndcg.interval(users, level) == (pytest.approx(0.9), 0, 1)
    assert ndcg.minus(last).interval(users, level) == (pytest.approx(0.8), -1, 1)
    calibration = Measure(10 * nine_of_ten, np.ones(10), most=np.inf)
    found = calibration.interval(users, level)
    assert found.low == 0
    assert found.high > 20
    assert calibration.minus(calibration).least == -np.inf


# --- figures ---


def padded(count: int = 80, seed: int = 3) -> tuple[Lists, Predictions]:
    """Lists of unlike lengths, some without a click, and coarse predictions with many ties."""
    rng = np.random.default_rng(seed)
    whole = lists(count, seed)
    mask = np.arange(CANDIDATES) < rng.integers(1, CANDIDATES + 1, count)[:, np.newaxis]
    labels = {"click": mask & (rng.random(mask.shape) < 0.2)}
    labels["conversion"] = labels["click"] & (rng.random(mask.shape) < 0.6)
    click = np.where(mask, np.round(rng.beta(2, 5, mask.shape) + 0.2 * labels["click"], 1), 0)
    of_list = np.round(rng.random(count), 1)
    truth = Lists(**{**vars(whole), "mask": mask, "labels": labels})
    return truth, Predictions(click, np.clip(click, 0, 1), click / 2, of_list, of_list / 2)


def test_figures_are_those_of_the_library() -> None:
    truth, predicted = padded()
    found = {name: one.value for name, one in measures(truth, predicted).items()}
    expected = probability_metrics(truth, predicted)
    order = list_metrics(truth, predicted.score)
    for label in ("click", "conversion"):
        for k in (1, 3, 5, 10):
            assert found[f"{label} NDCG@{k}"] == pytest.approx(
                np.nanmean(order[f"{label}_ndcg_{k}"])
            )
        for k in (5, 10):
            assert found[f"{label} MAP@{k}"] == pytest.approx(np.nanmean(order[f"{label}_map_{k}"]))
        assert found[f"{label} AUC"] == pytest.approx(expected[f"{label}_auc"])
        assert found[f"{label} group AUC"] == pytest.approx(expected[f"{label}_group_auc"])
        assert found[f"list {label} AUC"] == pytest.approx(expected[f"list_{label}_auc"])
        real = truth.mask
        mean = getattr(predicted, label)[real].mean() / truth.labels[label][real].mean()
        assert found[f"{label} calibration"] == pytest.approx(mean)
        mean = getattr(predicted, f"list_{label}").mean() / truth.any(label).mean()
        assert found[f"list {label} calibration"] == pytest.approx(mean)


def test_the_interval_of_auc_is_that_of_drawing_listeners() -> None:
    """Against a bootstrap that computes AUC anew each time."""
    truth, predicted = padded(300)
    users = np.unique(truth.user_id)
    place = np.searchsorted(users, truth.user_id)
    rows = np.nonzero(truth.mask)[0]
    y, p = truth.labels["click"][truth.mask], predicted.click[truth.mask]
    rng = np.random.default_rng(0)
    draws = [
        auc(
            y,
            p,
            np.bincount(rng.integers(0, len(users), len(users)), minlength=len(users))[place][rows],
        )
        for _ in range(1000)
    ]
    low, high = np.quantile(draws, [0.025, 0.975])
    found = measures(truth, predicted)["click AUC"].interval(truth.user_id, 0.95)
    assert found.value == pytest.approx(auc(y, p))
    assert found.low == pytest.approx(low, abs=0.1 * (high - low))
    assert found.high == pytest.approx(high, abs=0.1 * (high - low))


def test_what_cannot_be_said_is_none() -> None:
    truth, predicted = padded(30)
    none = Lists(**{**vars(truth), "labels": {k: v & False for k, v in truth.labels.items()}})
    found = compare(none, predicted, predicted, [Part(ALL_LISTS, np.ones(30, bool))], LIMITS)
    assert {one.model.value for one in found.figures} == {None}
    assert Comparison.from_json(found.model_dump_json()) == found
