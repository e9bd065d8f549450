"""What a model says of every list of a split, and the reference orders beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import tensorflow as tf
from scipy import special

from piano_tf.config import ScoreConfig
from piano_tf.errors import PianoError
from piano_tf.evaluation.lists import Lists, widened
from piano_tf.features import OUTPUTS, Axis
from piano_tf.files import replacing
from piano_tf.masks import mask_of
from piano_tf.models import inference
from piano_tf.rerank import score

Tensors = Mapping[str, tf.Tensor]

_SCORE = "score"


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """A score and four probabilities for L lists of at most N candidates; 0 at padding.

    All are float32, what models compute in, so that what is saved and loaded is what was predicted.

    Attributes:
      score: [L, N], orders the list.
      click: [L, N] P(click).
      conversion: [L, N] P(click and conversion), over the entire space.
      list_click: [L] P(at least one click).
      list_conversion: [L] P(at least one conversion).
    """

    score: np.ndarray
    click: np.ndarray
    conversion: np.ndarray
    list_click: np.ndarray
    list_conversion: np.ndarray

    def save(self, path: Path) -> None:
        """Writes a compressed `.npz`; nothing half-written is ever at `path`.

        Args:
          path: The file, in a folder that exists; one that is there already is replaced.
        """
        with replacing(Path(path)) as partial, partial.open("wb") as file:
            np.savez_compressed(file, **dataclasses.asdict(self))

    @classmethod
    def load(cls, path: Path) -> Predictions:
        """Reads what `save` wrote.

        Raises:
          PianoError: The file is missing or is no file of predictions.
        """
        try:
            with np.load(path) as arrays:
                return cls(**{field.name: arrays[field.name] for field in dataclasses.fields(cls)})
        except (OSError, EOFError, ValueError, KeyError, AttributeError, BadZipFile) as error:
            raise PianoError(f"{path}: cannot be read as predictions ({error})") from error

    def only(self, members: np.ndarray) -> Predictions:
        """Of those lists where `members` [L] is True."""
        return Predictions(
            **{field.name: getattr(self, field.name)[members] for field in dataclasses.fields(self)}
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Predictions]) -> Predictions:
        """Predictions one after the other, padded to the widest.

        Args:
          parts: At least one.
        """
        width = max(part.score.shape[1] for part in parts)
        return cls(
            **{
                field.name: np.concatenate(
                    [widened(getattr(part, field.name), width) for part in parts]
                )
                for field in dataclasses.fields(cls)
            }
        )


def predict(
    model: Callable[..., Tensors],
    score_weights: ScoreConfig,
    batches: Iterable[tuple[Tensors, Tensors]],
) -> Predictions:
    """A model's predictions, in the order of the batches.

    Args:
      model: `model(inputs, training=False)` takes an encoded batch and returns the logits
        `piano_tf.features.OUTPUTS` (see `piano_tf.models.inference`).
      score_weights: a and b of the ranking score.
      batches: Of (inputs, labels), in the order of the log; their widths may differ. Labels are not
        looked at.

    Returns:
      Of as many columns as the widest batch.

    Raises:
      PianoError: There are no batches, or an output of a real list or candidate is not finite.
    """
    answer = inference(model)
    parts: list[Predictions] = []
    done = 0
    for inputs, _ in batches:
        logits = answer(dict(inputs))
        values = {name: tf.convert_to_tensor(logits[name]) for name in OUTPUTS}
        values[_SCORE] = score(values, score_weights)
        parts.append(_predictions(mask_of(inputs, Axis.ITEM).numpy(), values, done))
        done += len(values[_SCORE])
    if not parts:
        raise PianoError("got no lists to predict, expected at least one")
    return Predictions.concatenate(parts)


def _predictions(mask: np.ndarray, outputs: Tensors, first: int) -> Predictions:
    """One batch's, whose first list is the `first`-th of all; what stands at padding is dropped."""
    found = {}
    for name, tensor in outputs.items():
        values = np.asarray(tensor, np.float64)
        real = mask if values.ndim == 2 else np.ones(values.shape, bool)
        wrong = np.argwhere(real & ~np.isfinite(values))
        if len(wrong):
            place = f", candidate {wrong[0][1]}" if values.ndim == 2 else ""
            raise PianoError(
                f"list {first + wrong[0][0]}{place}, output {name!r}: got "
                f"{values[tuple(wrong[0])]}, expected a finite number"
            )
        values = values if name == _SCORE else special.expit(values)
        found[name] = np.where(real, values, 0).astype(np.float32)
    return Predictions(**found)


def initial_order(lists: Lists) -> np.ndarray:
    """[L, N] scores that keep the first-stage order."""
    return np.broadcast_to(-np.arange(lists.mask.shape[1], dtype=np.float64), lists.mask.shape)


def random_order(lists: Lists, seed: int) -> np.ndarray:
    """[L, N] scores that order every list at random; padding changes nothing."""
    scores = np.zeros(lists.mask.shape)
    scores[lists.mask] = np.random.default_rng(seed).random(np.count_nonzero(lists.mask))
    return scores


def ideal_order(lists: Lists, label: str) -> np.ndarray:
    """[L, N] scores that put what was clicked, or converted, first."""
    return lists.labels[label].astype(np.float64)
