"""Compiles the pipeline for Kubeflow Pipelines v2 and Vertex AI Pipelines.

PIANO_LOGS=/mnt/logs PIANO_HOME=/mnt/run python -m tfx_pipeline.kubeflow_runner IMAGE OUTPUT.json

The folders must be at the same path here and in every container: a mounted bucket or volume. IMAGE
is what `Dockerfile` builds. Kubeflow runs no resolver but TFX's own, so that a run takes less from
earlier ones (`pipeline.create_pipeline`).
"""

from __future__ import annotations

import sys
from pathlib import Path

from piano_tf.errors import PianoError
from piano_tf.files import replacing
from tfx_pipeline.configs import PipelineConfig


def compile_to(output: Path, config: PipelineConfig, image: str) -> None:
    """Writes the job specification that Kubeflow and Vertex take.

    Args:
      output: A JSON file.
      config: Of the runs.
      image: With this package, for every container.
    """
    from tfx.orchestration.kubeflow.v2.kubeflow_v2_dag_runner import (
        KubeflowV2DagRunner,
        KubeflowV2DagRunnerConfig,
    )

    from tfx_pipeline.pipeline import create_pipeline

    pipeline = create_pipeline(config, remembers=False)
    with replacing(output) as partial:
        KubeflowV2DagRunner(
            config=KubeflowV2DagRunnerConfig(default_image=image),
            output_dir=str(partial.parent),
            output_filename=partial.name,
        ).run(pipeline)


if __name__ == "__main__":
    try:
        image, output = sys.argv[1:]
    except ValueError:
        sys.exit("error: expected an image and a file to write")
    try:
        compile_to(Path(output).absolute(), PipelineConfig.from_environment(), image)
    except PianoError as error:
        sys.exit(f"error: {error}")
