"""Training that goes on where it was interrupted, in the middle of an epoch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from piano_tf.config import Config
from piano_tf.epochs import Position
from piano_tf.errors import PianoError
from piano_tf.features import InputSpec
from piano_tf.files import require_room, whole_folder

_KEPT = 2
_STATE = "state.json"
_VARIABLES = "variables"
_BEST = "best.npz"


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """Where a training's checkpoints are, and which training's they are.

    Attributes:
      folder: Theirs alone; made when the first is written, removed when training is over. Several
        workers must share it.
      fingerprint: Of everything that shapes the weights (`fingerprint`).
    """

    folder: Path
    fingerprint: str

    def newest(self) -> Path | None:
        """The one to go on from.

        Raises:
          PianoError: The folder holds checkpoints of another training, or something else.
        """
        require_room(self.folder)
        found = sorted(self.folder.glob("[0-9]*")) if self.folder.exists() else []
        for path in reversed(found):
            try:
                known = _state_of(path)["fingerprint"]
            except (OSError, ValueError, KeyError, TypeError):
                known = None
            if known != self.fingerprint:
                raise PianoError(
                    f"{self.folder}: {path.name} is not of this training, but of another "
                    "configuration or log; expected an empty folder, or this training's"
                )
        return found[-1] if found else None

    def position(self) -> Position | None:
        """Where an interrupted training goes on; None where it begins.

        Raises:
          PianoError: As `newest`.
        """
        found = self.newest()
        return None if found is None else Position(*_state_of(found)["position"])

    def remove(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _state_of(checkpoint: Path) -> Any:
    return json.loads((checkpoint / _STATE).read_text())


def fingerprint(config: Config, inputs: InputSpec, files: Iterable[str | Path]) -> str:
    """One name for a configuration and its data; another seed or another byte is another one.

    Args:
      config: Everything configured.
      inputs: The inputs' columns and vocabulary sizes.
      files: What is trained and validated on, in order.
    """
    found = hashlib.sha256(config.model_dump_json().encode() + inputs.model_dump_json().encode())
    for file in files:
        with tf.io.gfile.GFile(str(file), "rb") as data:
            digest = hashlib.sha256()
            while part := data.read(1 << 20):
                digest.update(part)
        found.update(digest.digest())
    return found.hexdigest()[:32]


class Checkpointing(tf.keras.callbacks.Callback):
    """Writes all that training depends on every so many steps, and starts from what it finds.

    Weights, the optimizer, metrics in the middle of their epoch, the state of dropout, the place in
    the data, what is known of earlier epochs and the weights of the best of them. It must come
    after the callbacks whose state it keeps.

    Args:
      checkpoints: Where.
      every: Steps from one to the next.
      kept: Callbacks to keep attributes of: each with their names, of anything JSON can hold.
      stopping: Its best weights are kept too.
      writes: Whether this process writes; of several workers the chief alone does.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        *,
        every: int,
        kept: Iterable[tuple[tf.keras.callbacks.Callback, tuple[str, ...]]],
        stopping: tf.keras.callbacks.EarlyStopping,
        writes: bool,
    ) -> None:
        super().__init__()
        # Or Keras waits for the device after each step, to have numbers for a hook that wants none.
        self._supports_tf_logs = True
        self._checkpoints = checkpoints
        self._every = every
        self._kept = list(kept)
        self._stopping = stopping
        self._writes = writes
        self._found = checkpoints.newest()
        self._state: Mapping[str, Any] = {}
        if self._found is not None:
            self._state = _state_of(self._found)
        self._epoch = 0
        self._since = 0

    @property
    def start(self) -> Position:
        """Where to go on."""
        return Position(*self._state.get("position", ()))

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        self._epoch = epoch
        if self._found is None:
            return
        # Here and not in `on_train_begin`, for an epoch begins with metrics set back.
        self._variables().read(str(self._found / _VARIABLES)).assert_existing_objects_matched()
        for (callback, names), values in zip(self._kept, self._state["kept"], strict=True):
            for name in names:
                setattr(callback, name, values[name])
        with np.load(self._found / _BEST) as best:
            weights = [best[f"{number}"] for number in range(len(best.files))]
        self._stopping.best_weights = weights or None
        self._found = None

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        self._since += 1
        if self._since < self._every:
            return
        self._since = 0
        if self._writes:
            self._write(Position(self._epoch, batch + 1))
        else:
            # What metrics have counted is spread over the workers, and all of them add it up.
            with tempfile.TemporaryDirectory() as scratch:
                self._variables().write(f"{scratch}/{_VARIABLES}")

    def _write(self, position: Position) -> None:
        name = f"{position.epoch:05d}-{position.step:09d}"
        with whole_folder(self._checkpoints.folder / name, replace=True) as partial:
            self._variables().write(str(partial / _VARIABLES))
            best = self._stopping.best_weights or []
            np.savez(partial / _BEST, **{f"{n}": weight for n, weight in enumerate(best)})
            state = {
                "fingerprint": self._checkpoints.fingerprint,
                "position": position,
                "kept": [
                    {name: getattr(callback, name) for name in names}
                    for callback, names in self._kept
                ],
            }
            (partial / _STATE).write_text(json.dumps(state, default=float))
        for old in sorted(self._checkpoints.folder.glob("[0-9]*"))[:-_KEPT]:
            shutil.rmtree(old)

    def _variables(self) -> tf.train.Checkpoint:
        # What draws dropout is the model's too.
        return tf.train.Checkpoint(
            model=self.model, optimizer=self.model.optimizer, metrics=self.model.metrics
        )
