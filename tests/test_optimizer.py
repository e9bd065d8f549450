"""The fused optimizer is Keras's."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from piano_tf.optimizer import FusedAdam

STEPS = 12


def moved(optimizer: tf.keras.optimizers.Optimizer, *, graph: bool) -> list[np.ndarray]:
    """A matrix and a table after some steps; of the table a batch touches a few rows only."""
    rng = np.random.default_rng(0)
    start = rng.normal(size=(2, 6, 3)).astype(np.float32)
    matrix, table = tf.Variable(start[0]), tf.Variable(start[1])
    optimizer.build([matrix, table])

    def step(wanted: tf.Tensor, ids: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            distance = tf.gather(table, ids) - tf.matmul(wanted, matrix, transpose_b=True)[:, :3]
            loss = tf.reduce_sum(tf.square(distance))
        gradients = tape.gradient(loss, [matrix, table])
        assert isinstance(gradients[1], tf.IndexedSlices)
        optimizer.apply_gradients(zip(gradients, [matrix, table], strict=True))

    run = tf.function(step) if graph else step
    for _ in range(STEPS):
        ids = rng.integers(0, 4, 5)  # with repeats, and never the last two rows
        run(tf.constant(rng.normal(size=(5, 3)), tf.float32), tf.constant(ids))
    return [matrix.numpy(), table.numpy(), *(variable.numpy() for variable in optimizer.variables)]


@pytest.mark.parametrize("graph", [False, True])
def test_it_moves_as_keras_does(graph: bool) -> None:
    settings = {"learning_rate": 0.05, "beta_1": 0.8, "beta_2": 0.99, "epsilon": 1e-4}
    fused, keras = (
        moved(kind(**settings), graph=graph) for kind in (FusedAdam, tf.keras.optimizers.Adam)
    )
    assert len(fused) == len(keras)
    for one, other in zip(fused, keras, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-6)


def test_the_learning_rate_may_change_between_steps() -> None:
    variable, optimizer = tf.Variable([1.0, 2.0]), FusedAdam(0.1)
    optimizer.apply_gradients([(tf.constant([1.0, -1.0]), variable)])
    np.testing.assert_allclose(variable, [0.9, 2.1], rtol=1e-5)
    optimizer.learning_rate = 0.0
    optimizer.apply_gradients([(tf.constant([1.0, -1.0]), variable)])
    np.testing.assert_allclose(variable, [0.9, 2.1], rtol=1e-5)


@pytest.mark.parametrize("sparse", [False, True])
def test_a_step_is_few_operations(sparse: bool) -> None:
    counts = []
    for kind in (FusedAdam, tf.keras.optimizers.Adam):
        optimizer, table = kind(), tf.Variable(tf.zeros([4, 2]))
        optimizer.build([table])

        @tf.function
        def step(rows: tf.Tensor, ids: tf.Tensor) -> None:
            gradient = tf.IndexedSlices(rows, ids, tf.constant([4, 2])) if sparse else rows
            optimizer.apply_gradients([(gradient, table)])  # noqa: B023

        rows, ids = tf.TensorSpec([4, 2]), tf.TensorSpec([4], tf.int32)
        counts.append(len(step.get_concrete_function(rows, ids).graph.get_operations()))
    assert counts[0] < 0.6 * counts[1]


def test_a_kind_that_the_kernel_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="amsgrad: got True, expected False"):
        FusedAdam(amsgrad=True)


def test_it_is_saved_by_its_settings() -> None:
    optimizer = FusedAdam(0.3, beta_1=0.5)
    again = tf.keras.optimizers.deserialize(tf.keras.optimizers.serialize(optimizer))
    assert isinstance(again, FusedAdam)
    assert again.get_config() == optimizer.get_config()
