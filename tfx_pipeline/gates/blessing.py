"""A gate's blessing: whether a model may go on, as Pusher reads it, and why."""

from __future__ import annotations

from pathlib import Path

from tfx import types

from piano_tf.config import Frozen

BLESSED = "blessed"
WITHDRAWN = "withdrawn"  # of a model that was pushed, and taken back (`withdrawal.py`)
MODEL_ID = "current_model_id"  # as Evaluator says which model a blessing is of


def bless(
    blessing: types.Artifact, model: types.Artifact, *, passed: bool, why: Frozen, file: str
) -> None:
    """Fills a blessing.

    Args:
      blessing: The gate's output.
      model: Of which it is.
      passed: Whether that may be pushed.
      why: What the gate found.
      file: Name of the JSON file beside the blessing that says so.
    """
    blessing.set_int_custom_property(BLESSED, int(passed))
    blessing.set_int_custom_property(MODEL_ID, model.id)
    folder = Path(blessing.uri)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(why.model_dump_json(indent=2) + "\n")


def is_blessed(blessing: types.Artifact) -> bool:
    """Whether it says yes."""
    return blessing.get_int_custom_property(BLESSED) == 1


def is_withdrawn(model: types.Artifact) -> bool:
    """Whether a model was pushed and taken back, and may not be pushed again."""
    return model.get_int_custom_property(WITHDRAWN) == 1


def model_of(blessing: types.Artifact) -> int:
    """The id of the model that it is of."""
    return blessing.get_int_custom_property(MODEL_ID)
