"""Training that goes on from an exported model, though vocabularies have changed since.

A weight is taken over as it is, but for the tables with a row for each id of a vocabulary. There
each id takes its own row along, wherever it stood; an id that is new starts from the row that stood
for it so far, its out-of-vocabulary bucket's. Pre-trained vectors are learnt anew, and turned into
the space of the earlier ones, for which the earlier model's layers were trained [ours].
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

from piano_tf.config import ModelConfig
from piano_tf.errors import PianoError
from piano_tf.export import CARD_FILE, ModelCard
from piano_tf.features import InputSpec
from piano_tf.layers import PretrainedVectors, QueryEncoder
from piano_tf.layers.pretrained_vectors import INTENT, TASTE
from piano_tf.models import Reranker

Vocabularies = Mapping[str, Sequence[bytes]]
_OBJECTS = "_CHECKPOINTABLE_OBJECT_GRAPH"  # where a checkpoint says what its variables are


class WarmStartError(PianoError):
    """An earlier model without an `obstacle`, whose weights turn out to be others."""


@dataclasses.dataclass(frozen=True)
class Earlier:
    """A model that was exported, as a start for another.

    Attributes:
      card: What it is.
      weights: In the order of `Reranker.variables`.
      names: Theirs, as `weight_name` has them.
      vocabularies: Table -> its strings, in the order of their ids.
    """

    card: ModelCard
    weights: tuple[np.ndarray, ...]
    names: tuple[str, ...]
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
            keys = sorted(filter(_is_weight, reader.get_variable_to_shape_map()), key=_place)
            weights = tuple(reader.get_tensor(key) for key in keys)
            graph = TrackableObjectGraph.FromString(reader.get_tensor(_OBJECTS))
            names = {one.checkpoint_key: one.full_name for o in graph.nodes for one in o.attributes}
            vocabularies = {
                name: (path / "assets" / name).read_bytes().splitlines()
                for name in card.inputs.rows
                if (path / "assets" / name).exists()
            }
        except (OSError, tf.errors.OpError) as error:
            raise PianoError(f"{path}: cannot be started from ({error})") from error
        return cls(card, weights, tuple(weight_name(names[key]) for key in keys), vocabularies)

    def obstacle(
        self, inputs: InputSpec, config: ModelConfig, vocabularies: Vocabularies
    ) -> str | None:
        """Why a model cannot start from this one, if it cannot.

        Args:
          inputs, config, vocabularies: Of the new model.
        """
        before = self.card.inputs
        if self.card.config.model != config:
            return "its model is configured otherwise"
        if before.features != inputs.features:
            return "its columns are others"
        if before.encoding != inputs.encoding:
            return "its encoding is another"
        for name, strings in vocabularies.items():
            if name not in self.vocabularies:
                return f"it has no vocabulary {name!r} beside it"
            # Which two rows make an id's vector depends on where it stands, and among how many.
            moved = [*strings] != [*self.vocabularies[name]]
            if inputs.encoding.table(name).compositional and moved:
                return f"its compositional table {name!r} has other ids"
        return None


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """A start for a model from an earlier one without an `obstacle`.

    Attributes:
      earlier: The earlier model.
      vocabularies: Of the new model: table -> its strings, in the order of their ids. A table that
        hashes has none.
    """

    earlier: Earlier
    vocabularies: Vocabularies

    def new_ids(self) -> dict[str, int]:
        """Table -> how many of its ids the earlier model does not know."""
        before = self.earlier.vocabularies
        return {name: len({*now} - {*before[name]}) for name, now in self.vocabularies.items()}

    def vectors(self, model: Reranker) -> dict[str, np.ndarray]:
        """The first fold's pre-trained vectors of items, by their new ids.

        Args:
          model: Built; its own vectors are not looked at.

        Returns:
          `taste` and `intent` [items, P], 0 where an item is new; nothing where the model has none.
        """
        place = {id(variable): number for number, variable in enumerate(model.variables)}
        found = {}
        for part in _pretrained(model):
            rows, known = self._rows("item_id")
            for name in (TASTE, INTENT):
                table = self.earlier.weights[place[id(part.tables[name])]][0]
                found[name] = np.where(known[:, np.newaxis], table[rows], 0.0)
        return found

    def give(self, model: Reranker) -> None:
        """Gives a model, which is built, all weights but pre-trained vectors and calibration.

        Raises:
          WarmStartError: The earlier model's weights are others, as they are where the code has
            other layers now. The model is as it was.
        """
        weights, tables = self.earlier.weights, dict(_tables(model))
        own = {id(table) for part in _pretrained(model) for table in part.tables.values()}
        if len(model.variables) != len(weights):
            raise WarmStartError(
                f"a warm start: got {len(weights)} weights, expected {len(model.variables)}; "
                "the earlier model has other layers"
            )
        taken = []
        for variable, weight, name in zip(
            model.variables, weights, self.earlier.names, strict=True
        ):
            if name != (now := weight_name(variable.name)):
                raise WarmStartError(
                    f"a warm start: got {name}, expected {now}; the earlier model has other layers"
                )
            if id(variable) in own:
                continue
            expected, table = tuple(variable.shape), tables.get(id(variable))
            if table is not None and table in self.vocabularies:
                expected = (self._rows_before(table), *expected[1:])
            if weight.shape != expected:
                raise WarmStartError(
                    f"a warm start: got shape {weight.shape} for {variable.name}, expected "
                    f"{expected}; the earlier model has other layers"
                )
            if table is not None:
                rows, _ = self._rows(table)
                weight = weight[rows]
            taken.append((variable, weight))
        for variable, weight in taken:
            variable.assign(weight)
        # Fitted after training; trained through, it would be fitted once more each day.
        model.calibration.reset()

    def _rows_before(self, table: str) -> int:
        """How many rows the earlier model's table of a vocabulary has: padding and buckets too."""
        buckets = self.earlier.card.inputs.encoding.oov_buckets
        return 1 + len(self.earlier.vocabularies[table]) + buckets

    def _rows(self, table: str) -> tuple[np.ndarray, np.ndarray]:
        """For each row of a table now: that which stood for it, and whether that was its own."""
        if table not in self.vocabularies:
            every = np.arange(self.earlier.card.inputs.rows[table])
            return every, np.ones(len(every), bool)
        before, now = self.earlier.vocabularies[table], self.vocabularies[table]
        buckets = self.earlier.card.inputs.encoding.oov_buckets
        first_bucket = 1 + len(before)
        own = {string: row for row, string in enumerate(before, start=1)}
        hashed = tf.strings.to_hash_bucket_fast(tf.constant(now, tf.string), buckets).numpy()
        rows = [own.get(string, first_bucket + hashed[place]) for place, string in enumerate(now)]
        shared = range(first_bucket, first_bucket + buckets)
        known = [string in own for string in now]
        return np.array([0, *rows, *shared]), np.array([True, *known, *[True] * buckets])


def weight_name(name: str) -> str:
    """A variable's name without the numbers that Keras tells layers of a process apart by.

    >>> weight_name("piano/list_input_encoder_3/query_encoder/token/embeddings:0")
    'piano/list_input_encoder/query_encoder/token/embeddings'
    """
    return re.sub(r"_\d+(?=/|$)", "", name.removesuffix(":0"))


def _is_weight(name: str) -> bool:
    """Whether a saved variable is one of `ServingModule.weights`."""
    return name.startswith("weights/") and name.endswith("/.ATTRIBUTES/VARIABLE_VALUE")


def _place(name: str) -> int:
    """Which of them."""
    return int(name.split("/")[1])


def _pretrained(model: Reranker) -> Iterator[PretrainedVectors]:
    return (part for part in model.submodules if isinstance(part, PretrainedVectors))


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
