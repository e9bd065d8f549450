"""The calibrating step after training: what `layers.Calibration` should hold, from validation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.special
import tensorflow as tf

from piano_tf.features import CLICK, CONVERSION, LABELS, Axis
from piano_tf.layers import Calibration
from piano_tf.losses import list_targets
from piano_tf.masks import mask_of
from piano_tf.models import LambdaMART, Reranker, inference
from piano_tf.models.base import Logits, independent_lists, outputs_of

Tensors = Mapping[str, tf.Tensor]

_LEAST_SLOPE = 1e-3


def calibrate(
    model: Reranker | LambdaMART,
    validation: Iterable[tuple[Tensors, Tensors]],
    list_target: str = "any",
) -> list[Answered]:
    """Fits the model's `Calibration` and leaves it there; an earlier one is forgotten.

    Items come first: a model without a list head says of the list what its calibrated items imply.
    An output that validation shows only one outcome of stays as it is.

    Args:
      model: Trained.
      validation: Batches of (inputs, labels).
      list_target: What the list outputs were trained for, `any` or `rate`
        (`piano_tf.config.LossConfig`).

    Returns:
      What the model says of each batch from now on.
    """
    model.calibration.reset()
    answer = inference(model, "logits")
    said = []
    for inputs, labels in validation:
        items, lists = answer(inputs)
        truth = {label: tf.cast(labels[label], tf.float32) for label in LABELS}
        said.append(_Said(items, lists, mask_of(inputs, Axis.ITEM), truth))
    for number, label in enumerate(LABELS):
        cases = [(batch.items[number], batch.labels[label], batch.mask) for batch in said]
        _fit(model.calibration, label, cases)
    of_lists = [batch.list_logits(model.calibration) for batch in said]
    for number, label in enumerate(LABELS):
        cases = [
            (
                logits[number],
                list_targets(batch.labels[label], batch.mask, list_target),
                tf.reduce_any(batch.mask, axis=1),
            )
            for logits, batch in zip(of_lists, said, strict=True)
        ]
        _fit(model.calibration, f"list_{label}", cases)
    return [
        Answered(
            outputs_of(batch.items, batch.lists, batch.mask, model.calibration),
            batch.labels,
            batch.mask,
        )
        for batch in said
    ]


class Answered(NamedTuple):
    """A batch of lists with what a model says of it.

    Attributes:
      outputs: As `Reranker.call` returns them.
      labels: Label -> [B, N].
      mask: [B, N] boolean, True = real.
    """

    outputs: Tensors
    labels: Tensors
    mask: tf.Tensor


_Cases = tuple[tf.Tensor, tf.Tensor, tf.Tensor]  # Logits, truth, and which of them are real.


class _Said(NamedTuple):
    """What a model says of a batch before calibration (`Reranker.logits`), and what happened."""

    items: Logits
    lists: Logits | None
    mask: tf.Tensor
    labels: Tensors

    def list_logits(self, calibration: Calibration) -> Logits:
        if self.lists is not None:
            return self.lists
        items = calibration(dict(zip(LABELS, self.items, strict=True)))
        return independent_lists((items[CLICK], items[CONVERSION]), self.mask)


def _fit(calibration: Calibration, output: str, cases: Iterable[_Cases]) -> None:
    parts = [
        (tf.boolean_mask(logits, real).numpy(), tf.boolean_mask(truth, real).numpy())
        for logits, truth, real in cases
    ]
    logits, truth = (np.concatenate(part).astype(np.float64) for part in zip(*parts, strict=True))
    if len(truth) and 0 < truth.mean() < 1:
        calibration.assign(output, *beta(logits, truth))


def beta(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """a, b and c of the curve (`layers.Calibration`) that makes logits those of labels.

    Minimises the cross-entropy against (P + 1) / (P + 2) for the P positives and 1 / (M + 2) for
    the M negatives (J. Platt, 1999), which keeps slopes finite where logits separate them. Both
    slopes stay above 0, so that the order stays [ours].

    Args:
      logits: [n].
      labels: [n] in [0, 1]; a share in between counts as so much of either.

    >>> a, b, c = beta(np.array([-1.0, -1, 1, 1]), np.array([0, 0, 1, 1]))
    >>> x = a * 1 + (b - a) * np.log1p(np.exp(1)) + c
    >>> bool(abs(1 / (1 + np.exp(-x)) - 3 / 4) < 1e-3)
    True
    """
    positives, negatives = labels.sum(), (1 - labels).sum()
    target = labels * (positives + 1) / (positives + 2) + (1 - labels) / (negatives + 2)
    features = np.stack(
        [-np.logaddexp(0, -logits), np.logaddexp(0, logits), np.ones_like(logits)], axis=1
    )

    def entropy(weights: np.ndarray) -> tuple[float, np.ndarray]:
        x = features @ weights
        value = np.logaddexp(0, x) - target * x
        return value.mean(), features.T @ (scipy.special.expit(x) - target) / len(x)

    bounds = [(_LEAST_SLOPE, None), (_LEAST_SLOPE, None), (None, None)]
    start = np.array([1.0, 1.0, 0.0])
    found = scipy.optimize.minimize(
        entropy, start, jac=True, bounds=bounds, method="L-BFGS-B", options={"ftol": 1e-13}
    )
    a, b, c = map(float, found.x)
    return a, b, c
