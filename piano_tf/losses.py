"""What a re-ranker learns from: TF-Ranking's listwise losses, calibration, and list losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_ranking as tfr

from piano_tf.config import LossConfig
from piano_tf.errors import ConfigError
from piano_tf.hardware import over_replicas

Tensors = Mapping[str, tf.Tensor]

# TF-Ranking's losses that compare items of one list, so that only differences of logits count.
LISTWISE = (
    "softmax_loss",
    "unique_softmax_loss",
    "approx_ndcg_loss",
    "approx_mrr_loss",
    "pairwise_logistic_loss",
    "pairwise_hinge_loss",
)


# Of those, the one whose items TF-Ranking weights one by one.
WEIGHTED = "softmax_loss"


def listwise_loss(
    name: str,
    labels: tf.Tensor,
    logits: tf.Tensor,
    *,
    mask: tf.Tensor,
    weights: tf.Tensor | None = None,
) -> tf.Tensor:
    """A TF-Ranking loss over lists, averaged over the batch's lists.

    Args:
      name: One of `LISTWISE`.
      labels: [B, N] relevance, >= 0.
      logits: [B, N].
      mask: [B, N] boolean, True = real.
      weights: [B, N] of the items' labels, for `softmax_loss` alone; 1 unless given.

    Returns:
      Scalar; 0 where no list has a positive.

    >>> logits = tf.constant([[1.0, 2.0, 99.0]])
    >>> loss = listwise_loss(
    ...     "softmax_loss",
    ...     tf.constant([[1.0, 0.0, 0.0]]),
    ...     logits,
    ...     mask=tf.constant([[True, True, False]]),
    ... )
    >>> bool(abs(loss - np.log(1 + np.e)) < 1e-6)
    True
    """
    return tf.reduce_mean(_listwise(name, labels, logits, mask, weights))


def _listwise(
    name: str, labels: tf.Tensor, logits: tf.Tensor, mask: tf.Tensor, weights: tf.Tensor | None
) -> tf.Tensor:
    """`listwise_loss` of each list: [B]."""
    _require_known(name)
    lowest = logits.dtype.min
    top = tf.reduce_max(tf.where(mask, logits, lowest), axis=1, keepdims=True)
    # TF-Ranking gives padding the logit log(1e-10). With each list's largest at 0 that is nothing,
    # however small the list's own logits are.
    shifted = tf.where(mask, logits - tf.stop_gradient(top), 0.0)
    # The one place, beside the metrics, where a label of -1 stands for padding.
    loss = tfr.keras.losses.get(name, reduction=tf.keras.losses.Reduction.NONE)
    each = loss(tf.where(mask, labels, -1.0), shifted, weights)
    # Summed within a list and averaged over lists: a mean over pairs would count padded ones too.
    return tf.reduce_sum(each, axis=list(range(1, each.shape.rank)))


def _require_known(name: str) -> None:
    if name not in LISTWISE:
        raise ConfigError(f"loss.listwise: got {name!r}, expected one of {', '.join(LISTWISE)}")


class _Counts(NamedTuple):
    """What the losses of a whole batch are divided by, of which a replica may see a part.

    Attributes:
      lists: All, padding too.
      shown: Lists with an item.
      items: Real items.
    """

    lists: tf.Tensor
    shown: tf.Tensor
    items: tf.Tensor

    @classmethod
    def of(cls, mask: tf.Tensor) -> _Counts:
        """Over all replicas, of this one's mask [B, N]."""
        shown = tf.reduce_any(mask, axis=1)
        here = [tf.ones_like(shown, tf.float32), tf.cast(shown, tf.float32)]
        parts = [tf.reduce_sum(part) for part in (*here, tf.cast(mask, tf.float32))]
        return cls(*tf.unstack(over_replicas(tf.stack(parts))))


def _mean(values: tf.Tensor, mask: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Sum over real entries, by the count of all; 0 where there are none."""
    return tf.math.divide_no_nan(tf.reduce_sum(tf.where(mask, values, 0.0)), count)


def list_targets(labels: tf.Tensor, mask: tf.Tensor, kind: str) -> tf.Tensor:
    """What a list-level output should be.

    Args:
      labels: [B, N] 0 or 1.
      mask: [B, N] boolean, True = real.
      kind: `any`, at least one positive; `rate`, the share of positives.

    Returns:
      [B] in [0, 1]; 0 for an empty list.
    """
    labels = tf.where(mask, labels, 0.0)
    if kind == "any":
        return tf.reduce_max(labels, axis=1, keepdims=False)
    shown = tf.reduce_sum(tf.cast(mask, labels.dtype), axis=1)
    return tf.math.divide_no_nan(tf.reduce_sum(labels, axis=1), shown)


def inverse_propensity(mask: tf.Tensor, propensity: np.ndarray | None) -> tf.Tensor | None:
    """Weights by which what happened at a rank stands for what would have, had it been examined.

    Args:
      mask: [B, N] boolean, candidates in their initial order.
      propensity: [K] P(examine) of the first K ranks, the last for all deeper ones, or None.

    Returns:
      [B, N] 1 / propensity of each rank; None for None.
    """
    if propensity is None:
        return None
    ranks = tf.minimum(tf.range(tf.shape(mask)[1]), len(propensity) - 1)
    weights = tf.gather(tf.constant(1 / np.asarray(propensity), tf.float32), ranks)
    return tf.broadcast_to(weights, tf.shape(mask))


class RerankingLoss:
    """Listwise(click) + w_v listwise(conversion) + w_c calibration + w_l lists + w_k consistency.

    Calibration is the sigmoid cross-entropy of every shown item's click and conversion; the list
    term is that of the two list-level outputs; consistency is (P(list click) - (1 - prod_i (1 -
    p_i)))^2. The mix is ours; a list-level loss beside the item loss is known of PIANO
    (arXiv 2606.16641) and RankFormer (arXiv 2306.05808).

    With propensities, the listwise terms weight the label at initial rank r by 1 / theta_r, so that
    their expectation is that of the same lists, had every rank been examined (T. Joachims, A.
    Swaminathan, T. Schnabel, Unbiased Learning-to-Rank with Biased Feedback, WSDM 2017, arXiv
    1608.04468). The other terms stay as they are: what they are to predict is what was logged.

    Args:
      config: The weights.
      propensity: [K] theta of the first K ranks, the last for all deeper ones; all 1 unless given.

    Raises:
      ConfigError: The listwise loss is unknown, or has no weights for single items.
    """

    def __init__(
        self, config: LossConfig | None = None, propensity: np.ndarray | None = None
    ) -> None:
        self.config = config or LossConfig()
        self.propensity = propensity
        _require_known(self.config.listwise)  # inside a graph the error would lose its sentence
        if propensity is not None and self.config.listwise != WEIGHTED:
            raise ConfigError(
                f"loss.listwise: got {self.config.listwise!r}, expected {WEIGHTED!r}, the one that "
                "training.debiasing can weight"
            )

    def __call__(self, labels: Tensors, outputs: Tensors, mask: tf.Tensor) -> tf.Tensor:
        """The loss of a batch.

        Args:
          labels: `click`, `conversion` -> [B, N] 0 or 1.
          outputs: Logits `click`, `conversion` [B, N], `list_click`, `list_conversion` [B].
          mask: [B, N] boolean, True = real.

        Returns:
          Scalar. Inside a step of one of several replicas, its part of the loss: the parts of a
          batch sum to the loss that one replica alone would have of it all.
        """
        c = self.config
        counts = _Counts.of(mask)
        nonempty = tf.reduce_any(mask, axis=1)
        weights = inverse_propensity(mask, self.propensity)
        entropy = tf.nn.sigmoid_cross_entropy_with_logits
        terms = []
        for label, weight in (("click", 1.0), ("conversion", c.conversion)):
            y, logits = tf.cast(labels[label], tf.float32), tf.cast(outputs[label], tf.float32)
            ranking = tf.reduce_sum(_listwise(c.listwise, y, logits, mask, weights))
            terms.append(weight * tf.math.divide_no_nan(ranking, counts.lists))
            terms.append(c.calibration * _mean(entropy(y, logits), mask, counts.items))
            target = list_targets(y, mask, c.list_target)
            list_logits = tf.cast(outputs[f"list_{label}"], tf.float32)
            terms.append(c.list_level * _mean(entropy(target, list_logits), nonempty, counts.shown))
        if c.consistency:
            misses = tf.where(mask, -tf.nn.softplus(tf.cast(outputs["click"], tf.float32)), 0.0)
            independent = 1 - tf.exp(tf.reduce_sum(misses, axis=1))
            gap = tf.sigmoid(tf.cast(outputs["list_click"], tf.float32)) - independent
            terms.append(c.consistency * _mean(tf.square(gap), nonempty, counts.shown))
        # Not a + b + c: TensorFlow's graph optimiser makes of long sums an operation that at times
        # fails ("TemporaryVariable already exists").
        return tf.reduce_sum(tf.stack(terms))
