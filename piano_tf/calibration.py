"""The calibrating step after training: what `layers.Calibration` should hold, from validation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import scipy.optimize
import scipy.special
import tensorflow as tf

from piano_tf.features import LABELS, Axis
from piano_tf.losses import list_targets
from piano_tf.masks import mask_of
from piano_tf.models import LambdaMART, Reranker, inference

Tensors = Mapping[str, tf.Tensor]

_LEAST_SLOPE = 1e-3


def calibrate(
    model: Reranker | LambdaMART,
    validation: Iterable[tuple[Tensors, Tensors]],
    list_target: str = "any",
) -> None:
    """Fits the model's `Calibration` and leaves it there; an earlier one is forgotten.

    Items come first: a model without a list head says of the list what its calibrated items imply.
    An output that validation shows only one outcome of stays as it is.

    Args:
      model: Trained.
      validation: Batches of (inputs, labels), read twice.
      list_target: What the list outputs were trained for, `any` or `rate`
        (`piano_tf.config.LossConfig`).
    """
    model.calibration.reset()
    answer = inference(model)
    for kind in ("items", "lists"):
        for output, (logits, target) in _held_out(answer, validation, kind, list_target).items():
            if 0 < target.mean() < 1:
                model.calibration.assign(output, *platt(logits, target))


def _held_out(
    answer: Callable[[Tensors], Tensors],
    validation: Iterable[tuple[Tensors, Tensors]],
    kind: str,
    list_target: str,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Output -> logits and truth of all real items, or of all lists with any."""
    prefix = "" if kind == "items" else "list_"
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {prefix + name: [] for name in LABELS}
    for inputs, labels in validation:
        mask = mask_of(inputs, Axis.ITEM)
        outputs = answer(inputs)
        shown = tf.reduce_any(mask, axis=1) if prefix else mask
        for label in LABELS:
            truth = tf.cast(labels[label], tf.float32)
            truth = list_targets(truth, mask, list_target) if prefix else truth
            logits = tf.boolean_mask(outputs[prefix + label], shown)
            truth = tf.boolean_mask(truth, shown)
            found[prefix + label].append((logits.numpy(), truth.numpy()))
    return {name: _joined(pairs) for name, pairs in found.items() if pairs}


def _joined(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    logits, truth = zip(*pairs, strict=True)
    return np.concatenate(logits).astype(np.float64), np.concatenate(truth).astype(np.float64)


def platt(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Platt's sigmoid: slope and intercept that make scores the logits of labels.

    Minimises the cross-entropy against (P + 1) / (P + 2) for the P positives and 1 / (M + 2) for
    the M negatives (Platt, 1999), which keeps the slope finite where scores separate them. The
    slope stays above 0, so that the order of the scores is the order of the logits [ours].

    Args:
      scores: [n].
      labels: [n] in [0, 1]; a share in between counts as so much of either.

    >>> slope, intercept = platt(np.array([-1.0, -1, 1, 1]), np.array([0, 0, 1, 1]))
    >>> bool(abs(1 / (1 + np.exp(-slope - intercept)) - 3 / 4) < 1e-4)
    True
    """
    positives, negatives = labels.sum(), (1 - labels).sum()
    target = labels * (positives + 1) / (positives + 2) + (1 - labels) / (negatives + 2)

    def entropy(x: np.ndarray) -> tuple[float, np.ndarray]:
        logits = x[0] * scores + x[1]
        residual = scipy.special.expit(logits) - target
        value = np.logaddexp(0, logits) - target * logits
        return value.mean(), np.array([(residual * scores).mean(), residual.mean()])

    start = np.array([1.0, scipy.special.logit(target.mean())])
    bounds = [(_LEAST_SLOPE, None), (None, None)]
    found = scipy.optimize.minimize(entropy, start, jac=True, bounds=bounds, tol=1e-12)
    return float(found.x[0]), float(found.x[1])
