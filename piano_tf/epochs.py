"""The epochs of training: Keras's steps and callbacks, on any strategy, from any step on.

`tf.keras.Model.fit` takes no batches that we divided ourselves without being told how many there
are, and begins in the middle of an epoch only on batches that it has not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from piano_tf.hardware import divided

Logs = dict[str, float]


class Position(NamedTuple):
    """How far training has come.

    Attributes:
      epoch: Epochs that are over.
      step: Batches seen of the next.
    """

    epoch: int = 0
    step: int = 0


_START = Position()


def run_epochs(
    model: tf.keras.Model,
    train: tf.data.Dataset,
    validation: tf.data.Dataset,
    *,
    epochs: int,
    strategy: tf.distribute.Strategy,
    callbacks: Sequence[tf.keras.callbacks.Callback],
    start: Position = _START,
    verbose: str | int = "auto",
) -> None:
    """Trains a compiled model, as `tf.keras.Model.fit` does.

    Args:
      model: Made and compiled in the strategy's scope.
      train: Batches of (inputs, labels), fresh: if they are shuffled anew each time, then in an
        order that depends on a seed and on how many iterators were made before, read or not.
      validation: Batches of (inputs, labels).
      epochs: How many, those before `start` included.
      strategy: Where.
      callbacks: They get the hooks that `fit` calls; what a callback changes of the model's state
        in `on_train_begin` and `on_epoch_begin` stays.
      start: The first batch to see is that which an uninterrupted run sees there.
      verbose: As in `tf.keras.Model.fit`.
    """
    hooks = tf.keras.callbacks.CallbackList(
        list(callbacks),
        add_progbar=verbose != 0,
        model=model,
        verbose=1 if verbose == "auto" else verbose,
        epochs=epochs,
    )
    # An iterator is an order. Keras's `fit` makes one before the first epoch's too, and what is
    # told in docs/ was learnt in that order.
    for _ in range(start.epoch + 1):
        iter(train)
    rest, whole = (divided(part, strategy) for part in (train.skip(start.step), train))
    held_out = divided(validation, strategy)
    # A metric's result is of all replicas already; Keras would add up one for each.
    model.distribute_reduction_method = "first"
    learn = _Pass(model.make_train_function(), hooks.on_train_batch_begin, hooks.on_train_batch_end)
    test = _Pass(model.make_test_function(), hooks.on_test_batch_begin, hooks.on_test_batch_end)
    model.stop_training = False
    logs: Logs = {}
    with strategy.scope():
        hooks.on_train_begin()
        for epoch in range(start.epoch, epochs):
            first = start.step if epoch == start.epoch else 0
            model.reset_metrics()
            hooks.on_epoch_begin(epoch)
            logs = learn.run(iter(rest if first else whole), first) or _now(model)
            model.reset_metrics()
            hooks.on_test_begin()
            found = test.run(iter(held_out))
            hooks.on_test_end(found)
            logs |= {f"val_{name}": value for name, value in found.items()}
            hooks.on_epoch_end(epoch, logs)
            if model.stop_training:
                break
        hooks.on_train_end(logs)


class _Pass:
    """A step for each batch, pass after pass over as many of them.

    How many there are is learnt in the first pass, by coming to their end, which TensorFlow then
    describes at length: once is enough.

    Args:
      step: Takes the iterator of the batches.
      begin, end: What is called before and after a step.
    """

    def __init__(
        self,
        step: Callable[[Iterator[Any]], Any],
        begin: Callable[[int], None],
        end: Callable[[int, Any], None],
    ) -> None:
        self._step = step
        self._begin = begin
        self._end = end
        self._length: int | None = None

    def run(self, batches: Iterator[Any], first: int = 0) -> Logs:
        """Steps from number `first` on; what the last one says, nothing if there is none."""
        logs: Any = {}
        number = first
        while number != self._length:
            self._begin(number)
            try:
                logs = self._step(batches)
            except (StopIteration, tf.errors.OutOfRangeError):
                self._length = number
                break
            self._end(number, logs)
            number += 1
        return {name: float(value) for name, value in logs.items()}


def _now(model: tf.keras.Model) -> Logs:
    """What the metrics say as they stand."""
    return {name: float(value) for name, value in model.get_metrics_result().items()}
