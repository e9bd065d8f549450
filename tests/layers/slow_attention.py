"""`HistoryAttention` once more, in NumPy, an entry and a head at a time."""

from __future__ import annotations

import numpy as np

from piano_tf.layers import HistoryAttention


def attended(
    layer: HistoryAttention,
    question: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    same: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """What one question [D] finds among h real entries.

    Args:
      layer: Its weights are used.
      question: [D].
      keys: [h, D].
      values: [h, V].
      same: [h] boolean, or None.

    Returns:
      c [D] and alpha [heads, 1 + h].
    """
    width = layer.units // layer.heads
    asked = question @ layer.query_projection.kernel.numpy()
    slots = [
        (key @ layer.key_projection.kernel.numpy(), value @ layer.value_projection.kernel.numpy())
        for key, value in zip(keys, values, strict=True)
    ]
    equal = [False] * len(slots) if same is None else [*same]
    if layer.null_slot:
        slots = [(layer.null_key.numpy(), layer.null_value.numpy()), *slots]
        equal = [False, *equal]
    found, attention = np.zeros(layer.units), np.zeros((layer.heads, 1 + len(keys)))
    for head in range(layer.heads):
        part = slice(head * width, (head + 1) * width)
        near = np.array([_unit(asked[part]) @ _unit(key[part]) for key, _ in slots])
        logits = layer.sharpness.numpy()[head] * near
        if same is not None:
            logits += layer.match.kernel.numpy()[0, head] * np.array(equal)
        if len(slots):
            alpha = np.exp(logits) / np.exp(logits).sum()
            attention[head, 1 + len(keys) - len(slots) :] = alpha
            found[part] = sum(a * value[part] for a, (_, value) in zip(alpha, slots, strict=True))
    return found @ layer.output_projection.kernel.numpy(), attention


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.sqrt(np.maximum(vector @ vector, 1e-6))
