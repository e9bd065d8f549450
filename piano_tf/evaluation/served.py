"""`piano evaluate`: what an exported model, as a server would answer, is worth on a log."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from piano_tf.data.batches import raw_batches
from piano_tf.data.logs import read_spec
from piano_tf.errors import LogError, PianoError
from piano_tf.evaluation.lists import read_lists
from piano_tf.evaluation.predictions import Predictions
from piano_tf.evaluation.results import Comparison
from piano_tf.evaluation.summary import Entry, Resampling, Truth, orders, summarise
from piano_tf.export import CARD_FILE, ModelCard
from piano_tf.features import FeatureSpec
from piano_tf.propensity import read_examination

_ROWS = 256


def evaluate_exported(
    model_dir: Path,
    log_dir: Path,
    *,
    split: str = "test",
    resampling: Resampling | None = None,
    off_policy: bool = False,
) -> Comparison:
    """Holds an exported model against the initial, a random and the ideal order.

    Args:
      model_dir: A folder written by `piano_tf.export.export_model`.
      log_dir: A folder written by `piano logs`, with the columns that the model was trained on.
      split: Of the log.
      resampling: Of intervals and tests.
      off_policy: Whether to estimate what each order would have been worth if shown. It means
        something only where the lists were really shown in their logged order.

    Raises:
      PianoError: The folder holds no such model.
      LogError: The log lacks a column of the model's, or cannot be read.
    """
    resampling = resampling or Resampling()
    predictions = predict_exported(model_dir, log_dir, split)
    lists = read_lists(log_dir, split)
    truth, why_not = Truth(lists), "none was asked for."
    if off_policy:
        try:
            truth, why_not = Truth(lists, [(len(lists), read_examination(log_dir))]), ""
        except PianoError as error:
            why_not = f"{error}."
    name = _card(model_dir).config.model.name
    model = Entry.of_model(name, [predictions])
    entries = [model, *orders(lists, [resampling.seed])]
    return Comparison(
        dataset=read_spec(log_dir).dataset,
        split=split,
        lists=lists,
        rows=[summarise(entry, model, truth, resampling) for entry in entries],
        reference=name,
        seeds=[resampling.seed],
        resampling=resampling,
        off_policy=why_not,
    )


def predict_exported(model_dir: Path, log_dir: Path, split: str) -> Predictions:
    """What the signature `serving_default` answers for every list of a split.

    Raises:
      PianoError: The folder holds no such model.
      LogError: The log lacks a column of the model's, or cannot be read.
    """
    answer, features = load_exported(model_dir)
    _require_columns(features, log_dir)
    parts = [answer(batch) for batch in raw_batches(log_dir, split, features, _ROWS)]
    if not parts:
        raise LogError("has no lists", source=str(Path(log_dir) / split))
    return Predictions.concatenate(parts)


def load_exported(model_dir: Path) -> tuple[Callable[[Mapping], Predictions], FeatureSpec]:
    """The signature `serving_default` as a function of padded raw columns, and which it reads.

    Raises:
      PianoError: The folder holds no such model.
    """
    features = _card(model_dir).inputs.features
    try:
        loaded = tf.saved_model.load(str(model_dir))
        loaded.signatures["serving_default"]
    except (OSError, KeyError, ValueError) as error:
        raise PianoError(f"{model_dir}: cannot be loaded as a model ({error})") from error
    columns = [column.name for column in features.columns(labels=False)]

    def answer(batch: Mapping) -> Predictions:
        # By way of the whole: a signature alone does not keep its variables alive.
        signature = loaded.signatures["serving_default"]
        said = signature(**{name: tf.constant(batch[name]) for name in columns})
        return _predictions(said, batch["item_id"] != "")

    return answer, features


def _card(model_dir: Path) -> ModelCard:
    model_dir = Path(model_dir)
    if (model_dir / CARD_FILE).is_file():
        return ModelCard.load(model_dir / CARD_FILE)
    versions = sorted((file.parents[1] for file in model_dir.glob(f"*/{CARD_FILE}")), key=_version)
    hint = f", such as {versions[-1]}" if versions else ""
    raise PianoError(
        f"{model_dir}: has no {CARD_FILE}; expected the folder of one exported version{hint}"
    )


def _version(folder: Path) -> tuple[int, str]:
    """Numbers by size, other names before them."""
    return (int(folder.name) if folder.name.isdecimal() else -1), folder.name


def _require_columns(features: FeatureSpec, log_dir: Path) -> None:
    """A log may have more columns than the model reads, and none less."""
    there = {column.name: column.type for column in read_spec(log_dir).columns()}
    for column in features.columns():
        found = there.get(column.name, "no such column")
        if found != column.type:
            raise LogError(
                f"got {found}, expected {column.type}, for the model reads it",
                column=column.name,
                source=str(log_dir),
            )


def _predictions(said: Mapping[str, tf.Tensor], mask: np.ndarray) -> Predictions:
    """An answer with 0 at padding, where the score is the lowest number there is."""
    arrays = {field.name: said[field.name].numpy() for field in dataclasses.fields(Predictions)}
    return Predictions(
        **{
            name: np.where(mask, values, 0) if values.ndim == 2 else values
            for name, values in arrays.items()
        }
    )
