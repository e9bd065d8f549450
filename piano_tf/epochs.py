"""The epochs of training: Keras's steps and callbacks, on any strategy, from any step on.

`tf.keras.Model.fit` takes no batches that we divided ourselves without being told how many there
are, and begins in the middle of an epoch only on batches that it has not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from piano_tf.hardware import divided

Logs = dict[str, float]


Step = Callable[[Any], Mapping[str, Any]]


class Steps(NamedTuple):
    """What a model does with a batch, divided among replicas or whole.

    Attributes:
      learn: Trains on it; what the metrics of training then say.
      test: Takes it into the metrics; what they then say.
    """

    learn: Step
    test: Step


class Position(NamedTuple):
    """How far training has come.

    Attributes:
      epoch: Epochs that are over.
      step: Batches seen of the next.
    """

    epoch: int = 0
    step: int = 0


_START = Position()


def steps_of(
    model: tf.keras.Model,
    train: tf.data.Dataset,
    validation: tf.data.Dataset,
    strategy: tf.distribute.Strategy,
) -> Steps:
    """A compiled model's steps, each in one graph.

    Keras's own take an iterator and find its end in the graph, which TensorFlow then describes at
    length, epoch after epoch. And they let AutoGraph rewrite whatever a step calls, though no model
    here decides anything by a tensor's value.

    Args:
      model: Made and compiled in the strategy's scope.
      train: Batches of (inputs, labels) like those to learn from.
      validation: Batches like those to test on.
      strategy: Where.
    """

    def in_graph(step: Step, batches: tf.data.Dataset, counter: tf.Variable) -> Step:
        def counted(batch: Any) -> Mapping[str, Any]:
            said = step(batch)
            counter.assign_add(1)  # Keras's callbacks read it
            return said

        def run(batch: Any) -> Mapping[str, Any]:
            # A metric is of all replicas already, so that any of them tells it.
            each = strategy.run(inner, args=(batch,))
            return {name: strategy.experimental_local_results(v)[0] for name, v in each.items()}

        inner = counted
        if model.jit_compile:
            inner = tf.function(counted, jit_compile=True, autograph=False)
        signature = [divided(batches, strategy).element_spec]
        return tf.function(run, input_signature=signature, autograph=False)

    learn = in_graph(model.train_step, train, model._train_counter)
    model.train_tf_function = learn  # TensorBoard draws it
    return Steps(learn, in_graph(model.test_step, validation, model._test_counter))


def run_epochs(
    model: tf.keras.Model,
    train: tf.data.Dataset,
    validation: tf.data.Dataset,
    *,
    epochs: int,
    strategy: tf.distribute.Strategy,
    callbacks: Sequence[tf.keras.callbacks.Callback],
    start: Position = _START,
    steps: Steps | None = None,
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
      steps: The model's, where it has been trained before; `steps_of` it unless given.
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
    steps = steps or steps_of(model, train, validation, strategy)
    model.stop_training = False
    logs: Logs = {}
    with strategy.scope():
        hooks.on_train_begin()
        for epoch in range(start.epoch, epochs):
            first = start.step if epoch == start.epoch else 0
            model.reset_metrics()
            hooks.on_epoch_begin(epoch)
            logs = _all(
                steps.learn,
                rest if first else whole,
                first,
                hooks.on_train_batch_begin,
                hooks.on_train_batch_end,
            ) or _now(model)
            model.reset_metrics()
            hooks.on_test_begin()
            found = _all(
                steps.test, held_out, 0, hooks.on_test_batch_begin, hooks.on_test_batch_end
            )
            hooks.on_test_end(found)
            logs |= {f"val_{name}": value for name, value in found.items()}
            hooks.on_epoch_end(epoch, logs)
            if model.stop_training:
                break
        hooks.on_train_end(logs)


def _all(
    step: Step,
    batches: Iterable[Any],
    first: int,
    begin: Callable[[int], None],
    end: Callable[[int, Any], None],
) -> Logs:
    """A step for each batch; what the last one says, nothing if there is none."""
    logs: Mapping[str, Any] = {}
    for number, batch in enumerate(batches, first):
        begin(number)
        logs = step(batch)
        end(number, logs)
    return {name: float(value) for name, value in logs.items()}


def _now(model: tf.keras.Model) -> Logs:
    """What the metrics say as they stand."""
    return {name: float(value) for name, value in model.get_metrics_result().items()}
