"""What a run takes from earlier ones. A first run takes nothing, and needs no other pipeline.

Each knows the examples of this run. What comes of the same examples, or of the same day read
another time, is never taken, so that a run that was killed, and is started again, finds what it
found before, and repeats no finished stage. Neither is what comes of a later day, so that a run of
an earlier day knows nothing of the future.
"""

from __future__ import annotations

import ml_metadata
from tfx import types
from tfx.dsl.components.common.resolver import ResolverStrategy

from tfx_pipeline.gates.blessing import is_blessed, model_of
from tfx_pipeline.ingestion import CONTRACT
from tfx_pipeline.origin import examples_of, is_before, settings_of, span_of

Artifacts = dict[str, list[types.Artifact]]


class LastAccepted(ResolverStrategy):
    """The statistics of the data that was accepted last; none where there are none yet.

    Inputs: `examples` of this run, `accepted` statistics of DataGate.
    """

    def resolve_artifacts(
        self, store: ml_metadata.MetadataStore, input_dict: Artifacts
    ) -> Artifacts:
        del store
        (now,) = input_dict["examples"]
        before = [one for one in input_dict["accepted"] if is_before(one, now)]
        before.sort(key=lambda one: (span_of(one), one.id))
        return {"examples": [], "accepted": before[-1:]}


class Window(ResolverStrategy):
    """The examples of the days before this run's.

    Of a day that was read more than once, the newest that passed the data gate; a day that did not
    pass, or has other columns, is left out.

    Inputs: `now`, examples of this run; `examples` of all runs; `accepted` statistics.

    Args:
      days: How many, this run's included.
    """

    def __init__(self, days: int) -> None:
        self._days = days

    def resolve_artifacts(
        self, store: ml_metadata.MetadataStore, input_dict: Artifacts
    ) -> Artifacts:
        del store
        (now,) = input_dict["now"]
        accepted = {examples_of(one) for one in input_dict["accepted"]}
        by_span = {
            span_of(one): one
            for one in sorted(input_dict["examples"], key=lambda one: one.id)
            if one.id in accepted
            and one.get_string_custom_property(CONTRACT) == now.get_string_custom_property(CONTRACT)
            and span_of(now) - self._days < span_of(one) < span_of(now)
        }
        return {"now": [], "accepted": [], "examples": [by_span[span] for span in sorted(by_span)]}


class LastBlessedModel(ResolverStrategy):
    """The model of the last day that both gates blessed; none where there is none yet.

    TFX's own strategy knows of `ModelBlessing` alone: it would hold the next model to one that the
    serving gate refused. A model of this run's examples counts only if it was made otherwise.

    Inputs: `examples` of this run, `model`, `model_blessing`, `infra_blessing` of ServingGate. Of
    the last what is left is the blessing of a model of a later day, if there is one.

    Args:
      settings: Digest of all that this run makes a model by; without it, models of this run's
        examples never count.
    """

    def __init__(self, settings: str | None = None) -> None:
        self._settings = settings

    def resolve_artifacts(
        self, store: ml_metadata.MetadataStore, input_dict: Artifacts
    ) -> Artifacts:
        del store
        (now,) = input_dict["examples"]
        blessed = {model_of(one) for one in input_dict["model_blessing"] if is_blessed(one)}
        fit = {
            model_of(one): one
            for one in input_dict["infra_blessing"]
            if is_blessed(one) and model_of(one) in blessed
        }
        before = [
            one
            for one in input_dict["model"]
            if one.id in fit
            and (is_before(fit[one.id], now) or self._is_otherwise(fit[one.id], now))
        ]
        before.sort(key=lambda one: (span_of(fit[one.id]), one.id))
        later = [one for one in fit.values() if span_of(one) > span_of(now)]
        return {
            **{name: [] for name in input_dict},
            "model": before[-1:],
            "infra_blessing": later[-1:],
        }

    def _is_otherwise(self, blessing: types.Artifact, now: types.Artifact) -> bool:
        """Whether a model of the same examples was made by other settings, and counts."""
        known = self._settings is not None
        return known and examples_of(blessing) == now.id and settings_of(blessing) != self._settings
