"""One row of a comparison: gains by slice, trade-off, calibration and off-policy estimates."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from stub_runs import said

from piano_tf.evaluation.lists import Lists, concatenate, read_lists
from piano_tf.evaluation.off_policy import snips_of_order
from piano_tf.evaluation.probability import calibration_curve
from piano_tf.evaluation.ranking import list_metrics
from piano_tf.evaluation.significance import interval, paired
from piano_tf.evaluation.summary import (
    TESTED,
    TRADE_OFF,
    Entry,
    Resampling,
    Truth,
    orders,
    slices_of,
    summarise,
    trade_off,
)
from piano_tf.features import LABELS
from piano_tf.propensity import ExaminationModel

FEW = Resampling(resamples=100, unit="list")
THETA = ExaminationModel(np.array([1.0, 0.5, 0.25]))


@pytest.fixture(scope="module")
def lists(log_dir: Path) -> Lists:
    return read_lists(log_dir, "train")


def entry_of(lists: Lists, name: str, skill: float, seeds: tuple[int, ...] = (0, 1)) -> Entry:
    return Entry.of_model(name, [said(lists, seed, skill) for seed in seeds])


def per_list(lists: Lists, entry: Entry, metric: str) -> np.ndarray:
    """[L]: the mean over seeds, once more."""
    found = [list_metrics(lists, one.score)[metric] for one in entry.predictions]
    return sum(found) / len(found)


def test_values_and_leads_are_of_the_means_over_seeds(lists: Lists) -> None:
    ours, rival = entry_of(lists, "ours", 0.1), entry_of(lists, "rival", 0.0)
    row = summarise(rival, ours, Truth(lists), FEW)
    for metric in TESTED:
        a, b = per_list(lists, ours, metric), per_list(lists, rival, metric)
        np.testing.assert_allclose(row.values[metric], interval(b, 0, 100))
        np.testing.assert_allclose(row.leads[metric], paired(a, b, 0, 100))
    assert row.leads["click_ndcg_10"].difference > 0
    itself = summarise(ours, ours, Truth(lists), FEW)
    assert not itself.leads and not itself.off_policy
    by_seed = itself.by_seed["click_mrr"]
    assert itself.spread("click_mrr") == pytest.approx(abs(by_seed[0] - by_seed[1]) / np.sqrt(2))
    single = summarise(entry_of(lists, "one", 0.1, (3,)), ours, Truth(lists), FEW)
    assert np.isnan(single.spread("click_mrr"))


def test_the_ideal_order_is_ideal_for_both_labels(lists: Lists) -> None:
    ideal = next(entry for entry in orders(lists, (0,)) if entry.name == "ideal order")
    (found,) = ideal.metrics(lists)
    for name, values in found.items():
        np.testing.assert_allclose(np.nanmean(values), 1, err_msg=name)
    assert set(found) == set(list_metrics(lists, -np.cumsum(lists.mask, axis=1)))


# --- slices ---


def test_quarters_of_the_lists() -> None:
    """Eight lists: histories of 1 to 8, one query that was never asked, popularity by clicks."""
    click = np.zeros((8, 2), bool)
    click[:6] = [True, False], [False, True], [True, True], [True, False], [True, False], [True] * 2
    lists = Lists(
        list_id=np.arange(8).astype(str),
        user_id=np.arange(8).astype(str),
        mask=np.ones((8, 2), bool),
        labels={label: click for label in LABELS},
        history_length=np.arange(8, 0, -1),
        query_frequency=np.zeros(8, int),
        item_popularity=np.arange(16).reshape(8, 2) * 10,
    )
    found = {}
    for part in slices_of(lists):
        found.setdefault(part.feature, []).append((part.name, list(np.flatnonzero(part.members))))
    quarters = ("1 to 2", [6, 7]), ("3 to 4", [4, 5]), ("5 to 6", [2, 3]), ("7 to 8", [0, 1])
    assert found == {
        "history length": [*quarters],
        "query frequency": [("0", [*range(8)])],
        # Means over clicked items 0, 30, 45, 60, 80, 105; the last two lists have none.
        "item popularity": [("0 to 30", [0, 1]), ("45", [2]), ("60", [3]), ("80 to 105", [4, 5])],
    }


def test_slices_part_the_lists_and_their_gains_add_up(lists: Lists) -> None:
    entry = entry_of(lists, "ours", 0.1)
    row = summarise(entry, entry, Truth(lists), FEW)
    initial = list_metrics(lists, -np.cumsum(lists.mask, axis=1))["conversion_ndcg_10"]
    gain = per_list(lists, entry, "conversion_ndcg_10") - initial
    parts = [part for part in slices_of(lists) if part.feature == "query frequency"]
    np.testing.assert_array_equal(sum(part.members.astype(int) for part in parts), 1)
    total = 0.0
    for part in parts:
        key = "conversion_ndcg_10", part.feature, part.name
        value = row.slices[key].value
        known = gain[part.members & ~np.isnan(gain)]
        assert value == pytest.approx(known.mean())
        total += value * len(known)
        assert np.mean(row.by_slice[key]) == pytest.approx(
            np.nanmean(per_list(lists, entry, "conversion_ndcg_10")[part.members])
        )
    assert total / np.count_nonzero(~np.isnan(gain)) == pytest.approx(np.nanmean(gain))


# --- trade-off, calibration, off-policy ---


def test_the_trade_off_goes_through_the_orders_by_click_and_by_conversion(lists: Lists) -> None:
    one = said(lists, 0, 0.05)
    points = dict(zip(TRADE_OFF, trade_off(lists, one), strict=True))
    for weight, score in ((0.0, one.click), (1.0, one.conversion)):
        found = list_metrics(lists, score)
        expected = [np.nanmean(found[f"{label}_ndcg_10"]) for label in LABELS]
        np.testing.assert_allclose(points[weight], expected)
    sure = dataclasses.replace(one, click=0 * one.click, conversion=0 * one.conversion)
    assert np.isfinite(trade_off(lists, sure)).all()


def test_calibration_pools_the_seeds(lists: Lists) -> None:
    entry = entry_of(lists, "ours", 0.1)
    row = summarise(entry, entry, Truth(lists), FEW)
    p = np.concatenate([one.list_click for one in entry.predictions])
    y = np.tile(lists.any("click"), 2)
    for found, expected in zip(row.calibration["list_click"], calibration_curve(y, p), strict=True):
        np.testing.assert_allclose(found, expected)
    assert row.calibration["conversion"].cases.sum() == 2 * lists.mask.sum()
    assert not summarise(orders(lists, (0,))[0], entry, Truth(lists), FEW).calibration


def test_off_policy_estimates_examine_each_log_in_its_own_way(lists: Lists) -> None:
    other = ExaminationModel(np.array([1.0, 0.9]))
    both = concatenate([lists, lists])
    truth = Truth(both, [(len(lists), THETA), (len(lists), other)])
    ours, rival = entry_of(both, "ours", 0.1), entry_of(both, "rival", 0.0)
    row = summarise(rival, ours, truth, FEW)
    for label in LABELS:
        value = {}
        for entry in (ours, rival):
            above = below = 0.0
            for part, model in ((slice(0, len(lists)), THETA), (slice(len(lists), None), other)):
                for one in entry.predictions:
                    snips = snips_of_order(lists, one.score[part], model.at, label=label)
                    above, below = above + snips.numerators.sum(), below + snips.denominators.sum()
            value[entry.name] = above / below
        own, lead = row.off_policy[label]
        assert own.value == pytest.approx(value["rival"])
        assert lead.value == pytest.approx(value["ours"] - value["rival"])
        assert lead.low <= lead.value <= lead.high
