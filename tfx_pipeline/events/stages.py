"""The stages of the job, each a function from a few words to a few words.

What they say to each other is small; rows go through files in the scratch folder, which all workers
must see. Each stage may be run again: it writes the same file.

1. `read_files`: some files of a table as canonical rows, divided by request id.
2. `resolve_requests`: a shard of request ids; duplicates removed, acts joined, divided by user.
   `catalogue`: the item snapshots.
3. `build_lists`: a shard of users in the order of time; lists divided by day.
4. `write_day`: a day of all shards, with labels, in order, checked.
5. `write_dead_letters`: those of a kind.
"""

from __future__ import annotations

import contextlib
import dataclasses
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from piano_tf.data.validation import checked
from piano_tf.errors import LogError, PianoError
from piano_tf.files import replacing
from tfx_pipeline.events import acts as act_columns
from tfx_pipeline.events import dead_letters, lists, reading, snapshots, tallies
from tfx_pipeline.events.config import DAY, EventsConfig
from tfx_pipeline.events.dead_letters import Reason
from tfx_pipeline.events.formats import Unreadable
from tfx_pipeline.events.merging import merged
from tfx_pipeline.events.ordering import Column, numbers
from tfx_pipeline.events.privacy import REQUESTS, Guard, of_unsound
from tfx_pipeline.events.reconciliation import NO_SNAPSHOT, UNREADABLE_FILES, UNTIL, Tally
from tfx_pipeline.events.requests import resolved
from tfx_pipeline.events.shuffle import Pieces, PieceWriter, gathered, parts, read, writing
from tfx_pipeline.events.snapshots import Snapshots
from tfx_pipeline.events.tables import EVENTS, ITEM, SEARCH, USER, schemas
from tfx_pipeline.events.user_shard import Step, UserShard

DAYS = "days"  # folder of the output in which lists are, before they are cut into splits
HELD_BACK = "held_back"
DEAD_LETTERS = "dead_letters"

_ROWS_AT_ONCE = 250_000  # of a shard of users: items, entries, acts; a day is never divided
_LISTS_AT_ONCE = 4_096
_FAULT = "fault.txt"
_ALL = 0  # the one key of what is not divided


@dataclasses.dataclass(frozen=True)
class Job:
    """What every stage knows.

    Attributes:
      config: The mapping file.
      guard: What a row passes before anything is kept of it.
      scratch: Folder that all workers see, for what stages leave for each other.
      output: Folder to fill, that all workers see.
      shards: Into how many parts request ids and users are divided.
    """

    config: EventsConfig
    guard: Guard
    scratch: Path
    output: Path
    shards: int


@contextlib.contextmanager
def reported(job: Job) -> Iterator[None]:
    """Leaves what a person did wrong where `fault` finds it, whatever a runner does to errors."""
    try:
        yield
    except PianoError as error:
        (job.scratch / _FAULT).write_text(str(error), encoding="utf-8")
        raise


def fault(job: Job) -> str | None:
    """What a person did wrong, if that is why a job failed."""
    file = job.scratch / _FAULT
    return file.read_text(encoding="utf-8") if file.exists() else None


class File(NamedTuple):
    """A file to read.

    Attributes:
      path: Where it is.
      name: The same from the input folder.
      kind: Name of its table.
    """

    path: Path
    name: str
    kind: str


class Portion(NamedTuple):
    """Files that are read together.

    Attributes:
      number: Which of all portions.
      kind: Name of their table.
      files: In the order of their names.
    """

    number: int
    kind: str
    files: tuple[File, ...]


@dataclasses.dataclass(frozen=True)
class Done:
    """What a task leaves.

    Attributes:
      rows: What they are -> where they are.
      tally: What was counted.
      newest: The newest event's time, of files that were read and of users who are not forgotten.
    """

    rows: dict[str, Pieces]
    tally: Tally
    newest: int = 0


def read_files(portion: Portion, job: Job) -> Done:
    """Stage 1: files as canonical rows, divided by request id, or by user where there is none.

    Raises:
      LogError: A column is missing or cannot be what it should, or a file is damaged.
    """
    try:
        return _read_files(portion, (), job)
    except _Damaged as fault:
        if job.config.unreadable_files == "refuse":
            raise damaged(fault.file.path, fault.error) from fault
        # Rows of its beginning are written already: once more, without it and its like.
        later = portion.files[portion.files.index(fault.file) :]
        return _read_files(portion, [file for file in later if _is_damaged(file, job)], job)


class _Damaged(Exception):
    """A file that turned out to be damaged while it was read."""

    def __init__(self, file: File, error: Unreadable) -> None:
        super().__init__(file.name)
        self.file = file
        self.error = error


def damaged(path: Path, error: Unreadable) -> LogError:
    """What to say of a damaged file that may not be set aside."""
    return LogError(
        f'cannot be read ({error}); "unreadable_files": "set_aside" goes on without it',
        source=str(path),
    )


def _read_files(portion: Portion, unreadable: Sequence[File], job: Job) -> Done:
    """Reads files, but those that are known to be damaged."""
    kind, tally, newest = portion.kind, Tally(), 0
    written = {
        kind: schemas(job.config)[kind],
        "dead": dead_letters.SCHEMA,
        "forgotten": REQUESTS,
    }
    with _task(job, "read", portion.number, written) as out:
        for file in portion.files:
            if file in unreadable:
                detail = [dead_letters.as_json({"file": file.name})]
                letter = dead_letters.without_payload(kind, Reason.UNREADABLE_FILE, 1, detail)
                _bury([letter], out["dead"], tally)
                tally.add(UNREADABLE_FILES, [file.name], [1])
                continue
            for batch in _batches(file, job):
                tally.read(kind, batch.rows)
                tally.add(tallies.columns_of(kind), batch.columns, [1] * len(batch.columns))
                tallies.count_met(batch.met, tally)
                table, forgotten, requests = job.guard.passed(kind, batch.table)
                if kind in EVENTS:
                    newest = max(newest, pc.max(table["time"]).as_py() or 0)
                    tallies.count_days(table, tally)
                _bury([*batch.dead_letters, *forgotten], out["dead"], tally)
                out[kind].collect(_home(kind, table, job.shards), table)
                requests = pa.concat_tables([of_unsound(batch.forgotten), requests])
                home = shard_of(requests["request_id"], job.shards)
                out["forgotten"].collect(home, requests)
        return Done(_pieces(out), tally, newest)


def _batches(file: File, job: Job) -> Iterator[reading.Batch]:
    try:
        yield from reading.read(file.path, file.kind, job.config, job.guard.forgotten)
    except Unreadable as error:
        raise _Damaged(file, error) from error


def _is_damaged(file: File, job: Job) -> bool:
    try:
        for _ in _batches(file, job):
            pass
    except _Damaged:
        return True
    return False


def _home(kind: str, table: pa.Table, shards: int) -> np.ndarray:
    """To which shard each row of a table goes first."""
    if kind == ITEM:
        return np.full(table.num_rows, _ALL)
    if kind == USER:
        return shard_of(table["user_id"], shards)
    return shard_of(pc.coalesce(table["request_id"], table["user_id"]), shards)


def shard_of(ids: Column, shards: int) -> np.ndarray:
    """A shard for each id [n], the same wherever it comes from.

    >>> shard_of(pa.array(["ada", "bob", "ada"]), 16).tolist()
    [8, 0, 8]
    """
    encoded = pc.dictionary_encode(ids)
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    found = [zlib.crc32(one.encode()) % shards for one in encoded.dictionary.to_pylist()]
    return np.array(found, np.int64)[numbers(encoded.indices)]


def resolve_requests(shard: int, job: Job, reads: Sequence[Done], until: int) -> Done:
    """Stage 2: duplicates are removed and acts joined to the requests that they name."""
    known = schemas(job.config)
    tables = {
        kind: gathered(_of(reads, kind), shard, known[kind]) for kind in EVENTS if kind in known
    }
    forgotten = gathered(_of(reads, "forgotten"), shard, REQUESTS)
    found = resolved(tables, forgotten, job.config, until)
    tally = Tally()
    tally.add(UNTIL, [until], [1])
    written = {
        "searches": known[SEARCH],
        "acts": act_columns.SCHEMA,
        "dead": dead_letters.SCHEMA,
    }
    with _task(job, "requests", shard, written) as out:
        _bury(found.dead_letters, out["dead"], tally)
        for name, table in (("searches", found.searches), ("acts", found.acts)):
            home = shard_of(table["user_id"], job.shards)
            out[name].divide(home, table, pc.sort_indices(table["time"]).to_numpy())
        return Done(_pieces(out), tally)


def catalogue(number: int, job: Job, reads: Sequence[Done]) -> Done:
    """Stage 2 beside it: one snapshot for each item and time, in their order."""
    if job.config.item is None:
        return Done({}, Tally())
    schema = schemas(job.config)[ITEM]
    tally = Tally()
    with _task(job, "catalogue", number, {ITEM: schema, "dead": dead_letters.SCHEMA}) as out:
        table, dead = snapshots.unique(ITEM, gathered(_of(reads, ITEM), _ALL, schema))
        _bury(dead, out["dead"], tally)
        tally.used(ITEM, table.num_rows)
        out[ITEM].add(_ALL, snapshots.changes(ITEM, table))
        return Done(_pieces(out), tally)


def build_lists(
    shard: int, job: Job, reads: Sequence[Done], resolves: Sequence[Done], items: Done, until: int
) -> Done:
    """Stage 3: a shard of users in the order of time."""
    known, tally = schemas(job.config), Tally()
    written = {
        "lists": lists.schema(job.config),
        "marks": lists.MARKS,
        "dead": dead_letters.SCHEMA,
    }
    with _task(job, "users", shard, written) as out:
        known_items, users = None, None
        if job.config.item is not None:
            table = pa.concat_tables([known[ITEM].empty_table(), *parts(_of([items], ITEM), _ALL)])
            known_items = Snapshots(ITEM, table)
        if job.config.user is not None:
            table = gathered(_of(reads, USER), shard, known[USER])
            table, dead = snapshots.unique(USER, table)
            tally.used(USER, table.num_rows)
            _bury(dead, out["dead"], tally)
            users = Snapshots(USER, snapshots.changes(USER, table))
        state = UserShard(job.config, until, known[SEARCH], known_items, users)
        searches, acts = (list(read(_of(resolves, name), shard)) for name in ("searches", "acts"))
        for found, its_acts, end in _steps(searches, acts, known[SEARCH], job.config):
            step = state.step(found, its_acts, end)
            _bury(step.dead_letters, out["dead"], tally)
            _count(step, tally)
            out["lists"].divide(numbers(step.lists["timestamp"]) * 1_000_000 // DAY, step.lists)
            marks = step.acts.select(lists.MARKS.names)
            out["marks"].divide(numbers(marks["request_time"]) // DAY, marks)
        return Done(_pieces(out), tally)


def _steps(
    searches: Sequence[pa.Table],
    acts: Sequence[pa.Table],
    schema: pa.Schema,
    config: EventsConfig,
) -> Iterator[tuple[pa.Table, pa.Table, int]]:
    """As many days at once as come to at most `_ROWS_AT_ONCE` rows, or one that has more.

    Every history counts as full, so that steps do not grow while histories do.
    """
    tables = [*searches, *acts]
    times = [numbers(table["time"]) for table in tables]
    rows = [
        numbers(pc.list_value_length(table["item_id"])).astype(np.int64) + config.history_length
        for table in searches
    ]
    rows += [np.ones(table.num_rows, np.int64) for table in acts]
    per_day = []
    if tables:
        days, place_of = np.unique(np.concatenate(times) // DAY, return_inverse=True)
        counts = np.bincount(place_of, np.concatenate(rows)).astype(np.int64)
        per_day = [*zip(days.tolist(), counts.tolist(), strict=True)]
    place = [0] * len(tables)
    waiting = 0
    for row, (day, count) in enumerate(per_day):
        waiting += count
        is_last = row + 1 == len(per_day)
        if not is_last and waiting + per_day[row + 1][1] <= _ROWS_AT_ONCE:
            continue
        waiting = 0
        end = (day + 1) * DAY
        slices = []
        for index, (table, time) in enumerate(zip(tables, times, strict=True)):
            until = int(np.searchsorted(time, end))
            slices.append(table.slice(place[index], until - place[index]))
            place[index] = until
        yield (
            pa.concat_tables([schema.empty_table(), *slices[: len(searches)]]).combine_chunks(),
            pa.concat_tables(
                [act_columns.SCHEMA.empty_table(), *slices[len(searches) :]]
            ).combine_chunks(),
            end,
        )


def _count(step: Step, tally: Tally) -> None:
    tally.used(SEARCH, step.lists.num_rows)
    for kind, count in step.acts_used().items():
        tally.used(kind, count)
    for kind, count in step.unknown.items():
        tally.add(NO_SNAPSHOT, [kind], [count])
    tallies.count_acts(step.acts, tally)


def days_of(done: Done) -> list[int]:
    """The days on which a shard of users has lists."""
    return list(done.rows["lists"].batches())


def day_file(day: int) -> str:
    """Name of the file of a day since 1970.

    >>> day_file(19_723)
    '2024-01-01.parquet'
    """
    return f"{np.datetime64(day, 'D')}.parquet"


def write_day(day: int, job: Job, builds: Sequence[Done]) -> Done:
    """Stage 4: the lists of a day in order, with labels.

    Raises:
      LogError: A list breaks the contract, which is a defect of ours.
    """
    spec, tally = job.config.spec, Tally()
    marks = gathered(_of(builds, "marks"), day, lists.MARKS)
    name = day_file(day)
    every = merged(list(parts(_of(builds, "lists"), day)), lists.SORTED_BY, _LISTS_AT_ONCE)
    with contextlib.ExitStack() as files:
        writers: dict[str, pq.ParquetWriter] = {}
        for some in every:
            some = lists.labelled(some, marks)
            for folder, settled in ((DAYS, True), (HELD_BACK, False)):
                what = tallies.SETTLED if settled else tallies.HELD_BACK
                part = some.filter(pc.equal(some[lists.SETTLED], settled))
                if not part.num_rows:
                    continue
                if folder not in writers:
                    (job.output / folder).mkdir(parents=True, exist_ok=True)
                    path = files.enter_context(replacing(job.output / folder / name))
                    writer = pq.ParquetWriter(path, spec.arrow_schema)
                    writers[folder] = files.enter_context(writer)
                part = part.select(spec.arrow_schema.names).combine_chunks()
                for batch in checked(part.to_batches(), spec, source=f"lists of {name}"):
                    writers[folder].write_batch(batch)
                tally.add(what, [day], [part.num_rows])
                if settled:
                    tallies.count_lists(part, tally)
    return Done({}, tally)


def write_dead_letters(kind: str, job: Job, done: Sequence[Done]) -> Done:
    """Stage 5: dead letters of a kind, in an order that no order of files changes."""
    pieces = _of(done, "dead")
    (job.output / DEAD_LETTERS).mkdir(parents=True, exist_ok=True)
    with (
        replacing(job.output / DEAD_LETTERS / f"{kind}.parquet") as path,
        pq.ParquetWriter(path, dead_letters.SCHEMA) as writer,
    ):
        having: dict[tuple, list[Pieces]] = {}
        for one in pieces:
            for key in one.batches():
                if key[0] == kind:
                    having.setdefault(key, []).append(one)
        for key in sorted(having):
            for some in dead_letters.blocks(parts(having[key], key)):
                writer.write_table(some)
    return Done({}, Tally())


@contextlib.contextmanager
def _task(
    job: Job, stage: str, number: int, schemas: Mapping[str, pa.Schema]
) -> Iterator[dict[str, PieceWriter]]:
    """The files that a task leaves, one for each kind of rows."""
    folder = job.scratch / stage / f"{number:06d}"
    with contextlib.ExitStack() as files:
        yield {
            name: files.enter_context(writing(folder / f"{name}.arrow", schema))
            for name, schema in schemas.items()
        }


def _pieces(writers: Mapping[str, PieceWriter]) -> dict[str, Pieces]:
    return {name: writer.pieces for name, writer in writers.items()}


def _of(done: Iterable[Done], name: str) -> list[Pieces]:
    """Where rows are, in an order that does not change when a runner gives them in another."""
    found = [one.rows[name] for one in done if name in one.rows]
    return sorted(found, key=lambda pieces: pieces.path)


def _bury(letters: Iterable[pa.Table], writer: PieceWriter, tally: Tally) -> None:
    letters = list(letters)
    tally.dead(letters)
    for key, rows in dead_letters.divided(letters):
        writer.add(key, rows)
