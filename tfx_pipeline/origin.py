"""Of which examples an artifact came: properties that later runs look at (`resolvers.py`)."""

from __future__ import annotations

import datetime as dt

from tfx import types
from tfx.components.example_gen.utils import SPAN_PROPERTY_NAME

FIRST_DAY = dt.date(1970, 1, 1)
"""The day of span 0."""
_EXAMPLES_ID = "examples_id"
_SETTINGS = "settings"


def stamp(artifact: types.Artifact, examples: types.Artifact, settings: str = "") -> None:
    """Says on an artifact what it came of.

    Args:
      artifact: An output.
      examples: Of the run.
      settings: Digest of all else that it was made by, if that matters.
    """
    artifact.set_int_custom_property(_EXAMPLES_ID, examples.id)
    artifact.set_int_custom_property(SPAN_PROPERTY_NAME, span_of(examples))
    artifact.set_string_custom_property(_SETTINGS, settings)


def span_of(artifact: types.Artifact) -> int:
    """The day since 1970 that an artifact is of; 0 where a log is not divided into days."""
    return artifact.get_int_custom_property(SPAN_PROPERTY_NAME)


def examples_of(artifact: types.Artifact) -> int:
    """The id of the examples that an artifact came of."""
    return artifact.get_int_custom_property(_EXAMPLES_ID)


def settings_of(artifact: types.Artifact) -> str:
    """The digest that it was stamped with."""
    return artifact.get_string_custom_property(_SETTINGS)


def is_before(artifact: types.Artifact, examples: types.Artifact) -> bool:
    """Whether an artifact came of an earlier day; of another log where there are no days."""
    if span_of(examples):
        return 0 < span_of(artifact) < span_of(examples)
    return not span_of(artifact) and examples_of(artifact) != examples.id
