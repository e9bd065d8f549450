"""The model gate: a change counts only as far as noise cannot explain it.

Evaluator holds a model's figures to fixed bounds, without intervals. How they changed is judged
here, on the same lists of the test split: NDCG@10 of the served order against that of the last
blessed model and of the first stage, with intervals over listeners (`gates/measures.py`). Over all
lists, an interval that lies

  at or above -largest loss     shows that no more is lost: the model passes
  below -largest loss           shows that more is lost: the model is refused
  on both sides                 shows neither: `undecided` says what then, against the last model;
                                against the first stage the model passes

A model must pass on every count, which makes no chance of a wrong blessing larger than the one
interval's. Slices are many, and of many intervals some miss by chance alone: theirs are as wide as
C. Bonferroni's correction asks for, and refuse only what is shown to lose.
"""

# Without `from __future__ import annotations`: TFX reads a component's annotations as objects.

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tfx.components.util.model_utils import is_model_blessed
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts
from tfx.utils import path_utils

from piano_tf.config import Frozen
from piano_tf.evaluation.lists import Lists, read_lists
from piano_tf.evaluation.predictions import Predictions, initial_order
from piano_tf.evaluation.served import predict_exported
from piano_tf.evaluation.significance import Interval
from piano_tf.features import LABELS
from tfx_pipeline.configs import Thresholds
from tfx_pipeline.gates.blessing import bless, is_withdrawn
from tfx_pipeline.gates.measures import (
    ALL_LISTS,
    Measure,
    Part,
    measures,
    order_measures,
    parts_of,
)

COMPARISON_FILE = "comparison.json"
LAST_MODEL = "the last blessed model"
FIRST_STAGE = "the first stage"
JUDGED = tuple(f"{label} NDCG@10" for label in LABELS)
_SPLIT = "test"


class Estimate(Frozen):
    """A figure and its confidence interval; None for what too few lists can tell."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, found: Interval) -> "Estimate":
        return cls(**{name: _known(x) for name, x in found._asdict().items()})


class Figure(Frozen):
    """One figure of a model on some of the lists.

    Attributes:
      name: What is measured.
      part: Of which lists.
      lists: How many of them count.
      model: The new model's.
      last: The last blessed model's, if there was one.
      change: What the new one gains on it.
      first_stage: The first-stage order's, where that has one.
    """

    name: str
    part: str
    lists: int
    model: Estimate
    last: float | None = None
    change: Estimate | None = None
    first_stage: float | None = None


class Change(Frozen):
    """What a figure gains on another order of the same lists, and whether that may be.

    Attributes:
      name: The figure.
      part: Of which lists.
      against: The other order, in words.
      lists: How many have a positive, and count.
      change: Mean over these lists.
      low, high: Its confidence interval.
      largest_loss: What may be lost.
      undecided: What to do where the interval shows neither that more is lost nor that it is not.
    """

    name: str
    part: str = ALL_LISTS
    against: str
    lists: int
    change: float
    low: float
    high: float
    largest_loss: float
    undecided: str

    @property
    def is_loss(self) -> bool:
        """Whether it is shown that more is lost than may be."""
        return self.high < -self.largest_loss

    @property
    def is_undecided(self) -> bool:
        """Whether neither that nor the opposite is shown."""
        return self.low < -self.largest_loss <= self.high

    @property
    def verdict(self) -> str:
        """In a word or two."""
        return "lost" if self.is_loss else "undecided" if self.is_undecided else "kept"

    @property
    def complaint(self) -> str | None:
        """Why this change stands against a blessing, in words."""
        if self.is_loss:
            lost = f"{-self.change:.4f} below {self.against}'s"
            return f"{self.title} is {lost} ({self.bounds}), shown to lose more than {self.margin}"
        if self.is_undecided and self.undecided == "refuse":
            return (
                f"{self.title} may be more than {self.margin} below {self.against}'s "
                f"({self.bounds}){self._enough()}"
            )
        return None

    @property
    def title(self) -> str:
        return self.name if self.part == ALL_LISTS else f"{self.name} where {self.part}"

    @property
    def margin(self) -> str:
        return f"{self.largest_loss:g}"

    @property
    def bounds(self) -> str:
        return f"{self.change:+.4f}, {self.low:+.4f} to {self.high:+.4f}, on {self.lists} lists"

    def _enough(self) -> str:
        """About how many lists would tell, if the change is what it seems."""
        room = self.change + self.largest_loss
        if not room > 0:
            return ""
        wanted = math.ceil(self.lists * ((self.change - self.low) / room) ** 2)
        return f"; some {wanted} lists would tell, if the change is what it seems"


class Comparison(Frozen):
    """A model on the test split, beside what there was; written beside its blessing.

    Attributes:
      figures: Every figure of every slice.
      changes: Those that decide.
      withdrawn: Whether the model was pushed and taken back, whatever its changes are.
    """

    figures: tuple[Figure, ...]
    changes: tuple[Change, ...]
    withdrawn: bool = False

    @property
    def complaints(self) -> tuple[str, ...]:
        """What stands against a blessing."""
        taken_back = ("it was withdrawn",) if self.withdrawn else ()
        lost = (one.complaint for one in self.changes if one.complaint is not None)
        return (*taken_back, *lost)


@component
def ModelGate(
    model: InputArtifact[standard_artifacts.Model],
    evaluated: InputArtifact[standard_artifacts.ModelBlessing],
    blessing: OutputArtifact[standard_artifacts.ModelBlessing],
    logs: Parameter[str],
    limits: Parameter[str],
    code: Parameter[str],
    baseline: InputArtifact[standard_artifacts.Model] = None,
) -> None:
    """Blesses what Evaluator blessed, unless the model is shown to lose or was withdrawn.

    Args:
      model: Trainer's.
      evaluated: Evaluator's blessing, by value thresholds.
      blessing: For Pusher, and for the next run; `comparison.json` beside it says why.
      logs: The log whose test split is ordered.
      limits: JSON of `Thresholds`.
      code: Fingerprint of our own source, for the cache.
      baseline: The last blessed model; a first run has none.
    """
    del code
    log_dir = Path(logs)
    lists = read_lists(log_dir, _SPLIT)
    found = compare(
        lists,
        _predictions(model.uri, log_dir),
        _predictions(baseline.uri, log_dir) if baseline is not None else None,
        parts_of(lists, log_dir, _SPLIT),
        Thresholds.from_json(limits),
    ).model_copy(update={"withdrawn": is_withdrawn(model)})
    passed = is_model_blessed(evaluated) and not found.complaints
    bless(blessing, model, passed=passed, why=found, file=COMPARISON_FILE)


def compare(
    lists: Lists,
    said: Predictions,
    last: Predictions | None,
    parts: Sequence[Part],
    limits: Thresholds,
) -> Comparison:
    """A model's figures on every part of the lists, and the changes that decide.

    Args:
      lists: What happened.
      said: The new model's predictions.
      last: The last blessed model's, if there was one.
      parts: All lists first, then slices.
      limits: What may be lost.
    """
    figures: list[Figure] = []
    changes: list[Change] = []
    _, listeners = np.unique(lists.user_id.astype(str), return_inverse=True)
    for part in parts:
        some, members = lists.only(part.members), part.members
        users = listeners[members]
        ours = measures(some, said.only(members))
        theirs = measures(some, last.only(members)) if last is not None else {}
        first = order_measures(some, initial_order(some))
        figures += _figures(part.name, users, ours, theirs, first, limits.level)
        changes += _changes(part.name, users, ours, theirs, first, limits, len(parts) - 1)
    return Comparison(figures=tuple(figures), changes=tuple(changes))


Measures = dict[str, Measure]


def _figures(
    part: str, users: np.ndarray, ours: Measures, theirs: Measures, first: Measures, level: float
) -> Iterator[Figure]:
    for name, own in ours.items():
        last = theirs.get(name)
        yield Figure(
            name=name,
            part=part,
            lists=own.lists,
            model=Estimate.of(own.interval(users, level)),
            last=_known(last.value) if last else None,
            change=Estimate.of(own.minus(last).interval(users, level)) if last else None,
            first_stage=_known(first[name].value) if name in first else None,
        )


def _known(value: float) -> float | None:
    """None for what cannot be computed: JSON has no NaN."""
    return value if math.isfinite(value) else None


def _changes(
    part: str,
    users: np.ndarray,
    ours: Measures,
    theirs: Measures,
    first: Measures,
    limits: Thresholds,
    slices: int,
) -> Iterator[Change]:
    """Of a slice those against the last model alone, at the level that so many slices ask for."""
    whole, level = part == ALL_LISTS, limits.level
    if not whole:
        level = 1 - (1 - level) / (slices * len(JUDGED))
    rules = []
    if theirs:
        loss = limits.largest_loss if whole else limits.largest_slice_loss
        rules.append((LAST_MODEL, theirs, loss, limits.undecided if whole else "bless"))
    if whole:
        rules.append((FIRST_STAGE, first, limits.largest_first_stage_loss, "bless"))
    for against, others, largest_loss, undecided in rules:
        for name in JUDGED:
            gain = ours[name].minus(others[name])
            found = gain.interval(users, level)
            if not np.isfinite(found).all():
                # Of too few listeners: NDCG may have changed by all there is.
                found = Interval(_known(found.value) or 0.0, -1.0, 1.0)
            yield Change(
                name=name,
                part=part,
                against=against,
                lists=gain.lists,
                change=found.value,
                low=found.low,
                high=found.high,
                largest_loss=largest_loss,
                undecided=undecided,
            )


def _predictions(uri: str, log_dir: Path) -> Predictions:
    return predict_exported(Path(path_utils.serving_model_path(uri)), log_dir, _SPLIT)
