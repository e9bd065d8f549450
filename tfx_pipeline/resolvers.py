"""What a run takes from earlier ones."""

from __future__ import annotations

import ml_metadata
from tfx import types
from tfx.dsl.input_resolution.strategies.latest_artifact_strategy import LatestArtifactStrategy


class LatestIfAny(LatestArtifactStrategy):
    """The latest artifact of each channel; none, and no failure, where there is none yet."""

    def resolve_artifacts(
        self, store: ml_metadata.MetadataStore, input_dict: dict[str, list[types.Artifact]]
    ) -> dict[str, list[types.Artifact]]:
        return self._resolve(input_dict)
