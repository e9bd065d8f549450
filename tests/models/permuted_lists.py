"""Lists whose candidates change places and keep their initial ranks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from unittest import mock

import numpy as np
import tensorflow as tf

from piano_tf import layers
from piano_tf.data.encoding import Batch

# Models of which the law of permutations cannot hold, by design.
READS_IN_ORDER = {
    "dlcm": "it reads the list in the order of ranks",
    "first_stage": "its only input is the rank",
}


def places_of(order: Sequence[int], mask: tf.Tensor) -> np.ndarray:
    """[B, N] a permutation of the longest list in each list: padding stays at the end."""
    found = [
        [place for place in order if real[place]] + np.flatnonzero(~real).tolist()
        for real in mask.numpy()
    ]
    return np.array(found)


def moved_inputs(batch: Batch, places: np.ndarray) -> Batch:
    """Encoded inputs whose candidates have changed places."""
    return {
        name: _moved(values, places) if name.startswith(("initial_score", "item_")) else values
        for name, values in batch.items()
    }


def moved_outputs(outputs: Batch, places: np.ndarray) -> Batch:
    """What is said of candidates has changed places with them."""
    return {
        name: _moved(values, places) if values.shape.rank == 2 else values
        for name, values in outputs.items()
    }


def _moved(values: tf.Tensor, places: np.ndarray) -> tf.Tensor:
    return tf.gather(values, places, axis=1, batch_dims=1)


@contextlib.contextmanager
def ranks(places: np.ndarray) -> Iterator[None]:
    """Models take these for the initial ranks, and not the places in the list."""
    original = layers.ListInputEncoder.call

    def with_ranks(self, batch, training=None) -> layers.ListInputs:
        return original(self, batch, training)._replace(rank=tf.constant(places, tf.int32))

    with mock.patch.object(layers.ListInputEncoder, "call", with_ranks):
        yield
