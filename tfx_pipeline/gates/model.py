"""The model gate: a change counts only as far as noise cannot explain it.

Evaluator holds a model's figures to fixed bounds. What they were for other orders of the same lists
is compared here, list by list: NDCG@10 of the served order against that of the last pushed model
and of the first stage, with bootstrap intervals over listeners (`piano_tf.evaluation.significance`;
TFMA's own intervals take no part in its thresholds). An interval that lies

  at or above -largest loss     shows that no more is lost: the model passes
  below -largest loss           shows that more is lost: the model is refused
  on both sides                 shows neither: `undecided` says what then, against the last model;
                                against the first stage the model passes
"""

# Without `from __future__ import annotations`: TFX reads a component's annotations as objects.

import math
from pathlib import Path

import numpy as np
from tfx.components.util.model_utils import is_model_blessed
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts
from tfx.utils import path_utils

from piano_tf.config import Frozen
from piano_tf.evaluation.lists import Lists, read_lists
from piano_tf.evaluation.predictions import initial_order
from piano_tf.evaluation.ranking import ndcg, ranks_of
from piano_tf.evaluation.served import predict_exported
from piano_tf.evaluation.significance import interval
from piano_tf.features import LABELS
from tfx_pipeline.configs import Thresholds
from tfx_pipeline.gates.serving import BLESSED, MODEL_ID

CHANGES_FILE = "changes.json"
LAST_MODEL = "the last blessed model"
FIRST_STAGE = "the first stage"
TOP_K = 10
_SPLIT = "test"
_SEED = 0


class Change(Frozen):
    """What NDCG@10 gains on another order of the same lists.

    Attributes:
      label: `click` or `conversion`.
      against: The other order, in words.
      lists: How many have a positive, and count.
      change: Mean over these lists.
      low, high: Its confidence interval.
      largest_loss: What may be lost.
      undecided: What to do where the interval shows neither that more is lost nor that it is not.
    """

    label: str
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
    def complaint(self) -> str | None:
        """Why this change stands against a blessing, in words."""
        if self.is_loss:
            lost = f"{-self.change:.4f} below {self.against}'s"
            return f"{self.name} is {lost} ({self.bounds}), shown to lose more than {self.margin}"
        if self.is_undecided and self.undecided == "refuse":
            return (
                f"{self.name} may be more than {self.margin} below {self.against}'s "
                f"({self.bounds}){self._enough()}"
            )
        return None

    @property
    def name(self) -> str:
        return f"{self.label} NDCG@{TOP_K}"

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


class Changes(Frozen):
    """Every change of a model; written beside its blessing."""

    changes: tuple[Change, ...]

    @property
    def complaints(self) -> tuple[str, ...]:
        """What stands against a blessing."""
        return tuple(one.complaint for one in self.changes if one.complaint is not None)


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
    """Blesses what Evaluator blessed, unless the model is shown to lose.

    Args:
      model: Trainer's.
      evaluated: Evaluator's blessing, by value thresholds.
      blessing: For Pusher, and for the next run; `changes.json` beside it says why.
      logs: The log whose test split is ordered.
      limits: JSON of `Thresholds`.
      code: Fingerprint of our own source, for the cache.
      baseline: The last pushed model; a first run has none.
    """
    del code
    log_dir = Path(logs)
    last = _scores(baseline.uri, log_dir) if baseline is not None else None
    found = measured(
        read_lists(log_dir, _SPLIT),
        _scores(model.uri, log_dir),
        last,
        Thresholds.from_json(limits),
    )
    passed = is_model_blessed(evaluated) and not found.complaints
    blessing.set_int_custom_property(BLESSED, int(passed))
    blessing.set_int_custom_property(MODEL_ID, model.id)
    Path(blessing.uri).mkdir(parents=True, exist_ok=True)
    (Path(blessing.uri) / CHANGES_FILE).write_text(found.model_dump_json(indent=2) + "\n")


def measured(
    lists: Lists, scores: np.ndarray, last: np.ndarray | None, limits: Thresholds
) -> Changes:
    """What an order gains on the last model's, if there was one, and on the first stage's.

    Args:
      lists: What happened.
      scores: [L, N] the new model's.
      last: [L, N] the last pushed model's.
      limits: What may be lost.
    """
    others = [(FIRST_STAGE, initial_order(lists), limits.largest_first_stage_loss, "bless")]
    if last is not None:
        others.insert(0, (LAST_MODEL, last, limits.largest_loss, limits.undecided))
    changes = []
    for against, other, largest_loss, undecided in others:
        for label in LABELS:
            gain = _ndcg(lists, label, scores) - _ndcg(lists, label, other)
            found = interval(gain, _SEED, level=limits.level, clusters=lists.user_id)
            # Where listeners are too few for an interval, NDCG may have changed by all there is.
            mean, low, high = found if np.isfinite(found).all() else (0.0, -1.0, 1.0)
            changes.append(
                Change(
                    label=label,
                    against=against,
                    lists=int(np.count_nonzero(~np.isnan(gain))),
                    change=mean,
                    low=low,
                    high=high,
                    largest_loss=largest_loss,
                    undecided=undecided,
                )
            )
    return Changes(changes=tuple(changes))


def _ndcg(lists: Lists, label: str, scores: np.ndarray) -> np.ndarray:
    return ndcg(lists.labels[label], ranks_of(scores, lists.mask), lists.mask, TOP_K)


def _scores(uri: str, log_dir: Path) -> np.ndarray:
    folder = Path(path_utils.serving_model_path(uri))
    return predict_exported(folder, log_dir, _SPLIT).score
