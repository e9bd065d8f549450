"""How good an order and its probabilities are, behind the one mask convention.

Conventions: NDCG has gain 2^y - 1 and discount log2(1 + rank); lists without a positive do not
count; ties stand in the order of the first stage.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf
import tensorflow_ranking as tfr

from piano_tf.features import CLICK, CONVERSION
from piano_tf.losses import inverse_propensity, list_targets
from piano_tf.rerank import order_of

Tensors = Mapping[str, tf.Tensor]


class ListMetric(tf.keras.metrics.Metric):
    """A metric over (labels, outputs, mask); subclasses wrap a metric that knows how to average.

    Args:
      inner: Accumulates.
      name: Its name in logs.
    """

    def __init__(self, inner: tf.keras.metrics.Metric, name: str) -> None:
        super().__init__(name=name)
        self.inner = inner

    def update_state(self, labels: Tensors, outputs: Tensors, mask: tf.Tensor) -> None:
        """Takes in a batch.

        Args:
          labels: `click`, `conversion` -> [B, N] 0 or 1.
          outputs: A model's outputs, or anything of the same names and shapes.
          mask: [B, N] boolean, True = real.
        """
        raise NotImplementedError

    def result(self) -> tf.Tensor:
        return self.inner.result()

    def reset_state(self) -> None:
        self.inner.reset_state()


class NDCG(ListMetric):
    """NDCG@k of the order by one output, for one label.

    With propensities each gain counts 1 / theta of its initial rank, and each list the mean of
    these over its positives, so that what was rarely examined where it stood is not taken for bad.

    Args:
      label: `click` or `conversion`.
      k: Ranks that count.
      by: The output whose values order the list; the label's own by default.
      propensity: [K] theta of the first K initial ranks; all 1 unless given.
    """

    def __init__(
        self,
        label: str,
        k: int = 10,
        *,
        by: str | None = None,
        propensity: np.ndarray | None = None,
    ) -> None:
        inner = tfr.keras.metrics.NDCGMetric(topn=k)
        super().__init__(inner, f"{label}_ndcg_{k}")
        self.label = label
        self.by = by or label
        self.propensity = propensity

    def update_state(self, labels: Tensors, outputs: Tensors, mask: tf.Tensor) -> None:
        y = tf.cast(labels[self.label], tf.float32)
        positive = tf.reduce_any(mask & (y > 0), axis=1, keepdims=True)
        rank = tf.argsort(order_of(outputs[self.by], mask), axis=1)
        # TF-Ranking breaks ties at random; distinct scores leave it none.
        scores = 1 / (1 + tf.cast(rank, tf.float32))
        weights = tf.cast(positive & mask, tf.float32)
        if self.propensity is not None:
            weights *= inverse_propensity(mask, self.propensity)
        self.inner.update_state(tf.where(mask, y, -1.0), scores, weights)


class _LogitAUC(tf.keras.metrics.AUC):
    """AUC in buckets of logits, for rare events all fall into one equal bucket of probability.

    What Keras computes, by less work: a case is put into its bucket once, and not held against each
    threshold.
    """

    def __init__(self) -> None:
        thresholds = tf.sigmoid(tf.linspace(-15.0, 15.0, 199)).numpy().tolist()
        super().__init__(thresholds=thresholds, from_logits=True)

    def update_state(self, truth: tf.Tensor, logits: tf.Tensor, real: tf.Tensor) -> None:
        """Takes in cases.

        Args:
          truth: 0 or 1, of any shape.
          logits: Of the same shape.
          real: Boolean, of the same shape; the others do not count.
        """
        p = tf.reshape(tf.sigmoid(tf.where(real, tf.cast(logits, tf.float32), 0.0)), [-1])
        known = tf.debugging.assert_greater_equal(p, 0.0, "a prediction is not a number")
        weight = tf.reshape(tf.cast(real, tf.float32), [-1])
        positive = weight * tf.reshape(tf.cast(truth, tf.float32), [-1])
        thresholds = tf.constant(self.thresholds, tf.float32)
        with tf.control_dependencies([] if known is None else [known]):
            below = tf.searchsorted(thresholds, p)  # how many thresholds are
        both = tf.stack([positive, weight - positive], axis=1)
        counts = tf.math.unsorted_segment_sum(both, below, len(self.thresholds) + 1)
        reached = tf.cumsum(counts, reverse=True, exclusive=True)[:-1]
        missed = tf.reduce_sum(counts, axis=0) - reached
        self.true_positives.assign_add(reached[:, 0])
        self.false_positives.assign_add(reached[:, 1])
        self.false_negatives.assign_add(missed[:, 0])
        self.true_negatives.assign_add(missed[:, 1])


class ItemAUC(ListMetric):
    """AUC of one output over all shown items.

    Args:
      label: `click` or `conversion`.
    """

    def __init__(self, label: str) -> None:
        super().__init__(_LogitAUC(), f"{label}_auc")
        self.label = label

    def update_state(self, labels: Tensors, outputs: Tensors, mask: tf.Tensor) -> None:
        self.inner.update_state(labels[self.label], outputs[self.label], mask)


class ListAUC(ListMetric):
    """AUC of a list-level output against "at least one in the list".

    Args:
      label: `click` or `conversion`.
    """

    def __init__(self, label: str) -> None:
        super().__init__(_LogitAUC(), f"list_{label}_auc")
        self.label = label

    def update_state(self, labels: Tensors, outputs: Tensors, mask: tf.Tensor) -> None:
        target = list_targets(tf.cast(labels[self.label], tf.float32), mask, "any")
        shown = tf.reduce_any(mask, axis=1)  # a list of padding only is no list
        self.inner.update_state(target, outputs[f"list_{self.label}"], shown)


def default_metrics(propensity: np.ndarray | None = None) -> list[ListMetric]:
    """NDCG@10, AUC and list-level AUC, for click and for conversion.

    Args:
      propensity: As in `NDCG`.
    """
    return [
        metric
        for label in (CLICK, CONVERSION)
        for metric in (NDCG(label, propensity=propensity), ItemAUC(label), ListAUC(label))
    ]
