"""Runs the pipeline as far as a stage, whose end is the end of the run.

Run as `python run_until.py STAGE`, with the variables of a run.
"""

from __future__ import annotations

import sys
from typing import Any

from tfx.proto.orchestration import pipeline_pb2

from piano_tf.errors import PianoError
from tfx_pipeline import local_runner, summary
from tfx_pipeline.configs import PipelineConfig
from tfx_pipeline.naming_runner import NamingRunner


def main(stage: str) -> None:
    run_all = NamingRunner.run_with_ir

    def run_some(self: NamingRunner, pipeline: pipeline_pb2.Pipeline, **options: Any) -> None:
        names = [node.pipeline_node.node_info.id for node in pipeline.nodes]
        del pipeline.nodes[names.index(stage) + 1 :]
        run_all(self, pipeline, **options)

    def end(_: PipelineConfig) -> None:
        sys.exit(0)

    NamingRunner.run_with_ir = run_some
    summary.read_summary = end
    local_runner.run(PipelineConfig.from_environment())


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except PianoError as error:
        sys.exit(f"error: {error}")
