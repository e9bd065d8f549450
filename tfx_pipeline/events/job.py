"""The Beam job from files of events to a log of lists."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from piano_tf.data.logs import require_replaceable
from piano_tf.data.splits import SplitRule, require_all
from piano_tf.errors import LogError, PianoError
from piano_tf.features import SPEC_FILE, SPLITS
from piano_tf.files import require_room, whole_folder
from tfx_pipeline.events import reading, stages, tallies
from tfx_pipeline.events.config import EventsConfig
from tfx_pipeline.events.days import cut
from tfx_pipeline.events.formats import PLAIN_TEXT, Unreadable
from tfx_pipeline.events.privacy import Guard
from tfx_pipeline.events.reconciliation import RECONCILIATION_FILE, Tally, reconciliation
from tfx_pipeline.events.report import write_report
from tfx_pipeline.events.stages import File, Job, Portion
from tfx_pipeline.events.tables import KINDS, SEARCH, columns_of

Progress = Callable[[str, int, int], None]

_DEFAULTS = ("--direct_running_mode=in_memory", "--direct_num_workers=1")
_SCRATCH = "scratch"
_BYTES_AT_ONCE = 1 << 25  # of text, that a task reads or a shard has
_PACKED = 4  # how much smaller Parquet and compressed text are than plain text, about
_FEWEST_SHARDS, _MOST_SHARDS = 4, 1024
_POLL_S = 0.5


def run(
    input_dir: Path,
    config: EventsConfig,
    output: Path,
    rule: SplitRule,
    *,
    beam_args: Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Builds a log from files of events; on any fault nothing is left at `output`.

    Args:
      input_dir: Folder of the tables that `config` names.
      config: The mapping file.
      output: Folder to make.
      rule: Where to cut; shares are cut at midnight.
      beam_args: Options of the Beam runner.
      overwrite: Whether an existing log at `output` may be replaced.
      progress: Called with a stage, how many of its parts are done and how many there are.

    Returns:
      What `reconciliation.json` says.

    Raises:
      ConfigError: The salt or the list of users to forget cannot be read.
      PianoError: A file cannot be used, `output` exists, or a split would be empty.
    """
    input_dir, output = Path(input_dir), Path(output)
    require_replaceable(output, overwrite=overwrite)
    require_room(output)
    guard = Guard.of(config.privacy, input_dir)
    files = find_files(input_dir, config)
    _check(files, config)
    with whole_folder(output, replace=overwrite) as partial:
        scratch = partial.absolute() / _SCRATCH
        scratch.mkdir()
        job = Job(config, guard, scratch, partial.absolute(), config.shards or _shards(files))
        portions = portions_of(files)
        with _watched(job, len(portions), progress):
            tally = _run(portions, job, beam_args)
        said = _finish(tally, job, rule)
        shutil.rmtree(scratch)
    return said


def find_files(input_dir: Path, config: EventsConfig) -> list[File]:
    """The files of all tables, in the order of their names.

    Raises:
      LogError: A table that is not null has none, or one that nothing reads.
    """
    if not input_dir.is_dir():
        raise LogError("no such folder; expected the event tables in it", source=str(input_dir))
    found = []
    for kind in KINDS:
        table = getattr(config, kind)
        if table is None:
            continue
        paths = sorted(
            path
            for path in input_dir.glob(table.files)
            if path.is_file() and not path.name.startswith((".", "_"))
        )
        if not paths:
            without = "" if kind == SEARCH else f', or "{kind}": null in the mapping'
            raise LogError(
                f"{kind}: expected files {table.files!r}{without}", source=str(input_dir)
            )
        found += [(path, kind) for path in paths]
    return [
        File(path.absolute(), path.relative_to(input_dir).as_posix(), kind) for path, kind in found
    ]


def _check(files: Sequence[File], config: EventsConfig) -> None:
    """Whether files can be what the mapping says, before anything is written."""
    for file in files:
        try:
            reading.check(file.path, file.kind, config)
        except Unreadable as error:
            if config.unreadable_files == "refuse":
                raise stages.damaged(file.path, error) from error


def portions_of(files: Sequence[File]) -> list[Portion]:
    """Files of a table that one task can read, for a task may be worth more than a small file.

    Args:
      files: Those of each table together.
    """
    found: list[list[File]] = []
    room = 0
    for file in files:
        size = _size(file)
        if not found or found[-1][0].kind != file.kind or size > room:
            found.append([])
            room = _BYTES_AT_ONCE
        found[-1].append(file)
        room -= size
    return [Portion(number, some[0].kind, tuple(some)) for number, some in enumerate(found)]


def _shards(files: Sequence[File]) -> int:
    size = sum(_size(file) for file in files)
    return min(max(size // _BYTES_AT_ONCE, _FEWEST_SHARDS), _MOST_SHARDS)


def _size(file: File) -> int:
    """Bytes of a file as plain text, about."""
    return file.path.stat().st_size * (1 if file.path.suffix in PLAIN_TEXT else _PACKED)


def _run(portions: Sequence[Portion], job: Job, beam_args: Sequence[str]) -> Tally:
    """Runs the stages on Beam; returns what all of them counted."""
    with _quiet():
        from tfx_pipeline.events import graph  # Beam takes seconds to load

        try:
            return graph.run(portions, job, [*_DEFAULTS, *beam_args])
        except Exception as error:
            # Runners pass on no more than the text of a worker's error.
            if fault := stages.fault(job):
                raise PianoError(fault) from error
            raise


def _finish(tally: Tally, job: Job, rule: SplitRule) -> dict[str, Any]:
    """Cuts the days into splits, and says what became of all events."""
    _require_columns(tally, job.config)
    lists = tally.of(tallies.SETTLED)
    said = reconciliation(tally, job.config, len(job.guard.forgotten))
    if not lists:
        raise PianoError(_no_lists(said))
    counts = dict.fromkeys(SPLITS, 0)
    for split in SPLITS:
        (job.output / split).mkdir()
    for day, split in cut(lists, rule).items():
        name = stages.day_file(day)
        (job.output / stages.DAYS / name).rename(job.output / split / name)
        counts[split] += lists[day]
    require_all(counts)
    (job.output / stages.DAYS).rmdir()
    (job.output / SPEC_FILE).write_text(job.config.spec.model_dump_json(indent=2) + "\n")
    said = {"lists": {**counts, "held back": sum(tally.of(tallies.HELD_BACK).values())}, **said}
    text = json.dumps(said, indent=2, ensure_ascii=False) + "\n"
    (job.output / RECONCILIATION_FILE).write_text(text, encoding="utf-8")
    write_report(said, tally, job.config, job.output)
    return said


def _require_columns(tally: Tally, config: EventsConfig) -> None:
    """Whether each column of the mapping is in some row; JSON lines have no header to look at."""
    for kind in KINDS:
        there = tally.of(tallies.columns_of(kind))
        for name, column in columns_of(kind, config).items() if there else ():
            if column not in there:
                raise LogError(
                    f"{kind}: no row has it; expected by the mapping as {name!r}", column=column
                )


def _no_lists(said: dict[str, Any]) -> str:
    searches = said["events"].get(SEARCH, {"read": 0, "used": 0, "dead letters": {}})
    reasons = ", ".join(f"{reason} {count}" for reason, count in searches["dead letters"].items())
    return (
        f"no list is settled by {said['until']}, the end of observation: of {searches['read']} "
        f"searches {searches['used']} make lists that are held back, as their windows are not over "
        f"by then, and {sum(searches['dead letters'].values())} are dead letters"
        f"{f' ({reasons})' if reasons else ''}; bring a longer log, or mend the mapping"
    )


@contextlib.contextmanager
def _watched(job: Job, portions: int, progress: Progress | None) -> Iterator[None]:
    """Tells `progress` what tasks have left in the scratch folder, whoever runs them."""
    if progress is None:
        yield
        return
    todo = (("read", portions), ("requests", job.shards), ("users", job.shards))
    done = threading.Event()

    def look() -> None:
        while not done.wait(_POLL_S):
            for stage, total in todo:
                count = sum(1 for _ in (job.scratch / stage).glob("*/dead.arrow"))
                if count < total:
                    progress(stage, count, total)
                    break
            else:
                days = sum(1 for _ in (job.output / stages.DAYS).glob("*.parquet"))
                progress(stages.DAYS, days, days)  # how many there are is known at the end

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Beam's warnings are nobody's news; what fails is raised."""
    logger = logging.getLogger("apache_beam")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
