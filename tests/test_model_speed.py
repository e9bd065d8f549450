"""The multiply-adds that a benchmark holds a step against, and those counted by hand."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def speed() -> Any:
    # Where the benchmark, a program, finds its neighbours.
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("model_speed", BENCHMARKS / "model_speed.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


def ones(*shape: int) -> tf.Tensor:
    return tf.constant(np.ones(shape, np.float32))


@pytest.mark.parametrize(
    ("run", "count"),
    [
        (lambda: tf.matmul(ones(2, 3), ones(3, 5)), 2 * 3 * 5),
        (lambda: tf.matmul(ones(3, 2), ones(3, 5), transpose_a=True), 2 * 3 * 5),
        (lambda: tf.matmul(ones(2, 3), ones(5, 3), transpose_b=True), 2 * 3 * 5),
        (lambda: tf.matmul(ones(7, 2, 3), ones(7, 3, 5)), 7 * 2 * 3 * 5),
        (lambda: tf.matmul(ones(7, 3, 2), ones(7, 3, 5), adjoint_a=True), 7 * 2 * 3 * 5),
        # The second operand is the same for all seven.
        (lambda: tf.matmul(ones(7, 2, 3), ones(1, 3, 5)), 7 * 2 * 3 * 5),
        (lambda: tf.einsum("bqh,bkh->bqk", ones(7, 2, 3), ones(7, 5, 3)), 7 * 2 * 3 * 5),
        (lambda: ones(2, 3) * ones(2, 3) + tf.reduce_sum(ones(9)), 0),
        (lambda: tf.matmul(ones(2, 3), tf.matmul(ones(3, 5), ones(5, 4))), 3 * 5 * 4 + 2 * 3 * 4),
    ],
    ids=["product", "first", "second", "batch", "adjoint", "broadcast", "einsum", "none", "two"],
)
def test_products_of_a_run_are_counted(
    speed: Any, run: Callable[[], tf.Tensor], count: int
) -> None:
    assert speed.multiply_adds(run) == count


def test_products_within_a_function_and_of_its_gradient_are_counted(speed: Any) -> None:
    """Forward, and backward one for each operand."""
    left, right = tf.Variable(ones(2, 3)), tf.Variable(ones(3, 5))

    @tf.function
    def step() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(tf.matmul(left, right))
        return tape.gradient(total, [left, right])

    assert speed.multiply_adds(step) == 3 * (2 * 3 * 5)
    # It leaves nothing behind that counts or runs eagerly.
    assert not tf.config.functions_run_eagerly()
    assert speed.multiply_adds(lambda: None) == 0


@pytest.mark.parametrize(
    ("equation", "shapes", "count"),
    [
        ("ij,jk->ik", [(2, 3), (3, 5)], 2 * 3 * 5),
        ("bqhd,bkhd->bhqk", [(7, 2, 4, 3), (7, 5, 4, 3)], 7 * 2 * 4 * 3 * 5),
        ("...d,de->...e", [(7, 2, 3), (3, 5)], 7 * 2 * 3 * 5),
        # An ellipsis broadcasts from the right, and a size of 1 to any other.
        ("...ij,...jk->...ik", [(7, 1, 2, 3), (4, 3, 5)], 7 * 4 * 2 * 3 * 5),
        ("ij->ji", [(2, 3)], 0),
    ],
)
def test_product_of_an_einsum(
    speed: Any, equation: str, shapes: list[tuple[int, ...]], count: int
) -> None:
    assert speed._of_einsum(equation, [tf.TensorShape(shape) for shape in shapes]) == count
