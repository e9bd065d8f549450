"""Runs the pipeline on this machine, for `tfx run create --engine=local` and from Python.

PIANO_LOGS=logs PIANO_HOME=run tfx pipeline create --engine=local --pipeline_path=.../local_runner.py
PIANO_LOGS=logs PIANO_HOME=run tfx run create --engine=local --pipeline_name=piano
"""  # noqa: E501

from __future__ import annotations

import logging
import sys

from rich.console import Console

from piano_tf.errors import PianoError
from tfx_pipeline.configs import PipelineConfig
from tfx_pipeline.progress import quiet


def run(config: PipelineConfig) -> None:
    """Runs every stage, showing progress, writes the model card and prints the summary.

    Raises:
      PianoError: A stage failed; the message says which and why.
    """
    with quiet(config.run_log) as lines:
        from tfx import v1 as tfx

        from tfx_pipeline.pipeline import create_pipeline

        try:
            tfx.orchestration.LocalDagRunner().run(create_pipeline(config))
        except Exception as error:
            logging.exception("the run stopped")
            lines.fail()
            reason = str(error)
            if not isinstance(error, PianoError):
                # Of TensorFlow's and Beam's long stories the last line says what happened.
                last = reason.strip().splitlines()[-1].strip() if reason.strip() else "no message"
                reason = f"{type(error).__name__}: {last} (the full log is {config.run_log})"
            raise PianoError(f"{lines.stage or 'pipeline'}: {reason}") from error
        # `tfx pipeline create` reads this file with a runner that runs nothing.
        if not lines.finished:
            return
        from tfx_pipeline.card import write_card
        from tfx_pipeline.lineage import require_complete
        from tfx_pipeline.summary import read_summary

        require_complete(config)
        summary = read_summary(config)
        card = write_card(config, summary)
    console = Console()
    summary.print(console)
    console.print(f"model card: {card}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    try:
        run(PipelineConfig.from_environment())
    except PianoError as error:
        sys.exit(f"error: {error}")
