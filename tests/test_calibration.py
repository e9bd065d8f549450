"""The calibrating step: logits become those of what happens, and no order is turned."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import expit, logit

from piano_tf import layers
from piano_tf.calibration import beta, calibrate
from piano_tf.features import LABELS, OUTPUTS, Axis
from piano_tf.masks import mask_of
from piano_tf.models import Reranker
from piano_tf.models.base import Logits, independent_list_logit, outputs_of
from piano_tf.training import FittedReranker

Batch = dict[str, tf.Tensor]
LISTS, ITEMS = 20_000, 6


class Said:
    """Says what it is given, as a trained model would, whose probabilities are far off."""

    eager = True

    def __init__(self, *, list_head: bool) -> None:
        self.calibration = layers.Calibration()
        self.list_head = list_head

    def logits(self, batch: Batch, training: bool = False) -> tuple[Logits, Logits | None]:
        """Conversion on a scale of its own, and mostly above click."""
        items = batch["said"], 3 * batch["said"] + 5
        lists = batch["list_said"], batch["list_said"] - 1
        return items, lists if self.list_head else None

    def __call__(self, batch: Batch, training: bool = False) -> Batch:
        mask = mask_of(batch, Axis.ITEM)
        return outputs_of(*self.logits(batch), mask, self.calibration)


@pytest.fixture(scope="module")
def truth() -> list[tuple[Batch, Batch]]:
    """Two batches of lists of 0 to 6 items: P(click) = sigmoid(0.5 said - 2), a third converts."""
    rng = np.random.default_rng(5)
    length = rng.integers(0, ITEMS + 1, LISTS)
    mask = np.arange(ITEMS) < length[:, np.newaxis]
    said = rng.normal(0, 2, mask.shape)
    click = mask & (rng.random(mask.shape) < expit(0.5 * said - 2))
    some = 1 - np.prod(np.where(mask, 1 - expit(0.5 * said - 2), 1), axis=1)
    conversion = click & (rng.random(mask.shape) < 1 / 3)
    inputs = {
        "item_id": mask.astype(np.int64),
        "said": np.where(mask, said, 1e6).astype(np.float32),
        "list_said": (3 + 2 * logit(np.where(some > 0, some, 0.5))).astype(np.float32),
    }
    labels = {
        label: np.where(mask, happened, -1).astype(np.float32)
        for label, happened in (("click", click), ("conversion", conversion))
    }
    whole = tf.data.Dataset.from_tensor_slices((inputs, labels))
    return list(whole.batch(LISTS // 2))


def held_against_truth(
    model: Callable[..., Batch], truth: list[tuple[Batch, Batch]]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Output -> probabilities and what happened, of all that is real."""
    found: dict[str, list] = {name: [] for name in OUTPUTS}
    for inputs, labels in truth:
        mask, outputs = mask_of(inputs, Axis.ITEM).numpy(), model(inputs)
        for label in LABELS:
            happened = (labels[label].numpy() > 0) & mask
            found[label].append((outputs[label].numpy()[mask], happened[mask]))
            shown = mask.any(axis=1)
            of_list = outputs[f"list_{label}"].numpy()[shown]
            found[f"list_{label}"].append((of_list, happened.any(axis=1)[shown]))
    return {
        name: (expit(np.concatenate([p for p, _ in parts])), np.concatenate([y for _, y in parts]))
        for name, parts in found.items()
    }


@pytest.mark.parametrize("list_head", [True, False])
def test_every_output_says_what_happens(truth, list_head: bool) -> None:
    model = Said(list_head=list_head)
    for said, happened in held_against_truth(model, truth).values():
        assert abs(said.mean() - happened.mean()) > 0.1
    calibrate(model, truth)
    for name, (said, happened) in held_against_truth(model, truth).items():
        for part in np.array_split(np.argsort(said), 4):  # from unlikely to likely
            assert abs(said[part].mean() - happened[part].mean()) < 0.015, name


def test_a_list_without_a_head_follows_its_calibrated_items(truth) -> None:
    model = Said(list_head=False)
    calibrate(model, truth)
    inputs, _ = truth[0]
    outputs, mask = model(inputs), mask_of(inputs, Axis.ITEM)
    expected = model.calibration({"list_click": independent_list_logit(outputs["click"], mask)})
    np.testing.assert_array_equal(outputs["list_click"], expected["list_click"])
    # Items are independent in this world: little is left to mend.
    shown = mask.numpy().any(axis=1)
    alone = independent_list_logit(outputs["click"], mask).numpy()[shown]
    assert np.abs(expit(outputs["list_click"].numpy()[shown]) - expit(alone)).max() < 0.05


def test_it_begins_anew(truth) -> None:
    model = Said(list_head=True)
    calibrate(model, truth)
    first = [weight.numpy() for weight in model.calibration.weights]
    model.calibration.assign("click", 9.0, 9.0, 9.0)
    calibrate(model, truth)
    for weight, expected in zip(model.calibration.weights, first, strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_the_lists_target_may_be_a_rate(truth) -> None:
    model = Said(list_head=True)
    calibrate(model, truth, "rate")
    shares = []
    for inputs, labels in truth:
        mask = mask_of(inputs, Axis.ITEM).numpy()
        clicks = ((labels["click"].numpy() > 0) & mask).sum(axis=1)
        shares.append((clicks / np.maximum(mask.sum(axis=1), 1))[mask.any(axis=1)])
    said, _ = held_against_truth(model, truth)["list_click"]
    assert abs(said.mean() - np.concatenate(shares).mean()) < 1e-3


def test_what_validation_says_nothing_of_stays(truth) -> None:
    model = Said(list_head=True)
    calibrate(model, [(i, {**y, "conversion": 0 * y["conversion"]}) for i, y in truth])
    slope, bend, intercept = (weight.numpy() for weight in model.calibration.weights)
    np.testing.assert_array_equal(slope[[1, 3]], 1)
    np.testing.assert_array_equal(np.stack([bend, intercept])[:, [1, 3]], 0)
    assert (slope[[0, 2]] != 1).all()


def test_a_fitted_reranker_is_calibrated(
    fitted: Callable[[str], FittedReranker], name: str
) -> None:
    """Its validation knows both outcomes of every item output."""
    model = fitted(name).model
    assert isinstance(model, Reranker)
    slope, bend, intercept = (weight.numpy() for weight in model.calibration.weights)
    assert (slope > 0).all() and (slope + bend > 0).all()
    assert ((slope != 1) & (bend != 0) & (intercept != 0))[:2].all()


# --- the layer ---


def test_the_layer_changes_nothing_before_it_is_told() -> None:
    logits = {"click": tf.constant([[1.0, -2.0]]), "conversion": tf.constant([[0.5, -3.0]])}
    found = layers.Calibration()(logits)
    assert list(found) == list(logits)
    for name in logits:
        np.testing.assert_array_equal(found[name], logits[name])


def test_the_layer_is_its_formula() -> None:
    calibration = layers.Calibration()
    calibration.assign("list_click", 0.5, 2.0, -0.3)
    logits = np.linspace(-20, 20, 41).astype(np.float32)
    p = expit(logits.astype(np.float64))
    expected = 0.5 * np.log(p) - 2 * np.log1p(-p) - 0.3
    found = calibration({"list_click": tf.constant(logits)})["list_click"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    calibration.reset()
    np.testing.assert_array_equal(
        calibration({"list_click": tf.constant(logits)})["list_click"], logits
    )


def test_a_conversion_never_exceeds_its_click() -> None:
    calibration = layers.Calibration()
    calibration.assign("click", 2.0, 2.0, -1.0)
    calibration.assign("conversion", 1.0, 1.0, 3.0)
    found = calibration({"click": tf.constant([3.0, 1.0]), "conversion": tf.constant([1.0, 0.5])})
    np.testing.assert_array_equal(found["click"], [5.0, 1.0])
    np.testing.assert_array_equal(found["conversion"], [4.0, 1.0])


# --- beta calibration ---


def curve(logits: np.ndarray, a: float, b: float, c: float) -> np.ndarray:
    p = expit(logits)
    return expit(a * np.log(p) - b * np.log(1 - p) + c)


@pytest.mark.parametrize("expected", [(0.5, 0.5, -2.0), (2.0, 0.5, 1.0), (0.4, 1.5, 0.0)])
def test_beta_finds_the_curve(expected: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, size=200_000)
    labels = (rng.random(len(logits)) < curve(logits, *expected)).astype(float)
    np.testing.assert_allclose(beta(logits, labels), expected, atol=0.05)


def test_beta_takes_shares_for_labels() -> None:
    logits = np.linspace(-4, 4, 100_000)
    expected = (0.7, 1.2, 0.2)
    np.testing.assert_allclose(beta(logits, curve(logits, *expected)), expected, atol=1e-2)


def test_beta_never_turns_the_order() -> None:
    logits = np.linspace(-1, 1, 50)
    a, b, _ = beta(logits, (logits < 0).astype(float))
    assert 0 < a < 0.01 and 0 < b < 0.01


@pytest.mark.parametrize("labels", [[0, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]])
def test_beta_stays_finite(labels: list[int]) -> None:
    found = beta(np.array([-2.0, -1, 1, 2]), np.array(labels))
    assert np.isfinite(found).all()
    assert max(found[:2]) < 20
