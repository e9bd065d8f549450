"""Better settings for a label, searched for on validation with keras-tuner."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras_tuner
import numpy as np
import tensorflow as tf

from piano_tf.config import Config, Frozen
from piano_tf.errors import ConfigError, PianoError
from piano_tf.evaluation.config import ComparisonConfig, Range, SearchConfig
from piano_tf.evaluation.lists import read_lists
from piano_tf.evaluation.predictions import predict
from piano_tf.evaluation.ranking import list_metrics
from piano_tf.evaluation.runs import digest_of, encoded_log, settings_of
from piano_tf.features import LABELS
from piano_tf.files import replacing
from piano_tf.training import fit_log

_OBJECTIVE = "ndcg_10"
_HYPERBAND_EPOCHS = "tuner/epochs"


@dataclasses.dataclass(frozen=True)
class Search:
    """One (label, log). Folds are searched each for itself: one's validation is another's test.

    Attributes:
      label: Of the model, as people read it.
      log_dir: A folder written by `piano logs`; its test split is not touched.
      log_digest: Of the train and validation splits (`runs.log_digest`).
      comparison: Where the label's settings and the search's stand.
      file: Where the result is kept; trials are kept in the folder of its name without suffix, so
        that an interrupted search goes on.
      digest: Equal where the label's settings, the search's, log, code and packages are.
    """

    label: str
    log_dir: Path
    log_digest: str
    comparison: ComparisonConfig
    file: Path
    digest: str = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        configs = settings_of(self.config_of()), self.settings.model_dump_json()
        own = {"code": ("evaluation/search.py",), "packages": ("keras-tuner",)}
        object.__setattr__(self, "digest", digest_of(*configs, self.log_digest, **own))

    @property
    def title(self) -> str:
        return f"search, {self.label}"

    @property
    def settings(self) -> SearchConfig:
        assert self.comparison.search is not None
        return self.comparison.search

    def config_of(self, found: Mapping[str, Any] | None = None) -> Config:
        """What a trial with these values is trained with."""
        return self.comparison.config_of(self.label, seed=self.settings.seed, found=found)


class SearchResult(Frozen):
    """What a search found.

    Attributes:
      label: Of the model.
      digest: Of the search.
      values: Key of a `Config` -> value, of the best trial.
      ndcg_10: Its mean of click and conversion NDCG@10 on validation.
      trials: How many were run.
    """

    label: str
    digest: str
    values: dict[str, Any]
    ndcg_10: float
    trials: int


def found(search: Search) -> SearchResult | None:
    """The result of a search that is kept and whose digest is still the same."""
    try:
        result = SearchResult.load(search.file)
    except ConfigError:
        return None
    return result if result.digest == search.digest else None


def validation_ndcg(log_dir: Path, digest: str, config: Config) -> float:
    """Trains once; the mean of click and conversion NDCG@10 on validation, by the chosen score.

    Args:
      log_dir: A folder written by `piano logs`.
      digest: Of its train and validation splits.
      config: What to train with.
    """
    log = encoded_log(log_dir, digest, config.encoding)
    fitted = fit_log(log, config, verbose=0)
    batches = log.batches("validation", config.training.batch_size)
    said = predict(fitted.model, fitted.score, batches)
    tf.keras.backend.clear_session()  # or every model's graph would stay in memory
    quality = list_metrics(read_lists(log_dir, "validation"), said.score)
    return float(np.mean([np.nanmean(quality[f"{label}_ndcg_10"]) for label in LABELS]))


def run_search(
    search: Search, *, objective: Callable[[Path, str, Config], float] = validation_ndcg
) -> None:
    """Runs the trials that are not done yet and keeps the result.

    Hyperband (L. Li et al., JMLR 18, 2018) has epochs as its resource. Its longer trials start
    afresh and not from a shorter one's weights [ours], for the learning rate falls over
    `training.epochs`. A model that diverges counts as 0.

    Args:
      search: What to search for.
      objective: The larger the better; of log, digest and configuration.

    Raises:
      PianoError: A trial's settings cannot be trained with.
    """
    oracle = _oracle(search)
    trials = search.file.with_suffix("")
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        # Trials of other settings lie under other digests.
        tuner = _Tuner(
            search, objective, oracle, directory=str(trials), project_name=search.digest[:16]
        )
        try:
            tuner.search(verbose=0)
        except keras_tuner.errors.FatalError as error:
            raise error.__cause__ or error from None
    (best,) = oracle.get_best_trials(1)
    result = SearchResult(
        label=search.label,
        digest=search.digest,
        values=_values(best, search.settings),
        ndcg_10=best.score,
        trials=len(oracle.trials),
    )
    with replacing(search.file) as partial:
        partial.write_text(result.model_dump_json(indent=2) + "\n")


class _Tuner(keras_tuner.engine.base_tuner.BaseTuner):
    def __init__(
        self,
        search: Search,
        objective: Callable[[Path, str, Config], float],
        oracle: keras_tuner.Oracle,
        **options: str,
    ) -> None:
        super().__init__(oracle, **options)
        self._search = search
        self._measure = objective

    def run_trial(
        self, trial: keras_tuner.engine.trial.Trial, *args: Any, **options: Any
    ) -> dict[str, float]:
        search, asked = self._search, _values(trial, self._search.settings)
        try:
            config = search.config_of(asked)
            return {_OBJECTIVE: self._measure(search.log_dir, search.log_digest, config)}
        except Exception as error:
            if type(error) is PianoError:  # the predictions are not finite
                return {_OBJECTIVE: 0.0}
            raise keras_tuner.errors.FatalError from error  # else keras-tuner would go on


def _values(trial: keras_tuner.engine.trial.Trial, settings: SearchConfig) -> dict[str, Any]:
    """Key -> value of a trial, Hyperband's epochs too; keras-tuner keeps booleans as 1 and 0."""
    values: dict[str, Any] = {}
    for key, allowed in settings.space.items():
        value = trial.hyperparameters.values[key]
        values[key] = value if isinstance(allowed, Range) else type(allowed[0])(value)
    if _HYPERBAND_EPOCHS in trial.hyperparameters.values:
        values["training.epochs"] = trial.hyperparameters.values[_HYPERBAND_EPOCHS]
    return values


def _oracle(search: Search) -> keras_tuner.Oracle:
    settings = search.settings
    space = keras_tuner.HyperParameters()
    for key, values in settings.space.items():
        if not isinstance(values, Range):
            space.Choice(key, list(values))
            continue
        whole = isinstance(values.min, int) and isinstance(values.max, int)
        number = space.Int if whole else space.Float
        number(key, values.min, values.max, sampling="log" if values.log else "linear")
    common = {
        "objective": keras_tuner.Objective(_OBJECTIVE, "max"),
        "hyperparameters": space,
        "seed": settings.seed + 1,  # keras-tuner takes 0 for none
        "allow_new_entries": False,
        "tune_new_entries": False,
    }
    if settings.method == "random":
        return keras_tuner.oracles.RandomSearchOracle(max_trials=settings.trials, **common)
    return keras_tuner.oracles.HyperbandOracle(
        max_epochs=search.config_of().training.epochs, **common
    )
