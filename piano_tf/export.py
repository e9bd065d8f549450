"""A fitted re-ranker as a SavedModel that takes raw columns."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import tensorflow as tf

from piano_tf.config import Config, Frozen, ModelConfig, ScoreConfig, SelectionConfig
from piano_tf.data.batches import raw_specs
from piano_tf.errors import ConfigError, PianoError
from piano_tf.explanation import leave_one_out
from piano_tf.features import Axis, FeatureSpec, InputSpec
from piano_tf.files import whole_folder
from piano_tf.masks import mask_of
from piano_tf.models import (
    REGISTRY,
    TREES,
    LambdaMART,
    Reranker,
    inference,
    require_possible,
)
from piano_tf.models.piano import PIANO
from piano_tf.rerank import in_orders, list_value, order_of, score, select
from piano_tf.warmup import write_warmup

CARD_FILE = Path("assets.extra") / "reranker.json"
_SELECTION = SelectionConfig()

Tensors = Mapping[str, tf.Tensor]
# Code of ours that AutoGraph need not rewrite, which takes longer than all else; a model's own may.
_plain_function = functools.partial(tf.function, autograph=False)


class ModelCard(Frozen):
    """What was exported; written beside the SavedModel as `assets.extra/reranker.json`.

    Attributes:
      inputs: Columns and vocabulary sizes.
      config: The configuration it was trained with.
      score: a and b of the ranking score.
      started_from: The folder of the earlier model that training started from; None if it began
        afresh.
    """

    inputs: InputSpec
    config: Config
    score: ScoreConfig
    started_from: str | None = None


class ServingModule(tf.Module):
    """Raw columns to predictions and an order, with the signatures of TensorFlow Serving.

    Args:
      model: Trained, and exportable.
      encode: Raw padded columns to model inputs; a `tf.Module` or layer, so that its tables are
        saved along.
      features: The raw columns.
      weights: a and b of the ranking score.
      selection: Of the signature `select_list`.
    """

    def __init__(
        self,
        model: Reranker | LambdaMART,
        encode: Callable[[Tensors], Tensors],
        features: FeatureSpec,
        weights: ScoreConfig,
        selection: SelectionConfig = _SELECTION,
    ) -> None:
        super().__init__(name="piano")
        require_exportable(model.config)
        assert isinstance(model, Reranker)
        # The weights are saved, and not the Keras model: that would trace every layer once more,
        # for a reader that no server is.
        self.weights = model.variables
        # One trace for all signatures, of which some run the model more than once.
        self._model = inference(model)
        self.encode = encode
        self._features = features
        self._weights = weights
        self._selection = selection if counts_order(model.config) else None
        self._attention = model.attention if _attends(model) else None
        # One trace for the signatures that give it as it is, so that they cannot differ.
        self._predict = _plain_function(self._answer, input_signature=[self._specs()])

    def signatures(self) -> dict[str, tf.types.experimental.ConcreteFunction]:
        """Signature name -> function.

        `serving_default` takes every column as a padded tensor, `serve_examples` serialized
        tf.Examples as `examples` [B]. Both return `score`, `click`, `conversion` [B, N]
        (probabilities; 0 and the lowest score at padding), `order` [B, N] (candidate indices, best
        first, padding last), `list_click` and `list_conversion` [B] (probabilities).

        `explain` takes what `serving_default` does and adds `list_click_value` and
        `list_conversion_value` [B, N], what the list's probabilities lose without each candidate (a
        pass of the model for each); of a model with QDIR also `history_attention` [B, H], the mean
        of its heads, whose sum falls short of 1 by what went to no past query.

        `select_list`, of a model to which the order of a list counts, takes what `serving_default`
        does and chooses among K orders, those of `selection.sweep`, by what the model expects of
        the list in each: `list_value` [B, K]. `chosen` [B] says which it is, `order` and `score`
        are of that one; everything else is of the list as it came. It costs 1 + K passes of the
        model.
        """

        @_plain_function
        def serving_default(**columns: tf.Tensor) -> Tensors:
            return self._predict(columns)

        @_plain_function
        def serve_examples(examples: tf.Tensor) -> Tensors:
            return self._predict(parse_examples(examples, self._features))

        @_plain_function
        def explain(**columns: tf.Tensor) -> Tensors:
            return self._explained(columns)

        @_plain_function
        def select_list(**columns: tf.Tensor) -> Tensors:
            return self._selected(columns)

        serialized = tf.TensorSpec([None], tf.string, name="examples")
        found = {
            "serving_default": serving_default.get_concrete_function(**self._specs()),
            "serve_examples": serve_examples.get_concrete_function(examples=serialized),
            "explain": explain.get_concrete_function(**self._specs()),
        }
        if self._selection is not None:
            found["select_list"] = select_list.get_concrete_function(**self._specs())
        return found

    def _specs(self) -> dict[str, tf.TensorSpec]:
        return raw_specs(self._features, labels=False)

    def _answer(self, columns: Tensors) -> Tensors:
        return self._told(self._model(self.encode(columns)), mask_of(columns, Axis.ITEM))

    def _told(self, outputs: Tensors, mask: tf.Tensor) -> dict[str, tf.Tensor]:
        return _predictions(outputs, mask) | _sorted(score(outputs, self._weights), mask)

    def _selected(self, columns: Tensors) -> Tensors:
        assert self._selection is not None
        batch = self.encode(columns)
        outputs = self._model(batch)
        mask = mask_of(columns, Axis.ITEM)
        ways = [
            _sorted(score(outputs, ScoreConfig(click=a, conversion=b)), mask)
            for a, b in self._selection.sweep
        ]
        proposed = {name: tf.stack([way[name] for way in ways], axis=1) for name in ways[0]}
        of_candidates = self._features.inputs_along(Axis.ITEM)
        again = self._model(in_orders(batch, of_candidates, proposed["order"]))
        values = list_value(
            tf.sigmoid(again["list_click"]),
            tf.sigmoid(again["list_conversion"]),
            self._selection.value,
        )
        values = tf.reshape(values, [-1, len(ways)])
        chosen = select(values)
        best = {
            name: tf.gather(of_all, chosen, axis=1, batch_dims=1)
            for name, of_all in proposed.items()
        }
        return _predictions(outputs, mask) | best | {"list_value": values, "chosen": chosen}

    def _explained(self, columns: Tensors) -> dict[str, tf.Tensor]:
        batch = self.encode(columns)
        outputs = self._model(batch)
        found = self._told(outputs, mask_of(columns, Axis.ITEM))
        lost = leave_one_out(self._model, batch, self._features, outputs)
        found |= {f"{name}_value": values for name, values in lost.items()}
        if self._attention is not None:
            # Without the null slot, which stands first.
            found["history_attention"] = tf.reduce_mean(self._attention(batch), axis=1)[:, 1:]
        return found


def counts_order(config: ModelConfig) -> bool:
    """Whether a served model expects another thing of the same list in another order."""
    return config.rank == "always"


def _predictions(outputs: Tensors, mask: tf.Tensor) -> dict[str, tf.Tensor]:
    """The probabilities of a list, 0 at padding."""
    return {
        "click": tf.where(mask, tf.sigmoid(outputs["click"]), 0.0),
        "conversion": tf.where(mask, tf.sigmoid(outputs["conversion"]), 0.0),
        "list_click": tf.sigmoid(outputs["list_click"]),
        "list_conversion": tf.sigmoid(outputs["list_conversion"]),
    }


def _sorted(scores: tf.Tensor, mask: tf.Tensor) -> dict[str, tf.Tensor]:
    """Scores, the lowest at padding, and the order that they make."""
    return {
        "score": tf.where(mask, scores, scores.dtype.min),
        "order": order_of(scores, mask),
    }


def _attends(model: Reranker) -> bool:
    """Whether a model has an attention over past queries to tell of."""
    return isinstance(model, PIANO) and model.config.piano.keys != "none"


def require_exportable(config: ModelConfig) -> None:
    """Raises a `ConfigError` for a model that there is not, or that no SavedModel can hold."""
    require_possible(config)
    if config.name in TREES:
        raise ConfigError(
            f"model.name: {config.name!r} is no Keras model and cannot be exported; expected one "
            f"of {', '.join(REGISTRY)} (`piano compare` takes it)"
        )


def parse_examples(serialized: tf.Tensor, features: FeatureSpec) -> dict[str, tf.Tensor]:
    """Serialized tf.Examples [B] with the columns of a log (labels may be absent), padded.

    Raises:
      tf.errors.InvalidArgumentError: One column of a list is longer than another of its axis; when
        the graph is run.
    """
    columns = features.columns(labels=False)
    specs = raw_specs(features, labels=False)
    scalars = {name for name, spec in specs.items() if spec.shape.rank == 1}
    parsed = tf.io.parse_example(
        serialized,
        {
            # ExampleGen leaves out a scalar that is 0 or "".
            name: tf.io.FixedLenFeature([], spec.dtype, "" if spec.dtype == tf.string else 0)
            if name in scalars
            else tf.io.RaggedFeature(spec.dtype, row_splits_dtype=tf.int64)
            for name, spec in specs.items()
        },
    )
    for axis in (Axis.ITEM, Axis.HISTORY):
        _require_equal_lengths({c.name: parsed[c.name] for c in columns if c.axis is axis})
    return {
        name: values if name in scalars else values.to_tensor() for name, values in parsed.items()
    }


def _require_equal_lengths(columns: Mapping[str, tf.RaggedTensor]) -> None:
    """A column that lacks values must not pass for one that ends in 0."""
    first, *others = sorted(columns)
    for name in others:
        tf.debugging.assert_equal(
            columns[name].row_lengths(),
            columns[first].row_lengths(),
            f"column {name} of an example does not have as many values as {first}",
        )


def export_model(module: ServingModule, card: ModelCard, path: Path) -> Path:
    """Writes a SavedModel, its card and warm-up requests; nothing half-written is at `path`.

    Args:
      module: What to save.
      card: What to say of it.
      path: Folder to make; its parent is made too.

    Raises:
      PianoError: `path` exists.
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise PianoError(f"{path} exists already; a version of a model is never overwritten")
    with whole_folder(path) as partial:
        signatures = module.signatures()
        tf.saved_model.save(module, str(partial), signatures=signatures)
        (partial / CARD_FILE).parent.mkdir(exist_ok=True)
        (partial / CARD_FILE).write_text(card.model_dump_json(indent=2) + "\n")
        write_warmup(card.inputs.features, partial, signatures)
    return path
