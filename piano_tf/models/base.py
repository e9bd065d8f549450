"""What every re-ranker is: the same inputs, the same four outputs, the same training."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from piano_tf import losses
from piano_tf.config import ModelConfig
from piano_tf.features import (
    CLICK,
    CONVERSION,
    LABELS,
    LIST_CLICK,
    LIST_CONVERSION,
    Axis,
    InputSpec,
)
from piano_tf.hardware import over_replicas
from piano_tf.layers import Calibration, PretrainedVectors
from piano_tf.masks import mask_of
from piano_tf.metrics import ListMetric

Logits = tuple[tf.Tensor, tf.Tensor]  # Of click, and of click and conversion.


@dataclasses.dataclass
class _Meters:
    """Metrics, in an object that Keras does not look into: their state is no weight of a model."""

    loss: tf.keras.metrics.Mean
    metrics: list[ListMetric]


class Reranker(tf.keras.Model):
    """Base of all re-rankers. A subclass builds its layers in `__init__` and defines `logits`.

    `model(batch)` takes encoded inputs (see `piano_tf.data.encoding.encode`) and returns logits:
    `click` and `conversion` [B, N] (conversion over the entire space, that is click and
    conversion), `list_click` and `list_conversion` [B]. What stands at padding means nothing.

    Args:
      inputs: The inputs' columns and vocabularies; an `InputSpec`, or its dictionary.
      config: Sizes; a `ModelConfig`, or its dictionary.
    """

    def __init__(self, inputs: InputSpec | dict, config: ModelConfig | dict, **kwargs) -> None:
        super().__init__(**kwargs)
        self.inputs_spec = InputSpec.model_validate(inputs)
        self.config = ModelConfig.model_validate(config)
        self.calibration = Calibration(name="calibration")
        self._meters = _Meters(tf.keras.metrics.Mean("loss"), [])

    def logits(
        self, batch: Mapping[str, tf.Tensor], training: bool | None = None
    ) -> tuple[Logits, Logits | None]:
        """What the network says, before `layers.Calibration`.

        Args:
          batch: Encoded inputs.
          training: Whether dropout is on.

        Returns:
          (click, conversion) logits of items [B, N], and of lists [B]; None for lists makes of
          them what the items say, taken as independent.
        """
        raise NotImplementedError

    def call(
        self, batch: Mapping[str, tf.Tensor], training: bool | None = None
    ) -> dict[str, tf.Tensor]:
        items, lists = self.logits(batch, training=training)
        return outputs_of(items, lists, mask_of(batch, Axis.ITEM), self.calibration)

    def compile(
        self,
        optimizer: str | tf.keras.optimizers.Optimizer = "adam",
        loss: losses.RerankingLoss | None = None,
        metrics: Sequence[ListMetric] = (),
        **kwargs,
    ) -> None:
        """Prepares for `fit` and `evaluate`.

        Args:
          optimizer: As in Keras.
          loss: Over all outputs at once; `RerankingLoss()` by default.
          metrics: Metrics over whole lists, from `piano_tf.metrics`.
          **kwargs: As in Keras.

        Raises:
          TypeError: `loss` or a metric is one of Keras's own, which know nothing of masks.
        """
        if loss is not None and not isinstance(loss, losses.RerankingLoss):
            raise TypeError(f"loss: got {loss!r}, expected a piano_tf.losses.RerankingLoss")
        for metric in metrics:
            if not isinstance(metric, ListMetric):
                raise TypeError(f"metrics: got {metric!r}, expected one of piano_tf.metrics")
        super().compile(optimizer=optimizer, **kwargs)
        self._reranking_loss = loss or losses.RerankingLoss()
        self._meters.metrics = list(metrics)

    @property
    def metrics(self) -> list[tf.keras.metrics.Metric]:
        return [self._meters.loss, *self._meters.metrics]

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None) -> tf.Tensor:
        loss = self._reranking_loss(y, y_pred, mask_of(x, Axis.ITEM))
        # Of several replicas each has a part of the loss; the meter's mean is over all lists.
        lists = tf.cast(tf.shape(x["item_id"])[0], loss.dtype)
        self._meters.loss.update_state(
            tf.math.divide_no_nan(loss * over_replicas(lists), lists), lists
        )
        return loss

    def compute_metrics(self, x, y, y_pred, sample_weight) -> dict[str, tf.Tensor]:
        for metric in self._meters.metrics:
            metric.update_state(y, y_pred, mask_of(x, Axis.ITEM))
        return self.get_metrics_result()

    def assign_vectors(self, tables: Mapping[str, np.ndarray]) -> None:
        """Sets the vectors of `piano_tf.pretraining.pretrain`, where the model takes any."""
        for part in self.submodules:
            if isinstance(part, PretrainedVectors):
                part.assign(tables)

    def get_config(self) -> dict:
        return {
            "inputs": json.loads(self.inputs_spec.model_dump_json()),
            "config": json.loads(self.config.model_dump_json()),
        }


def inference(model: Any, method: str = "__call__") -> Callable[[Mapping[str, tf.Tensor]], Any]:
    """`model.method(batch, training=False)` in one graph for batches of any size.

    Args:
      model: A re-ranker, or what is called like one; it runs as it is where it has a true
        attribute `eager`.
      method: `__call__` or `logits`.
    """
    call = getattr(model, method)

    def answer(batch: Mapping[str, tf.Tensor]) -> Any:
        return call(batch, training=False)

    eager = getattr(model, "eager", False)
    return answer if eager else tf.function(answer, reduce_retracing=True)


def outputs_of(
    items: Logits, lists: Logits | None, mask: tf.Tensor, calibration: Calibration
) -> dict[str, tf.Tensor]:
    """The output dictionary from what `Reranker.logits` returns.

    Args:
      items: (click, conversion) logits [B, N].
      lists: (click, conversion) logits [B]; None for independent items.
      mask: [B, N] boolean, True = real.
      calibration: Of the model.
    """
    of_items = calibration(dict(zip(LABELS, items, strict=True)))
    if lists is None:
        lists = independent_lists((of_items[CLICK], of_items[CONVERSION]), mask)
    of_lists = calibration(dict(zip((LIST_CLICK, LIST_CONVERSION), lists, strict=True)))
    return {**of_items, **of_lists}


def independent_list_logit(logits: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Logit of P(at least one) if items were independent: 1 - prod_i (1 - p_i).

    In log space: log prod = -sum softplus.

    Args:
      logits: [B, N].
      mask: [B, N] boolean, True = real.

    Returns:
      [B], clipped so that a list of sure misses or sure hits stays finite.

    >>> p = tf.constant([[0.5, 0.5]])
    >>> logit = independent_list_logit(tf.math.log(p / (1 - p)), tf.constant([[True, True]]))
    >>> bool(abs(tf.sigmoid(logit)[0] - (1 - 0.5 * 0.5)) < 1e-6)
    True
    """
    none = -tf.reduce_sum(tf.where(mask, tf.nn.softplus(logits), 0.0), axis=1)
    none = tf.clip_by_value(none, -30.0, -1e-7)
    return tf.math.log(-tf.math.expm1(none)) - none


def independent_lists(items: Logits, mask: tf.Tensor) -> Logits:
    """`independent_list_logit` of click and of conversion: [B] each of [B, N]."""
    click, conversion = items
    return independent_list_logit(click, mask), independent_list_logit(conversion, mask)
