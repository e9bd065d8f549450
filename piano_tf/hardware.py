"""What there is to train on, and how a batch is divided among it.

A batch is always the global one: with R replicas (GPUs, or GPUs of all workers) each takes its R-th
part of the batch that one alone would take, losses are sums over the parts divided by the counts of
the whole, and gradients are summed. So the same configuration learns the same on any hardware.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from piano_tf.cluster import VARIABLE, workers
from piano_tf.errors import ConfigError, PianoError


@functools.cache
def choose_strategy() -> tf.distribute.Strategy:
    """How to train on what this process finds: the same strategy at each call.

    ==========================================  =====================================
    what there is                               strategy
    ==========================================  =====================================
    several workers in the variable TF_CONFIG   `tf.distribute.MultiWorkerMirroredStrategy`
    several GPUs                                `tf.distribute.MirroredStrategy`
    one GPU, or none                            TensorFlow's default, without a wrapper
    ==========================================  =====================================

    Raises:
      ConfigError: TF_CONFIG is not what TensorFlow expects.
      PianoError: There are several workers, and TensorFlow has been used before.
    """
    if len(workers(os.environ)) > 1:
        try:
            return tf.distribute.MultiWorkerMirroredStrategy()
        except RuntimeError as error:
            raise PianoError(
                f"{VARIABLE} names several workers, and TensorFlow has been used before they could "
                "meet; expected piano_tf.hardware.choose_strategy() before anything else"
            ) from error
    if len(tf.config.list_logical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes; a process alone is."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return True
    alone = "chief" not in resolver.cluster_spec().jobs
    return resolver.task_type == "chief" or (alone and resolver.task_id == 0)


def divided(batches: tf.data.Dataset, strategy: tf.distribute.Strategy) -> Any:
    """Each batch in as many parts as there are replicas.

    Part r of R holds the lists [r B / R, (r + 1) B / R) of a batch of B, and may be empty. Every
    worker reads all batches, in the same order, and leaves what is not for its replicas: TensorFlow
    would rather give each worker batches of its own (by DATA or FILE sharding), and a step would
    then be over other lists than with one worker.

    Args:
      batches: Of tensors whose first axis is the lists; in the same order on each worker.
      strategy: Whose replicas.

    Returns:
      What `tf.keras.Model.fit` takes under this strategy.
    """
    replicas = strategy.num_replicas_in_sync
    if replicas == 1:
        return batches

    def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        here = replicas // context.num_input_pipelines
        first = context.input_pipeline_id * here

        def parts(*batch: Any) -> tf.data.Dataset:
            numbers = tf.data.Dataset.range(first, first + here)
            return numbers.map(lambda number: _part(batch, number, replicas))

        return batches.flat_map(parts).prefetch(here)

    return strategy.distribute_datasets_from_function(of_worker)


def _part(batch: Any, number: tf.Tensor, replicas: int) -> Any:
    lists = tf.shape(tf.nest.flatten(batch)[0], tf.int64)[0]
    start, end = number * lists // replicas, (number + 1) * lists // replicas
    return tf.nest.map_structure(lambda values: values[start:end], batch)


@contextlib.contextmanager
def precision(policy: str | None) -> Iterator[None]:
    """Layers made inside have Keras's precision policy of this name; that of before for None."""
    mixed = tf.keras.mixed_precision
    before = mixed.global_policy()
    mixed.set_global_policy(policy or before)
    try:
        yield
    finally:
        mixed.set_global_policy(before)


def require_compilable(strategy: tf.distribute.Strategy) -> None:
    """Raises a `ConfigError` for several replicas: XLA compiles no sums over them."""
    if strategy.num_replicas_in_sync > 1:
        raise ConfigError(
            f"training.xla: got true with {strategy.num_replicas_in_sync} replicas; expected false"
        )


def over_replicas(values: tf.Tensor) -> tf.Tensor:
    """The sum over all replicas, inside a step of one; elsewhere the values as they are."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return values
    return context.all_reduce(tf.distribute.ReduceOp.SUM, values)
