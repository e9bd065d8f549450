"""Running the pipeline for real, through the `piano` and `tfx` commands."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from piano_tf.config import Config

RUN = (sys.executable, "-m", "tfx_pipeline.local_runner")
# Small, but large enough that a trained model is far from a random one, and of 100 lists a day: a
# log built from events has a file a day.
WORLD = {
    **json.loads(Path(__file__).with_name("world.json").read_text()),
    "lists": 1500,
    "days": 15,
}
CONFIG = {
    "model": {"width": 16, "heads": 2, "blocks": 1},
    "training": {"epochs": 2, "learning_rate": 0.01, "batch_size": 64},
}
# Where it does not matter which model is trained: most of a small run goes into building graphs.
QUICK = {
    "model": {"name": "dnn", "width": 8, "ids": True, "match": False, "pretraining": None},
    "training": CONFIG["training"],
}
# Any trained model reaches these; only a change for the worse can refuse a blessing.
THRESHOLDS = {
    "click_auc": 0.0,
    "conversion_auc": 0.0,
    "list_click_auc": 0.0,
    "click_ndcg": 0.0,
    "conversion_ndcg": 0.0,
    "calibration": 1000.0,
    "largest_loss": 0.01,
    "largest_first_stage_loss": 1.0,
}
# For so few lists that nothing is shown beyond noise: what a model loses is no matter.
LENIENT = {**THRESHOLDS, "calibration": 100.0, "undecided": "bless", "largest_slice_loss": 1.0}


def piano(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs the `piano` command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", "from piano_tf.cli import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )


def run_pipeline(
    logs: Path,
    home: Path,
    *options: str,
    config: Path | None = None,
    thresholds: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs `piano pipeline`.

    Args:
      logs, home: Its folders.
      *options: Further ones.
      config, thresholds: Its files.
    """
    files = {"logs": logs, "home": home, "config": config, "thresholds": thresholds}
    named = [(f"--{name}", path) for name, path in files.items() if path is not None]
    return piano("pipeline", *(word for pair in named for word in pair), *options)


def run_directly(variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs the pipeline as `tfx run create` does, without that command."""
    return subprocess.run(RUN, capture_output=True, text=True, env={**os.environ, **variables})


def written(path: Path, value: dict) -> Path:
    """A JSON file."""
    path.write_text(json.dumps(value))
    return path


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
      logs, home: Its folders.
      config: What it was trained with.
      printed: What a person saw.
    """

    logs: Path
    home: Path
    config: Config
    printed: str
