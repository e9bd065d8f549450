"""A SavedModel as a server runs it: in a session, where what is fed and fetched is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf


class ServedGraph:
    """The signatures of a SavedModel, ready to be run.

    Args:
      folder: Of the SavedModel.
    """

    def __init__(self, folder: Path) -> None:
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        with self._session.graph.as_default():
            loaded = tf.compat.v1.saved_model.load(
                self._session, [tf.saved_model.SERVING], str(folder)
            )
        self._signatures = loaded.signature_def

    def inputs(self, signature: str) -> list[str]:
        """Names of what a signature takes."""
        return [*self._signatures[signature].inputs]

    def call(
        self, signature: str, inputs: Sequence[str], outputs: Sequence[str] | None = None
    ) -> Callable[..., Sequence[Any]]:
        """What runs a signature.

        Args:
          signature: Its name.
          inputs: Names of its inputs, in the order in which they are given as arrays.
          outputs: Names of the outputs to compute; all of them where it is None.
        """
        message = self._signatures[signature]
        chosen = message.outputs if outputs is None else outputs
        return self._session.make_callable(
            [message.outputs[name].name for name in chosen],
            [message.inputs[name].name for name in inputs],
        )
