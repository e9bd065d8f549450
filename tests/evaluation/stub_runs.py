"""Runs that train nothing, in this process: quick, and the same each time."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np

from piano_tf.config import ScoreConfig
from piano_tf.evaluation import runs
from piano_tf.evaluation.compare import compare
from piano_tf.evaluation.config import ComparisonConfig
from piano_tf.evaluation.lists import Lists, read_lists
from piano_tf.evaluation.predictions import Predictions
from piano_tf.evaluation.runs import Run, RunRecord

MODELS = {
    "Ours": {"model": {"name": "first_stage"}},
    "Rival": {"model": {"name": "first_stage", "width": 8}},
    "no part": {"model": {"name": "first_stage", "width": 12}},
}


class Inline(Executor):
    """Does at once what is submitted; an interruption is not caught."""

    def submit(self, fn: Callable, /, *args: Any, **kwargs: Any) -> Future:
        future: Future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@contextlib.contextmanager
def inline(workers: int) -> Iterator[Executor]:
    yield Inline()


def said(lists: Lists, seed: int, skill: float) -> Predictions:
    """Predictions that know a little of what happened: more, the larger the skill."""
    rng = np.random.default_rng(seed)
    click = rng.uniform(0.05, 0.3, lists.mask.shape) + skill * lists.labels["click"]
    click = np.where(lists.mask, click, 0).astype(np.float32)
    share = rng.uniform(0.2, 0.6, lists.mask.shape).astype(np.float32)
    return Predictions(
        score=np.where(lists.mask, np.log(np.maximum(click, 1e-6)), 0).astype(np.float32),
        click=click,
        conversion=click * share,
        list_click=1 - np.prod(1 - click, axis=1),
        list_conversion=1 - np.prod(1 - click * share, axis=1),
    )


def stub_train(run: Run) -> None:
    """Keeps predictions that depend on label, seed and width alone."""
    seed = zlib.crc32(f"{run.label} {run.config.training.seed}".encode())
    skill = run.config.model.width / 500
    record = RunRecord(
        label=run.label,
        log=str(run.log_dir),
        digest=run.digest,
        config=run.config,
        score=ScoreConfig(),
        epochs=1,
        seconds=float(seed % 7),
        versions={"piano_tf": "0"},
    )
    predictions = {
        split: said(read_lists(run.log_dir, split), seed + number, skill)
        for number, split in enumerate(runs.PREDICTED)
    }
    runs.keep(run.folder, record, predictions)


class Trainer:
    """`stub_train`, counted; interrupted before it does one more than `patience`."""

    def __init__(self, patience: int | None = None) -> None:
        self.trained: list[str] = []
        self.patience = patience

    def __call__(self, run: Run) -> None:
        if len(self.trained) == self.patience:
            raise KeyboardInterrupt
        stub_train(run)
        self.trained.append(run.title)


def config_of(log_dir: Path, output: Path, **changed: Any) -> ComparisonConfig:
    """Two models and an ablation, two seeds, few resamples."""
    return ComparisonConfig(
        **{
            "logs": [log_dir],
            "output": output,
            "seeds": [0, 1],
            "models": MODELS,
            "ablations": ["no part"],
            "resamples": 200,
            "unit": "list",
            **changed,
        }
    )


def compared(config: ComparisonConfig, train: Callable[[Run], None] = stub_train, **hooks) -> Path:
    """`compare` in this process."""
    return compare(config, train=train, pool=inline, **hooks)
