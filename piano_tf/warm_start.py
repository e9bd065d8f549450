"""Training that goes on from an exported model, though vocabularies have changed since.

A weight is taken over as it is, but for the tables with a row for each id of a vocabulary. There
each id takes its own row along, wherever it stood; an id that is new starts from the row that stood
for it so far, its out-of-vocabulary bucket's. Pre-trained vectors are learnt anew, and turned into
the space of the earlier ones, for which the earlier model's layers were trained [ours].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from piano_tf.config import ModelConfig
from piano_tf.errors import PianoError
from piano_tf.export import CARD_FILE, ModelCard
from piano_tf.features import InputSpec
from piano_tf.layers import PretrainedVectors, QueryEncoder
from piano_tf.layers.pretrained_vectors import INTENT, TASTE
from piano_tf.models import Reranker

Vocabularies = Mapping[str, Sequence[bytes]]


@dataclasses.dataclass(frozen=True)
class Earlier:
    """A model that was exported, as a start for another.

    Attributes:
      card: What it is.
      weights: In the order of `Reranker.variables`.
      vocabularies: Table -> its strings, in the order of their ids.
    """

    card: ModelCard
    weights: tuple[np.ndarray, ...]
    vocabularies: Vocabularies

    @classmethod
    def load(cls, path: Path) -> Earlier:
        """Reads a SavedModel that the pipeline exported, with its vocabularies as assets.

        Raises:
          PianoError: There is none, or not a whole one.
        """
        path = Path(path)
        try:
            card = ModelCard.load(path / CARD_FILE)
            reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
            names = [name for name in reader.get_variable_to_shape_map() if _place(name) is not None]
            names.sort(key=_place)
            weights = tuple(reader.get_tensor(name) for name in names)
            vocabularies = {
                name: (path / "assets" / name).read_bytes().splitlines()
                for name in card.inputs.rows
                if (path / "assets" / name).exists()
            }
        except (OSError, tf.errors.OpError) as error:
            raise PianoError(f"{path}: cannot be started from ({error})") from error
        return cls(card, weights, vocabularies)

    def obstacle(self, inputs: InputSpec, config: ModelConfig) -> str | None:
        """Why a model of these inputs cannot start from this one, if it cannot."""
        if self.card.config.model != config:
            return "its model is configured otherwise"
        if self.card.inputs.features != inputs.features:
            return "its columns are others"
        if self.card.inputs.encoding != inputs.encoding:
            return "its encoding is another"
        return None

    def vectors(self, vocabularies: Vocabularies, model: Reranker) -> dict[str, np.ndarray]:
        """The first fold's pre-trained vectors of items, by the ids of other vocabularies.

        Args:
          vocabularies: Those of `model`.
          model: Built; its own vectors are not looked at.

        Returns:
          `taste` and `intent` [items, P], 0 where an item is new; nothing where the model has none.
        """
        found = {}
        for part in model.submodules:
            if isinstance(part, PretrainedVectors):
                for name in (TASTE, INTENT):
                    table = self.weights[_index(model, part.tables[name])][0]
                    rows, known = self._rows("item_id", vocabularies)
                    found[name] = np.where(known[:, np.newaxis], table[rows], 0.0)
        return found

    def give(self, model: Reranker, vocabularies: Vocabularies) -> dict[str, int]:
        """Gives a model all weights but pre-trained vectors.

        Args:
          model: Built, and without an `obstacle`.
          vocabularies: Its own.

        Returns:
          Table -> how many of its ids are new, of the tables that are trained.

        Raises:
          PianoError: Its weights are others.
        """
        tables = dict(_tables(model))
        frozen = {
            id(table)
            for part in model.submodules
            if isinstance(part, PretrainedVectors)
            for table in part.tables.values()
        }
        if len(model.variables) != len(self.weights):
            raise PianoError(
                f"a warm start: got {len(self.weights)} weights, expected {len(model.variables)}"
            )
        new = {}
        for variable, weight in zip(model.variables, self.weights, strict=True):
            if id(variable) in frozen:
                continue
            table = tables.get(id(variable))
            if table is not None:
                rows, known = self._rows(table, vocabularies)
                new[table] = int(np.count_nonzero(~known))
                weight = weight[rows]
            if weight.shape != tuple(variable.shape):
                raise PianoError(
                    f"a warm start: {variable.name} has shape {tuple(variable.shape)}, "
                    f"and {weight.shape} in the earlier model"
                )
            variable.assign(weight)
        return new

    def _rows(self, table: str, vocabularies: Vocabularies) -> tuple[np.ndarray, np.ndarray]:
        """For each row of a table now: that which stood for it, and whether it was its own."""
        before, now = self.vocabularies[table], vocabularies[table]
        buckets = self.card.inputs.encoding.oov_buckets
        own = {string: row for row, string in enumerate(before, start=1)}
        first_bucket = 1 + len(before)
        hashed = tf.strings.to_hash_bucket_fast(list(now), buckets).numpy() if now else []
        rows = [
            own.get(string, first_bucket + bucket)
            for string, bucket in zip(now, hashed, strict=True)
        ]
        known = [string in own for string in now]
        shared = range(first_bucket, first_bucket + buckets)
        return (
            np.array([0, *rows, *shared], np.int64),
            np.array([True, *known, *[True] * buckets]),
        )


def _place(name: str) -> int | None:
    """The place of a saved weight in `ServingModule.weights`."""
    parts = name.split("/")
    return int(parts[1]) if parts[0] == "weights" and len(parts) == 4 else None


def _index(model: Reranker, variable: tf.Variable) -> int:
    return next(i for i, one in enumerate(model.variables) if one is variable)


def _tables(model: Reranker) -> Iterator[tuple[int, str]]:
    """Of the variables with a row for each id of a vocabulary: which they are, and the table."""
    encoding, rows = model.inputs_spec.encoding, model.inputs_spec.rows
    names = {id(part.embedding): "query" for part in model.submodules if _has_words(part)}
    for part in model.submodules:
        if isinstance(part, tf.keras.layers.Embedding):
            name = names.get(id(part), part.name)
            if name in rows and encoding.table(name).buckets is None:
                yield id(part.embeddings), name


def _has_words(part: tf.Module) -> bool:
    return isinstance(part, QueryEncoder) and part.ids
