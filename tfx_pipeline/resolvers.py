"""What a run takes from earlier ones."""

from __future__ import annotations

import ml_metadata
from tfx import types
from tfx.dsl.input_resolution.strategies.latest_artifact_strategy import LatestArtifactStrategy
from tfx.dsl.input_resolution.strategies.latest_blessed_model_strategy import (
    LatestBlessedModelStrategy,
)

from tfx_pipeline.gates.serving import BLESSED, MODEL_ID


class LatestIfAny(LatestArtifactStrategy):
    """The latest artifact of each channel; none, and no failure, where there is none yet."""

    def resolve_artifacts(
        self, store: ml_metadata.MetadataStore, input_dict: dict[str, list[types.Artifact]]
    ) -> dict[str, list[types.Artifact]]:
        return self._resolve(input_dict)


class LatestPushableModel(LatestBlessedModelStrategy):
    """The latest model that was both blessed and fit to be served, if there is one.

    TFX's own strategy knows of `ModelBlessing` alone: it would hold the next model to one that was
    never pushed.
    """

    def resolve_artifacts(
        self, store: ml_metadata.MetadataStore, input_dict: dict[str, list[types.Artifact]]
    ) -> dict[str, list[types.Artifact]]:
        served = {
            blessing.get_int_custom_property(MODEL_ID)
            for blessing in input_dict["infra_blessing"]
            if blessing.get_int_custom_property(BLESSED) == 1
        }
        fit = {
            "model": [model for model in input_dict["model"] if model.id in served],
            "model_blessing": input_dict["model_blessing"],
        }
        return {**super().resolve_artifacts(store, fit), "infra_blessing": []}
