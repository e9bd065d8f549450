"""LambdaMART: gradient-boosted trees on LambdaRank's gradients, by LightGBM."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy.special
import tensorflow as tf

from piano_tf import layers
from piano_tf.config import ModelConfig, PretrainingConfig
from piano_tf.features import CLICK, CONVERSION, LABELS, Axis, InputSpec
from piano_tf.masks import mask_of
from piano_tf.models.base import Logits, outputs_of
from piano_tf.models.co_listening import CoListening
from piano_tf.pretraining.interactions import interactions_of

Tensors = Mapping[str, tf.Tensor]

_ROUNDS = 2000
_PATIENCE = 40
_PARAMETERS = {
    "objective": "lambdarank",
    "lambdarank_truncation_level": 10,
    "metric": "ndcg",
    "eval_at": [10],
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "deterministic": True,
    "force_row_wise": True,  # or LightGBM chooses by a timing
    "verbosity": -1,
}


class LambdaMART:
    """Two rankers of trees, one for click and one for conversion, over hand-made features.

    Per candidate: the initial rank; each float feature, its distance from the list's largest and
    from the logarithm of the list's sum (encoded floats are standardised logarithms, so that
    differences are ratios); `layers.MatchFeatures`; `CoListening` to the history. The rankers
    optimise NDCG@10 (Burges, MSR-TR-2010-82; LightGBM, NeurIPS 2017) and stop early on validation.
    Their scores are no logits before `piano_tf.calibration.calibrate`. The features are ours. The
    list-level outputs take items as independent.

    Not a Keras model: `fit_lists` trains it, it runs eagerly, and it cannot be exported.

    Args:
      inputs: The inputs' columns and vocabularies; an `InputSpec`, or its dictionary.
      config: Which inputs there are; a `ModelConfig`, or its dictionary.
      name: Its name.
      num_threads: Of LightGBM; 0 for as many as OpenMP gives. Results do not depend on it.
    """

    eager = True

    def __init__(
        self,
        inputs: InputSpec | dict,
        config: ModelConfig | dict,
        name: str = "lambdamart",
        *,
        num_threads: int = 0,
    ) -> None:
        self.inputs_spec = InputSpec.model_validate(inputs)
        self.config = c = ModelConfig.model_validate(config)
        self.name = name
        self.num_threads = num_threads
        self._floats = [
            column.name
            for column in self.inputs_spec.features.columns(labels=False)
            if column.axis is Axis.ITEM and column.type == "float"
        ]
        self._pretrained = None
        if c.pretraining is not None:
            shape = c.pretraining.width, c.pretraining.folds
            self._pretrained = layers.PretrainedVectors(self.inputs_spec, *shape)
        self._match = layers.MatchFeatures(self.inputs_spec, c.match_queries) if c.match else None
        self._co_listening: CoListening | None = None
        self._rankers: dict[str, _Ranker] = {}
        self.calibration = layers.Calibration(name="calibration")

    def assign_vectors(self, tables: Mapping[str, np.ndarray]) -> None:
        """Sets the vectors of `piano_tf.pretraining.pretrain`, where the configuration has any."""
        if self._pretrained is not None:
            self._pretrained.assign(tables)

    def fit_lists(
        self,
        train: Iterable[tuple[Tensors, Tensors]],
        validation: Iterable[tuple[Tensors, Tensors]],
        *,
        seed: int,
    ) -> None:
        """Trains both rankers.

        Args:
          train: Batches of (inputs, labels), read twice.
          validation: Batches of (inputs, labels), to stop by.
          seed: Of the choice of features and items for each tree.
        """
        if self.config.match:
            rows = self.inputs_spec.rows
            self._co_listening = CoListening(
                interactions_of(train),
                items=rows["item_id"],
                users=rows["user_id"],
                folds=(self.config.pretraining or PretrainingConfig()).folds,
            )
        parameters = {
            **_PARAMETERS,
            **self.config.trees.model_dump(),
            "seed": seed,
            "num_threads": self.num_threads,
        }
        known, held_out = self._table(train), self._table(validation)
        self._rankers = {label: _Ranker(parameters, known, held_out, label) for label in LABELS}

    def __call__(self, batch: Tensors, training: bool = False) -> dict[str, tf.Tensor]:
        """Predicts for an encoded batch: the four logits of `features.OUTPUTS`.

        Raises:
          RuntimeError: It was never fitted.
        """
        return outputs_of(*self.logits(batch), mask_of(batch, Axis.ITEM), self.calibration)

    def logits(self, batch: Tensors, training: bool = False) -> tuple[Logits, None]:
        """As `Reranker.logits`: what the two rankers say, each on a scale of its own."""
        if not self._rankers:
            raise RuntimeError("lambdamart is not fitted: fit_lists comes first")
        mask = mask_of(batch, Axis.ITEM).numpy()
        features = self._features(batch)
        click, conversion = (np.zeros(mask.shape, np.float32) for _ in LABELS)
        for scores, label in ((click, CLICK), (conversion, CONVERSION)):
            scores[mask] = self._rankers[label](features)
        return (tf.constant(click), tf.constant(conversion)), None

    def _table(self, lists: Iterable[tuple[Tensors, Tensors]]) -> _Table:
        features, sizes = [], []
        relevance: dict[str, list[np.ndarray]] = {label: [] for label in LABELS}
        for inputs, labels in lists:
            mask = mask_of(inputs, Axis.ITEM).numpy()
            features.append(self._features(inputs))
            sizes.append(mask.sum(axis=1))
            for label in LABELS:
                relevance[label].append(labels[label].numpy()[mask])
        counts = np.concatenate(sizes)
        return _Table(
            np.concatenate(features),
            counts[counts > 0],
            {label: np.concatenate(parts) for label, parts in relevance.items()},
        )

    def _features(self, batch: Tensors) -> np.ndarray:
        """[items, features] of the real items of a batch."""
        mask = mask_of(batch, Axis.ITEM).numpy()
        found = [np.broadcast_to(np.arange(mask.shape[1]), mask.shape)]
        for name in self._floats:
            values = np.where(mask, batch[name].numpy(), -np.inf)
            with np.errstate(invalid="ignore"):  # of an empty list, -inf - -inf
                found += [
                    values,
                    values - values.max(axis=1, keepdims=True),
                    values - scipy.special.logsumexp(values, axis=1, keepdims=True),
                ]
        if self._match is not None:
            pretrained = None if self._pretrained is None else self._pretrained(batch)
            found += list(np.moveaxis(self._match(batch, pretrained).numpy(), -1, 0))
        if self._co_listening is not None:
            found += self._similarities(batch)
        return np.stack([values[mask] for values in found], axis=1).astype(np.float32)

    def _similarities(self, batch: Tensors) -> list[np.ndarray]:
        """Largest, mean of the three largest, and mean of `CoListening` over the history."""
        assert self._co_listening is not None
        past = batch["history_item_id"].numpy()
        similar = self._co_listening(batch["item_id"].numpy(), past, batch["user_id"].numpy())
        # Zeros stand for a history that is shorter than three.
        top = np.partition(np.pad(similar, [(0, 0), (0, 0), (0, 3)]), -3, axis=2)[:, :, -3:]
        length = np.maximum((past != 0).sum(axis=1), 1)[:, np.newaxis]
        return [top.max(axis=2), top.mean(axis=2), similar.sum(axis=2) / length]


class _Table(NamedTuple):
    """Features [items, F], how many items each list has, and their labels."""

    features: np.ndarray
    sizes: np.ndarray
    relevance: Mapping[str, np.ndarray]


class _Ranker:
    """Trees for one label."""

    def __init__(
        self, parameters: Mapping[str, Any], train: _Table, validation: _Table, label: str
    ) -> None:
        import lightgbm  # here, for it loads slowly and no other model needs it

        known = lightgbm.Dataset(train.features, train.relevance[label], group=train.sizes)
        held_out = lightgbm.Dataset(
            validation.features,
            validation.relevance[label],
            group=validation.sizes,
            reference=known,
        )
        self._trees = lightgbm.train(
            dict(parameters),
            known,
            num_boost_round=_ROUNDS,
            valid_sets=[held_out],
            callbacks=[lightgbm.early_stopping(_PATIENCE, verbose=False)],
        )
        self._threads = parameters["num_threads"]

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Scores [n] of features [n, F]."""
        if not len(features):
            return np.zeros(0)
        return np.asarray(self._trees.predict(features, num_threads=self._threads))
