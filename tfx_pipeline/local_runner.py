"""Runs the pipeline on this machine, for `tfx run create --engine=local` and from Python.

PIANO_LOGS=logs PIANO_HOME=run tfx pipeline create --engine=local --pipeline_path=.../local_runner.py
PIANO_LOGS=logs PIANO_HOME=run tfx run create --engine=local --pipeline_name=piano
"""  # noqa: E501

from __future__ import annotations

import logging
import os
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from piano_tf.cluster import VARIABLE, workers
from piano_tf.disk import full_disk
from piano_tf.errors import ConfigError, PianoError
from tfx_pipeline.configs import PipelineConfig
from tfx_pipeline.home_lock import alone
from tfx_pipeline.progress import quiet


def run(config: PipelineConfig) -> None:
    """Runs every stage, showing progress, writes the model card and prints and writes the summary.

    That a gate refuses the model is no error: `outcome.json` (`run_folder.py`) says so.

    Raises:
      PianoError: A stage failed, and the message says which and why; another run is at work in the
        same home; or TF_CONFIG names several workers, of which this process would be one in every
        stage.
    """
    _require_one_worker()
    with alone(config.home), quiet(config.run_log) as lines:
        from tfx_pipeline.naming_runner import NamingRunner
        from tfx_pipeline.pipeline import create_pipeline

        try:
            NamingRunner().run(create_pipeline(config))
        except Exception as error:
            logging.exception("the run stopped")
            lines.fail()
            raise PianoError(f"{lines.stage or 'pipeline'}: {_reason(error, config)}") from error
        # `tfx pipeline create` reads this file with a runner that runs nothing.
        if not lines.finished:
            return
        from tfx_pipeline.card import write_card
        from tfx_pipeline.lineage import require_complete
        from tfx_pipeline.summary import read_summary

        require_complete(config)
        summary = read_summary(config)
        try:
            card = write_card(config, summary)
            outcome = summary.outcome(config, card).write(card.parent)
        except OSError as error:
            raise PianoError(f"model card: {_reason(error, config)}") from error
    console = Console(highlight=False, soft_wrap=True)
    summary.print(console)
    for line in (f"model card: {card}", f"outcome: {outcome}", summary.conclusion):
        console.print(line, markup=False)


def _require_one_worker() -> None:
    if len(together := workers(os.environ)) > 1:
        raise ConfigError(
            f"environment variable {VARIABLE}: names {len(together)} workers, expected one, for "
            "all stages run in this process (docs/hardware.md says what trains on several)"
        )


def _reason(error: Exception, config: PipelineConfig) -> str:
    """Why a run stopped, in one sentence."""
    if (full := full_disk(error, _written(config))) is not None:
        return f"{full}; the same command goes on once there is room"
    if isinstance(error, PianoError):
        return str(error)
    # Of TensorFlow's and Beam's long stories the last line says what happened.
    told = str(error).strip().splitlines() or ["no message"]
    return f"{type(error).__name__}: {told[-1].strip()} (the full log is {config.run_log})"


def _written(config: PipelineConfig) -> list[Path]:
    """Folders that a run writes to; any may be a disk of its own."""
    stages = [*config.artifacts.glob("*")]
    return [config.home, *stages, config.checkpoints, config.pushed, Path(tempfile.gettempdir())]


if __name__ == "__main__":
    try:
        run(PipelineConfig.from_environment())
    except PianoError as error:
        sys.exit(f"error: {error}")
