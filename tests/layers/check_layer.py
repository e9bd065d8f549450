"""One harness for every layer: whatever a Keras layer of ours must do, whichever it is."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

POLICIES = ("mixed_bfloat16", "mixed_float16")


def check_layer(
    kind: type[tf.keras.layers.Layer],
    config: Mapping[str, Any],
    inputs: Mapping[str, Any],
    *,
    call: Callable[..., Any] | None = None,
    weights: int,
    frozen: int = 0,
    without_gradient: Sequence[str] = (),
) -> None:
    """Asserts what holds for every layer.

    Its configuration goes through JSON and back and names exactly the constructor's arguments;
    called eagerly and in a graph it gives the same; what it says of a list does not depend on which
    others are in the batch; it builds the weights it should; a step down the gradient moves every
    trainable weight and lowers a loss; and in half precision it stays finite.

    Args:
      kind: The layer's class.
      config: Its constructor's arguments.
      inputs: Keyword arguments of a call; the first axis of every tensor in them is the batch.
      call: (layer, **inputs) -> outputs, for layers with more than one way in.
      weights: How many variables it has once it is built.
      frozen: How many of them are not trained.
      without_gradient: Parts of the names of weights that the outputs cannot depend on.
    """
    run = call or (lambda layer, **given: layer(**given))
    tf.keras.utils.set_random_seed(0)
    layer = kind(**config)
    outputs = _flat(run(layer, **inputs))
    assert len(layer.weights) == weights, [weight.name for weight in layer.weights]
    assert len(layer.trainable_weights) == weights - frozen

    _check_config(kind, layer, config)
    _randomise(layer)
    outputs = _flat(run(layer, **inputs))
    _check_round_trip(layer, inputs, run, outputs)

    symbolic = tf.function(lambda given: run(layer, **given))
    for eager, graph in zip(outputs, _flat(symbolic(dict(inputs))), strict=True):
        assert eager.shape == graph.shape
        np.testing.assert_allclose(eager, graph, rtol=1e-5, atol=1e-6)

    _check_composition(layer, inputs, run, outputs)
    if layer.trainable_weights:
        _check_step(layer, inputs, run, without_gradient)
    _check_precision(kind, config, inputs, run, outputs)


def _check_config(kind: type, layer: tf.keras.layers.Layer, config: Mapping[str, Any]) -> None:
    arguments = [
        name
        for name, parameter in inspect.signature(kind.__init__).parameters.items()
        if name != "self" and parameter.kind is not parameter.VAR_KEYWORD
    ]
    keras = tf.keras.layers.Layer.get_config(layer).keys()
    saved = layer.get_config()
    assert set(arguments) == saved.keys() - keras
    assert json.loads(json.dumps(saved)) == saved
    again = kind.from_config(saved)
    assert again.get_config() == saved
    assert set(config) <= set(arguments)


def _check_round_trip(layer, inputs, run, outputs: list[tf.Tensor]) -> None:
    """Through Keras's own serialisation, which finds the class by its registered name."""
    saved = json.loads(json.dumps(tf.keras.layers.serialize(layer)))
    again = tf.keras.layers.deserialize(saved)
    assert type(again) is type(layer)
    run(again, **inputs)
    again.set_weights(layer.get_weights())
    for before, after in zip(outputs, _flat(run(again, **inputs)), strict=True):
        np.testing.assert_array_equal(before, after)


def _check_composition(layer, inputs, run, outputs: list[tf.Tensor]) -> None:
    """Some rows of the batch, in any order and with repeats, give the same rows of the outputs."""
    (size,) = {len(x) for x in _flat(inputs)}

    @settings(max_examples=6)
    @given(st.lists(st.integers(0, size - 1), min_size=1, max_size=4))
    def check(rows: list[int]) -> None:
        def some_of(x: Any) -> Any:
            return None if x is None else tf.gather(x, rows)

        found = _flat(run(layer, **tf.nest.map_structure(some_of, dict(inputs))))
        for alone, together in zip(found, outputs, strict=True):
            assert len(together) == size
            np.testing.assert_allclose(alone, some_of(together), rtol=1e-4, atol=1e-5)

    check()


def _check_step(layer, inputs, run, without_gradient: Sequence[str]) -> None:
    def loss() -> tf.Tensor:
        return tf.add_n([tf.reduce_mean(tf.square(x - 1)) for x in _flat(run(layer, **inputs))])

    with tf.GradientTape() as tape:
        before = loss()
    gradients = tape.gradient(before, layer.trainable_weights)
    for weight, gradient in zip(layer.trainable_weights, gradients, strict=True):
        assert gradient is not None, weight.name
        values = tf.convert_to_tensor(gradient).numpy()
        assert np.isfinite(values).all(), weight.name
        if not any(part in weight.name for part in without_gradient):
            assert np.abs(values).max() > 1e-7, f"{weight.name} has no part in the outputs"
    tf.keras.optimizers.legacy.SGD(1e-3).apply_gradients(
        zip(gradients, layer.trainable_weights, strict=True)
    )
    assert loss() < before


def _check_precision(kind, config, inputs, run, outputs: list[tf.Tensor]) -> None:
    before = tf.keras.mixed_precision.global_policy()
    for policy in POLICIES:
        tf.keras.mixed_precision.set_global_policy(policy)
        try:
            low = tf.keras.mixed_precision.global_policy().compute_dtype
            layer = kind(**config)
            cast = {
                name: tf.cast(x, low) if tf.is_tensor(x) and x.dtype.is_floating else x
                for name, x in inputs.items()
            }
            with tf.GradientTape() as tape:
                found = _flat(run(layer, **cast))
                total = tf.add_n([tf.reduce_sum(tf.cast(x, tf.float32)) for x in found])
            gradients = tape.gradient(total, layer.trainable_weights)
        finally:
            tf.keras.mixed_precision.set_global_policy(before)
        for weight in layer.weights:
            assert weight.dtype == tf.float32, weight.name
        for x, full in zip(found, outputs, strict=True):
            assert x.shape == full.shape
            assert np.isfinite(tf.cast(x, tf.float32)).all(), policy
        for weight, gradient in zip(layer.trainable_weights, gradients, strict=True):
            values = tf.cast(tf.convert_to_tensor(gradient), tf.float32)
            assert np.isfinite(values).all(), (policy, weight.name)


def _randomise(layer: tf.keras.layers.Layer) -> None:
    """Weights as training leaves them: none of them 0, as biases and null slots begin."""
    rng = np.random.default_rng(0)
    layer.set_weights([rng.normal(0, 0.4, weight.shape) for weight in layer.weights])


def _flat(outputs: Any) -> list[tf.Tensor]:
    """All tensors; an output that a configuration leaves out is None."""
    return [x for x in tf.nest.flatten(outputs) if x is not None]
