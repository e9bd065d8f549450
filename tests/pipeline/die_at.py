"""Runs the pipeline and kills it at a moment that is over too soon to be met from outside.

Run as `python die_at.py MOMENT`. `copying` is when Pusher has copied the first file of a model; the
name of a stage is when its work is done and not yet recorded.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import types
from pathlib import Path
from typing import Any

from tfx.orchestration.portable import launcher

from tfx_pipeline import local_runner, pushing
from tfx_pipeline.configs import PipelineConfig

COPYING = "copying"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def copy_one(source: str, place: str) -> None:
    shutil.copy2(source, place)
    die()


def copytree(source: Path, place: Path, **options: Any) -> None:
    shutil.copytree(source, place, copy_function=copy_one, **options)


def main(moment: str) -> None:
    if moment == COPYING:
        pushing.shutil = types.SimpleNamespace(copytree=copytree, rmtree=shutil.rmtree)
    work = launcher.Launcher._run_executor

    def work_and_die(self: launcher.Launcher, *arguments: Any) -> Any:
        done = work(self, *arguments)
        if self._pipeline_node.node_info.id == moment:
            die()
        return done

    launcher.Launcher._run_executor = work_and_die
    local_runner.run(PipelineConfig.from_environment())


if __name__ == "__main__":
    main(sys.argv[1])
