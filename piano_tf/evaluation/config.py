"""What is compared with what: a JSON file of labels and what each changes in a common base."""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import pydantic

from piano_tf.config import Config, Frozen
from piano_tf.errors import ConfigError
from piano_tf.evaluation.significance import RESAMPLES

Overrides = Mapping[str, Any]

INITIAL_ORDER = "initial order"
RANDOM_ORDER = "random order"
IDEAL_ORDER = "ideal order"
ORDERS = (INITIAL_ORDER, RANDOM_ORDER, IDEAL_ORDER)

_SEED = "training.seed"
_EPOCHS = "training.epochs"


class Range(Frozen):
    """Numbers from `min` to `max`, whole ones if both are whole.

    Attributes:
      min, max: Both included.
      log: Whether orders of magnitude, rather than values, are equally likely.
    """

    min: int | float
    max: int | float
    log: bool = False

    @pydantic.model_validator(mode="after")
    def _check(self) -> Range:
        if not (self.max > self.min and (self.min > 0 or not self.log)):
            raise ValueError(f"min {self.min}, max {self.max}: expected min < max, both > 0 in log")
        return self


class SearchConfig(Frozen):
    """A search on validation for what each label's models are trained with (keras-tuner).

    Every label but ablations gets the same space and the same budget. A key that a model does not
    read, such as `model.trees.num_leaves` of a network, changes nothing there.

    Attributes:
      method: `random`, or `hyperband`: many short trials, the best of which are run longer.
      trials: Of `random`: how many. Those of `hyperband` follow from `training.epochs`.
      space: Key of a `Config`, such as `model.width`, -> the values to choose among, or a `Range`.
      seed: Of the search, and of the training in it.
    """

    method: Literal["random", "hyperband"] = "random"
    trials: int = pydantic.Field(default=10, ge=1)
    space: dict[str, Range | tuple[int | float | bool | str, ...]] = pydantic.Field(min_length=1)
    seed: int = pydantic.Field(default=0, ge=0, lt=2**32)

    @pydantic.model_validator(mode="after")
    def _check(self) -> SearchConfig:
        for key, values in self.space.items():
            if key == _SEED or (key == _EPOCHS and self.method == "hyperband"):
                raise ValueError(f"space.{key}: expected another key, for this one is set already")
            if isinstance(values, tuple) and len({type(value) for value in values}) != 1:
                raise ValueError(f"space.{key}: got {values}, expected values of one type")
        return self


class ComparisonConfig(Frozen):
    """Labels x seeds x logs, each a model trained once, and how their results are held together.

    Attributes:
      logs: Written by `piano logs`; several are folds of one data set, whose test lists are pooled.
        A relative path is relative to the file that this configuration is read from.
      output: Folder to make; as `logs`.
      seeds: Of `training.seed`.
      base: What the labels have in common.
      models: Label -> what it changes in `base`, nested as there; nothing else need be said.
      reference: The label that all others are tested against; the first by default.
      ablations: Labels that are the reference with something changed. They are shown in a table of
        their own, and have what a search found for the reference.
      search: Whether and how to search for better settings of each label first.
      workers: Models trained at the same time, each on one core; results do not depend on it.
      resamples: Of every interval and test.
      unit: What is resampled: each `user` with all their lists, or each `list` alone.
      off_policy: Whether to estimate what each order would have been worth if shown. It means
        something only where the lists were really shown in their logged order.

    >>> rivals = {"PIANO": {}, "no gate": {"model": {"piano": {"gate": False}}}}
    >>> config = ComparisonConfig(logs=["logs"], output="results", models=rivals)
    >>> config.reference, config.config_of("no gate", seed=3).model.piano.gate
    ('PIANO', False)
    """

    logs: tuple[Path, ...] = pydantic.Field(min_length=1)
    output: Path
    seeds: tuple[int, ...] = pydantic.Field(default=(0, 1, 2, 3, 4), min_length=1)
    base: Config = Config()
    models: dict[str, dict[str, Any]] = pydantic.Field(min_length=1)
    reference: str
    ablations: tuple[str, ...] = ()
    search: SearchConfig | None = None
    workers: int = pydantic.Field(default=1, ge=1)
    resamples: int = pydantic.Field(default=RESAMPLES, ge=1)
    unit: Literal["list", "user"] = "user"
    off_policy: bool = True

    @pydantic.model_validator(mode="before")
    @classmethod
    def _first_is_reference(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(models := values.get("models"), dict) and models:
            return {"reference": next(iter(models)), **values}
        return values

    @pydantic.model_validator(mode="after")
    def _check(self) -> ComparisonConfig:
        require_apart("models", self.models, taken=ORDERS)
        for label in (self.reference, *self.ablations):
            if label not in self.models:
                raise ValueError(f"got label {label!r}, expected one of {', '.join(self.models)}")
        if self.reference in self.ablations:
            raise ValueError(f"ablations: got the reference {self.reference!r}, expected others")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: got {self.seeds}, expected each once")
        for label, changed in self.models.items():
            training = changed.get("training")
            if isinstance(training, dict) and "seed" in training:
                raise ValueError(f"models.{label}.{_SEED}: expected it among `seeds` alone")
            try:
                for seed in self.seeds:
                    self.config_of(label, seed=seed)
                for found in self._corners():
                    self.config_of(label, seed=self.seeds[0], found=found)
            except ConfigError as error:
                raise ValueError(f"models.{label}: {error}") from error
        return self

    @classmethod
    def load(cls, path: str | Path) -> ComparisonConfig:
        """Reads a JSON file; its folder is where relative paths start.

        Raises:
          ConfigError: The file is missing or does not hold this configuration.
        """
        config = super().load(path)
        folder = Path(path).parent
        logs = tuple(folder / log for log in config.logs)
        return config.model_copy(update={"logs": logs, "output": folder / config.output})

    def config_of(self, label: str, *, seed: int, found: Overrides | None = None) -> Config:
        """What a label's model is trained with.

        Args:
          label: A label of `models`.
          seed: Of the training.
          found: Key such as `model.width` -> value that a search found. It overrides what the label
            says, unless that makes an ablation of it.

        Raises:
          ConfigError: A key is unknown or a value wrong.
        """
        searched = [_nested(key, value) for key, value in (found or {}).items()]
        changes = [self.models[label], *searched]
        if label in self.ablations:
            changes.append(self.models[label])
        merged = self.base.model_dump(mode="json")
        for change in (*changes, _nested(_SEED, seed)):
            merged = _merged(merged, change)
        return Config.from_json(json.dumps(merged))

    def searched(self, label: str) -> str:
        """Whose search finds a label's settings: an ablation has the reference's."""
        return self.reference if label in self.ablations else label

    def _corners(self) -> list[dict[str, Any]]:
        """Each key of the search's space with each of its values, to see that they are allowed."""
        space = self.search.space if self.search else {}
        return [
            {key: value}
            for key, values in space.items()
            for value in ((values.min, values.max) if isinstance(values, Range) else values)
        ]


def require_apart(field: str, labels: Iterable[str], *, taken: Container[str] = ()) -> None:
    """Labels must make names of files of their own.

    Args:
      field: Where they stand.
      labels: The labels.
      taken: What none may be called.

    Raises:
      ValueError: One has no letter or digit, is taken, or differs from another in neither.
    """
    slugs: dict[str, str] = {}
    for label in labels:
        slug = slug_of(label)
        if not slug or label in taken:
            raise ValueError(f"{field}: got label {label!r}, expected a name of its own")
        if slug in slugs:
            raise ValueError(
                f"{field}: got labels {slugs[slug]!r} and {label!r}, expected ones that differ "
                "in letters or digits"
            )
        slugs[slug] = label


def slug_of(label: str) -> str:
    """A label as the name of a folder.

    >>> slug_of("PIANO, no gate")
    'piano-no-gate'
    """
    return re.sub(r"[\W_]+", "-", label.lower()).strip("-")


def _nested(key: str, value: Any) -> dict[str, Any]:
    """`model.width` and 8 as {"model": {"width": 8}}."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _merged(base: Overrides, changed: Overrides) -> dict[str, Any]:
    """`base` with what is changed in it, however deep; a changed value that is no mapping stands."""  # noqa: E501
    merged = dict(base)
    for key, value in changed.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged
