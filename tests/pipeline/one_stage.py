"""The smallest pipeline that TFX runs."""

# Without `from __future__ import annotations`: TFX reads a component's annotations as objects.

from pathlib import Path

from tfx import v1 as tfx
from tfx.dsl.component.experimental.annotations import OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts


@component
def Counting(to: Parameter[int], counted: OutputArtifact[standard_artifacts.Integer]) -> None:
    """Writes a number."""
    counted.value = to


def one_stage_pipeline(folder: Path) -> tfx.dsl.Pipeline:
    """With its artifacts and its ML Metadata in a folder; the second run is cached."""
    return tfx.dsl.Pipeline(
        pipeline_name="counting",
        pipeline_root=str(folder / "artifacts"),
        components=[Counting(to=3)],
        enable_cache=True,
        metadata_connection_config=tfx.orchestration.metadata.sqlite_metadata_connection_config(
            str(folder / "metadata.sqlite")
        ),
    )
