"""Two kinds of things that occur together, as vectors: a TensorFlow Recommenders retrieval task."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from piano_tf.config import PretrainingConfig


class _TwoTowers(tfrs.Model):
    """A table each; a left side of several ids is the sum of their vectors."""

    def __init__(
        self, left_rows: int, frequency: np.ndarray, config: PretrainingConfig, seed: int
    ) -> None:
        super().__init__()
        self.left, self.item = (
            tf.keras.layers.Embedding(
                rows,
                config.width,
                tf.keras.initializers.RandomNormal(stddev=config.width**-0.5, seed=seed + number),
            )
            for number, rows in enumerate((left_rows, len(frequency)))
        )
        self.frequency = tf.constant(frequency, tf.float32)
        self.task = tfrs.tasks.Retrieval(
            temperature=config.temperature, remove_accidental_hits=True
        )

    def compute_loss(
        self, inputs: tuple[tf.Tensor, tf.Tensor], training: bool = False
    ) -> tf.Tensor:
        left_ids, item_ids = inputs
        real = tf.cast(left_ids != 0, tf.float32)[..., tf.newaxis]
        return self.task(
            tf.math.l2_normalize(tf.reduce_sum(self.left(left_ids) * real, axis=1), axis=-1),
            tf.math.l2_normalize(self.item(item_ids), axis=-1),
            # Popular items are negatives more often; the task takes that out of the logits.
            candidate_sampling_probability=tf.gather(self.frequency, item_ids),
            candidate_ids=item_ids,
            compute_metrics=False,
        )


def train_towers(
    left: np.ndarray,
    items: np.ndarray,
    left_rows: int,
    item_rows: int,
    config: PretrainingConfig,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Trains one task with in-batch softmax (Yi et al., RecSys 2019).

    Args:
      left: [n, S] ids of what items were chosen by or under, 0 pads.
      items: [n] ids.
      left_rows, item_rows: Rows of the two tables.
      config: Width and training.
      seed: Of initialisation and shuffling.

    Returns:
      [left_rows, P] and [item_rows, P]; what never occurs is the zero vector.
    """
    count = np.bincount(items, minlength=item_rows)
    towers = _TwoTowers(left_rows, np.maximum(count, 1) / len(items), config, seed)
    towers.compile(tf.keras.optimizers.Adagrad(config.learning_rate))
    # Not `Dataset.shuffle`, whose order depends on the program's global seed too.
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(len(items)) for _ in range(config.epochs)])
    batches = tf.data.Dataset.from_tensor_slices(order).batch(config.batch_size)
    towers.fit(batches.map(lambda rows: (tf.gather(left, rows), tf.gather(items, rows))), verbose=0)
    lefts, rights = towers.left.embeddings.numpy(), towers.item.embeddings.numpy()
    lefts[np.bincount(left.ravel(), minlength=left_rows) == 0] = 0
    lefts[0], rights[count == 0] = 0, 0
    return lefts, rights
