"""`piano compare`: every label with every seed on every log, and what came out of it.

What is in the output folder:

- `search/<label>/<log>.json`: what a search found; `runs/<label>/<seed>/<log>/`: a run's record and
  predictions. Both are kept, and made again only where their digest has changed.
- `results.parquet`: label, seed, split, slice, metric, lists and value, one row each.
- `summary.parquet`: what has an interval: label, metric, value, low, high and, against the
  reference, lead, lead_low, lead_high, p and p_holm.
- `results.md` and `report.html`, for people.

The tables and `results.md` depend on configuration, logs, software and kind of processor alone;
times stand in the records and in the report.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, as_completed
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

import numpy as np

from piano_tf import models
from piano_tf.data.logs import read_spec
from piano_tf.errors import ConfigError, PianoError
from piano_tf.evaluation import runs, search
from piano_tf.evaluation.config import ORDERS, ComparisonConfig, slug_of
from piano_tf.evaluation.lists import Lists, concatenate, read_lists
from piano_tf.evaluation.predictions import Predictions
from piano_tf.evaluation.report import remove_results, write_results
from piano_tf.evaluation.results import Comparison
from piano_tf.evaluation.runs import Run, log_digest
from piano_tf.evaluation.search import Search, SearchResult
from piano_tf.evaluation.summary import Entry, Resampling, Row, Truth, means_of, orders, summarise
from piano_tf.evaluation.workers import spawned
from piano_tf.features import SPLITS
from piano_tf.files import require_room
from piano_tf.propensity import ExaminationModel, read_examination

Progress = Callable[[int, int, str], None]
Say = Callable[[str], None]

_Task = TypeVar("_Task", Run, Search)

_SEARCHED = ("train", "validation")


def compare(
    config: ComparisonConfig,
    *,
    progress: Progress = lambda done, total, what: None,
    say: Say = lambda sentence: None,
    train: Callable[[Run], None] = runs.train,
    run_search: Callable[[Search], None] = search.run_search,
    pool: Callable[[int], AbstractContextManager[Executor]] = spawned,
) -> Path:
    """Searches and trains what is not kept yet, and writes tables and report.

    Tables and report of other settings are removed as soon as something has to be made again.

    Args:
      config: What to compare.
      progress: Called with how many steps are done, of how many, and the last one's name.
      say: Called with a sentence now and then.
      train, run_search: Do one run or search and keep it; called in the processes of `pool`.
      pool: As `workers.spawned`.

    Returns:
      The report's file.

    Raises:
      ConfigError: A label's model is unknown.
      LogError: A log cannot be read.
      PianoError: A run or search failed, and what was finished before is kept; or the output folder
        cannot be made.
    """
    _require_models(config)
    require_room(config.output)
    for partial in config.output.glob("*/*/*/.*"):  # of a process that was killed
        shutil.rmtree(partial, ignore_errors=True)
    with pool(config.workers) as workers:
        searches = _searches(config)
        all_runs = len(config.models) * len(config.seeds) * len(config.logs)
        step = _Steps(progress, len(searches) + all_runs + len(config.models) + len(ORDERS))
        for title in _finish(searches, search.found, run_search, workers, say, config.output):
            step(title)
        found = {(one.label, one.log_dir): search.found(one) for one in searches}
        tasks = _runs(config, found)
        for title in _finish(tasks, runs.finished, train, workers, say, config.output):
            step(title)
        comparison = dataclasses.replace(
            _summarised(config, tasks, workers, step),
            searches=[result for result in found.values() if result is not None],
        )
    return write_results(comparison, config.output)


def _require_models(config: ComparisonConfig) -> None:
    for label in config.models:
        try:
            models.require_possible(config.config_of(label, seed=config.seeds[0]).model)
        except ConfigError as error:
            raise ConfigError(f"models.{label}.{error}") from error


def _searches(config: ComparisonConfig) -> list[Search]:
    if config.search is None:
        return []
    return [
        Search(
            label=label,
            log_dir=log_dir,
            log_digest=digest,
            comparison=config,
            file=config.output / "search" / slug_of(label) / f"{number}.json",
        )
        for number, log_dir, digest in _digests(config.logs, _SEARCHED)
        for label in config.models
        if label not in config.ablations
    ]


def _runs(
    config: ComparisonConfig, found: dict[tuple[str, Path], SearchResult | None]
) -> list[Run]:
    """Log after log, for a worker keeps the last one encoded."""
    tasks = []
    for number, log_dir, digest in _digests(config.logs, SPLITS):
        for label in config.models:
            result = found.get((config.searched(label), log_dir))
            values = result.values if result is not None else {}
            tasks += [
                Run(
                    label=label,
                    log_dir=log_dir,
                    log_digest=digest,
                    config=config.config_of(label, seed=seed, found=values),
                    folder=config.output / "runs" / slug_of(label) / str(seed) / str(number),
                )
                for seed in config.seeds
            ]
    return tasks


def _digests(logs: Sequence[Path], splits: Sequence[str]) -> Iterator[tuple[int, Path, str]]:
    for number, log_dir in enumerate(logs):
        read_spec(log_dir)
        yield number, log_dir, log_digest(log_dir, splits)


def _finish(
    tasks: Iterable[_Task],
    kept: Callable[[_Task], object | None],
    do: Callable[[_Task], None],
    workers: Executor,
    say: Say,
    output: Path,
) -> Iterator[str]:
    """Does what is not kept yet; yields the title of every task once it is finished.

    Before the first is done, tables and report in `output` go: they are of other settings.
    """
    waiting: dict[Future[None], str] = {}
    for task in tasks:
        if kept(task) is not None:
            yield task.title
            continue
        if (task.folder if isinstance(task, Run) else task.file).exists():
            say(f"{task.title}: settings or log are not those of before, and it is done again")
        if not waiting:
            remove_results(output)
        waiting[workers.submit(do, task)] = task.title
    for future in as_completed(waiting):
        try:
            future.result()
        except BrokenExecutor as error:
            raise PianoError(
                "a process was killed, perhaps for want of memory; what was finished is kept, and "
                "fewer `workers` need less"
            ) from error
        except PianoError as error:
            raise PianoError(f"{waiting[future]}: {error}") from error
        yield waiting[future]


@dataclasses.dataclass(frozen=True)
class _Rows:
    """What a process needs to make the row of a label or of an order.

    Attributes:
      config: Seeds, reference and resampling.
      runs: Label -> its runs, log after log.
      lists: Split -> what happened, log after log.
      examination: As in `Truth`, of test.
    """

    config: ComparisonConfig
    runs: Mapping[str, Sequence[Run]]
    lists: Mapping[str, Lists]
    examination: Sequence[tuple[int, ExaminationModel]]

    def entry(self, name: str, split: str) -> Entry:
        if name in ORDERS:
            known = orders(self.lists[split], self.config.seeds)
            return next(one for one in known if one.name == name)
        by_seed = [
            [run for run in self.runs[name] if run.config.training.seed == seed]
            for seed in self.config.seeds
        ]
        return Entry.of_model(
            name,
            [
                Predictions.concatenate([runs.load_predictions(run, split) for run in of_seed])
                for of_seed in by_seed
            ],
        )

    def row(self, name: str) -> tuple[Row, Mapping[str, np.ndarray]]:
        """The row on test, and its means on validation."""
        reference = self.entry(self.config.reference, "test")
        truth = Truth(self.lists["test"], self.examination)
        row = summarise(self.entry(name, "test"), reference, truth, _resampling(self.config))
        return row, means_of(self.entry(name, "validation"), self.lists["validation"])


def _summarised(
    config: ComparisonConfig, tasks: Sequence[Run], workers: Executor, step: Callable[[str], None]
) -> Comparison:
    by_log = {
        split: [read_lists(log_dir, split) for log_dir in config.logs] for split in runs.PREDICTED
    }
    lists = {split: concatenate(parts) for split, parts in by_log.items()}
    examination, why_not = _examination(config, [len(part) for part in by_log["test"]])
    by_label = {label: [run for run in tasks if run.label == label] for label in config.models}
    rows = _Rows(config, by_label, lists, examination)
    futures = {name: workers.submit(rows.row, name) for name in (*config.models, *ORDERS)}
    found = {}
    for name, future in futures.items():
        found[name] = future.result()
        step(f"intervals and tests, {name}")
    return Comparison(
        dataset=read_spec(config.logs[0]).dataset,
        split="test",
        lists=lists["test"],
        rows=[row for row, _ in found.values()],
        reference=config.reference,
        ablations=config.ablations,
        seeds=config.seeds,
        resampling=_resampling(config),
        folds=len(config.logs),
        validation={name: means for name, (_, means) in found.items()},
        records=[record for run in tasks if (record := runs.finished(run)) is not None],
        off_policy=why_not,
    )


def _resampling(config: ComparisonConfig) -> Resampling:
    return Resampling(resamples=config.resamples, unit=config.unit)


def _examination(
    config: ComparisonConfig, counts: Sequence[int]
) -> tuple[Sequence[tuple[int, ExaminationModel]], str]:
    """How the test lists of each log, so many, were examined; or why that is not known."""
    if not config.off_policy:
        return (), "the configuration asks for none."
    try:
        known = [read_examination(log_dir) for log_dir in config.logs]
    except PianoError as error:
        return (), f"{error}."
    return list(zip(counts, known, strict=True)), ""


class _Steps:
    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0
        progress(0, total, "")

    def __call__(self, what: str) -> None:
        self._done += 1
        self._progress(self._done, self._total, what)
