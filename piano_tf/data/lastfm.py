"""Search lists constructed from the HetRec 2011 Last.fm tag assignments: real users and artists.

Source: I. Cantador, P. Brusilovsky, T. Kuflik, 2nd Workshop on Information Heterogeneity and Fusion
in Recommender Systems (HetRec 2011), https://grouplens.org/datasets/hetrec-2011; its licence allows
non-commercial use. Only `tags.dat` (Latin-1) and `user_taggedartists.dat` are read, as published;
plays carry no date.

Last.fm's own search lists were never published, so these are **constructed** (our own design). One
list for each user, tag and month in which the user gave the tag to any artist:

* query: the tag's text. list_id: `user-tag-year-month`, with the published ids.
* timestamp: the first of the month, 00:00 UTC, so that a split by time never cuts a month.
* candidates: the 20 artists most often given the tag in earlier months, of those that this user had
  not yet given it, best first; of equally frequent ones first that with more earlier assignments
  under any tag, then that of the lower id. A list with fewer than 5 candidates is dropped.
* initial_score: how often the artist was given the tag in earlier months.
* conversion: this user gives the artist this tag in this month; click: any tag in this month. Lists
  without a click stay: they are lists that met nobody's interest.
* history: the user's 50 newest assignments of earlier months, newest first, those of one day by
  artist id and then tag id. Each is a `conversion`, with the tag under which it was made as query.
* item_popularity, item_taggers: the artist's earlier assignments, and the users who made them.
* item_tag: the tag most often given to the artist in earlier months; of equally frequent ones that
  with more earlier uses in all, then that of the lower id. history_item_tag: the same, as known at
  the time of the list.

"Earlier" means in a month before the list's: nothing but the two labels looks at its own month.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from piano_tf.data.source import Source, record_batch
from piano_tf.errors import LogError
from piano_tf.features import CONVERSION, Axis, FeatureSpec

CANDIDATES = 20
FEWEST_CANDIDATES = 5
HISTORY = 50

SPEC = FeatureSpec(
    dataset="lastfm",
    initial_score=True,
    item=(("popularity", "float"), ("taggers", "float"), ("tag", "string")),
    history_item=(("tag", "string"),),
)

_TAGS = "tags.dat"
_TAGS_HEADER = ("tagID", "tagValue")
_ASSIGNMENTS = "user_taggedartists.dat"
_ASSIGNMENTS_HEADER = ("userID", "artistID", "tagID", "day", "month", "year")
_FIRST_YEAR = 2005  # The published log starts here, but for five rows dated 1956 to 1979.
_MOST_DIGITS = 9
_LISTS_PER_BATCH = 2000
_ROW = np.dtype([(name, np.int64) for name in ("user", "artist", "tag", "day", "month")])

_Ints = npt.NDArray[np.int64]
_Rows = npt.NDArray[np.void]  # Of dtype _ROW: codes of user, artist, tag; days, months since 1970.


def read(input_dir: Path) -> Source:
    """Reads the published files and constructs the lists, month by month in order of time.

    Args:
      input_dir: Folder that holds `tags.dat` and `user_taggedartists.dat`.

    Returns:
      Lists of schema `SPEC.arrow_schema`, at most 2,000 a batch and each batch of one month; their
      number is not known beforehand. Assignments dated before 2005 are left out, and a repeated one
      counts once, at its earliest date.

    Raises:
      LogError: A file is missing, or a row does not hold what its header names.
    """
    return Source(spec=SPEC, batches=_batches(_read_log(Path(input_dir))))


@dataclasses.dataclass(frozen=True)
class _Log:
    """The assignments in order of time; users, artists, tags are coded 0, 1, ... by rising id."""

    rows: _Rows
    users: _Ints
    artists: _Ints
    tags: _Ints
    tag_texts: pa.StringArray

    def triples(self, user: _Ints, tag: _Ints, artist: _Ints) -> _Ints:
        """One number for each (user, tag, artist), by which sets of them are compared."""
        return (user * len(self.tags) + tag) * len(self.artists) + artist


def _read_log(input_dir: Path) -> _Log:
    text_of = _read_tags(input_dir / _TAGS)
    path = input_dir / _ASSIGNMENTS
    user, artist, tag, day, month, year = _read_numbers(path).T

    known = np.isin(tag, list(text_of))
    if not known.all():
        row = int(np.argmin(known))
        raise LogError(
            f"got {tag[row]}, expected an id of {_TAGS}", column="tagID", row=row, source=str(path)
        )
    first = (12 * (year - 1970) + month - 1).astype("datetime64[M]")
    date = first.astype("datetime64[D]") + (day - 1)
    real = (month >= 1) & (month <= 12) & (day >= 1) & (date.astype("datetime64[M]") == first)
    if not real.all():
        row = int(np.argmin(real))
        raise LogError(
            f"got day {day[row]}, month {month[row]}, year {year[row]}, expected a calendar date",
            row=row,
            source=str(path),
        )

    rows = np.empty(len(user), _ROW)
    users, rows["user"] = np.unique(user, return_inverse=True)
    artists, rows["artist"] = np.unique(artist, return_inverse=True)
    tags, rows["tag"] = np.unique(tag, return_inverse=True)
    rows["day"] = date.astype(np.int64)
    rows["month"] = first.astype(np.int64)
    rows = rows[year >= _FIRST_YEAR]
    rows = rows[np.argsort(rows["day"], kind="stable")]

    texts = pa.array([text_of[id] for id in tags.tolist()], pa.string())
    log = _Log(rows, users, artists, tags, texts)
    triples = log.triples(rows["user"], rows["tag"], rows["artist"])
    _, earliest = np.unique(triples, return_index=True)
    return dataclasses.replace(log, rows=rows[np.sort(earliest)])


class _Past:
    """All that the lists of one month may know, from the assignments of earlier months alone."""

    def __init__(self, log: _Log, earlier: _Rows) -> None:
        artists, tags = len(log.artists), len(log.tags)
        self.given = log.triples(earlier["user"], earlier["tag"], earlier["artist"])
        self.popularity = np.bincount(earlier["artist"], minlength=artists)
        pairs = np.unique(earlier["user"] * artists + earlier["artist"])
        self.taggers = np.bincount(pairs % artists, minlength=artists)

        pairs, count = np.unique(earlier["tag"] * artists + earlier["artist"], return_counts=True)
        tag, artist = np.divmod(pairs, artists)
        uses = np.bincount(earlier["tag"], minlength=tags)
        order = np.lexsort((tag, -uses[tag], -count, artist))
        named, best = np.unique(artist[order], return_index=True)
        self.main_tag = np.full(artists, -1)
        self.main_tag[named] = tag[order][best]

        order = np.lexsort((artist, -self.popularity[artist], -count, tag))
        self.ranked_artist, self.ranked_count = artist[order], count[order]
        size = np.bincount(tag, minlength=tags)
        self.rank_stop = np.cumsum(size)
        self.rank_start = self.rank_stop - size

        order = np.lexsort((earlier["tag"], earlier["artist"], -earlier["day"], earlier["user"]))
        self.newest_first = earlier[order]


def _batches(log: _Log) -> Iterator[pa.RecordBatch]:
    for month in np.unique(log.rows["month"]).tolist():
        start, stop = np.searchsorted(log.rows["month"], [month, month + 1])
        past = _Past(log, log.rows[:start])
        now = log.rows[start:stop]
        lists = np.unique(now["user"] * len(log.tags) + now["tag"])
        for first in range(0, len(lists), _LISTS_PER_BATCH):
            part = lists[first : first + _LISTS_PER_BATCH]
            batch = _batch(log, past, now, month, part)
            if batch.num_rows:
                yield batch


def _batch(log: _Log, past: _Past, now: _Rows, month: int, lists: _Ints) -> pa.RecordBatch:
    """The lists of one month for some users and tags, each coded user * tags + tag."""
    user, tag = np.divmod(lists, len(log.tags))
    place, row = _spans(past.rank_start[tag], past.rank_stop[tag])
    new = ~np.isin(log.triples(user[row], tag[row], past.ranked_artist[place]), past.given)
    place, row = place[new], row[new]
    rank = np.arange(len(row)) - np.searchsorted(row, row)
    long = np.bincount(row, minlength=len(lists)) >= FEWEST_CANDIDATES
    kept = (rank < CANDIDATES) & long[row]
    place, row = place[kept], (np.cumsum(long) - 1)[row[kept]]
    user, tag = user[long], tag[long]
    artist = past.ranked_artist[place]

    by_user = past.newest_first["user"]
    start, stop = np.searchsorted(by_user, user, "left"), np.searchsorted(by_user, user, "right")
    entry, entry_row = _spans(start, np.minimum(stop, start + HISTORY))
    history = past.newest_first[entry]

    year, month_of_year = 1970 + month // 12, month % 12 + 1
    day = int(np.datetime64(month, "M").astype("datetime64[D]").astype(np.int64))
    user_artist = now["user"] * len(log.artists) + now["artist"]
    user_tag_artist = log.triples(now["user"], now["tag"], now["artist"])
    values = {
        "list_id": [
            f"{user}-{tag}-{year}-{month_of_year:02}"
            for user, tag in zip(log.users[user].tolist(), log.tags[tag].tolist(), strict=True)
        ],
        "user_id": log.users[user],
        "query": log.tag_texts.take(pa.array(tag)),
        "timestamp": np.full(len(user), day * 86_400),
        "item_id": log.artists[artist],
        "initial_score": past.ranked_count[place],
        "item_popularity": past.popularity[artist],
        "item_taggers": past.taggers[artist],
        "item_tag": log.tag_texts.take(pa.array(past.main_tag[artist])),
        "history_query": log.tag_texts.take(pa.array(history["tag"])),
        "history_item_id": log.artists[history["artist"]],
        "history_action": [CONVERSION] * len(history),
        "history_age": day - history["day"],
        "history_item_tag": log.tag_texts.take(pa.array(past.main_tag[history["artist"]])),
        "click": np.isin(user[row] * len(log.artists) + artist, user_artist),
        "conversion": np.isin(log.triples(user[row], tag[row], artist), user_tag_artist),
    }
    lengths = {
        Axis.ITEM: np.bincount(row, minlength=len(user)),
        Axis.HISTORY: np.bincount(entry_row, minlength=len(user)),
    }
    return record_batch(SPEC, values, lengths)


def _spans(start: _Ints, stop: _Ints) -> tuple[_Ints, _Ints]:
    """Every position of the ranges [start, stop), range by range, and the number of its range."""
    size = stop - start
    row = np.repeat(np.arange(len(size)), size)
    return np.arange(len(row)) + (stop - np.cumsum(size))[row], row


def _read_tags(path: Path) -> dict[int, str]:
    text_of: dict[int, str] = {}
    for row, (id, text) in enumerate(_read_fields(path, _TAGS_HEADER)):
        if not _is_whole_number(id):
            raise _not_a_whole_number(id, "tagID", row, path)
        if int(id) in text_of:
            raise LogError(
                f"got {id} once more, expected each id once",
                column="tagID",
                row=row,
                source=str(path),
            )
        text_of[int(id)] = text
    return text_of


def _read_numbers(path: Path) -> _Ints:
    fields = _read_fields(path, _ASSIGNMENTS_HEADER)
    for row, values in enumerate(fields):
        if not all(map(_is_whole_number, values)):
            column = [_is_whole_number(value) for value in values].index(False)
            raise _not_a_whole_number(values[column], _ASSIGNMENTS_HEADER[column], row, path)
    return np.array(fields, np.int64).reshape(-1, len(_ASSIGNMENTS_HEADER))


def _is_whole_number(value: str) -> bool:
    return value.isdecimal() and len(value) <= _MOST_DIGITS


def _not_a_whole_number(value: str, column: str, row: int, path: Path) -> LogError:
    return LogError(
        f"got {value!r}, expected a whole number of at most {_MOST_DIGITS} digits",
        column=column,
        row=row,
        source=str(path),
    )


def _read_fields(path: Path, header: tuple[str, ...]) -> list[list[str]]:
    """The tab-separated rows below the header line; Latin-1, of which ASCII is a part."""
    try:
        # Not splitlines(), which would also split at control characters inside a tag.
        lines = path.read_text(encoding="latin-1").split("\n")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise LogError(
            "no such file; expected it as published in HetRec 2011", source=str(path)
        ) from error
    if lines[0].split("\t") != list(header):
        raise LogError(
            f"got the header {lines[0]!r}, expected {' '.join(header)} with tabs between",
            source=str(path),
        )
    if lines[-1] == "":
        lines.pop()
    rows = [line.split("\t") for line in lines[1:]]
    for row, fields in enumerate(rows):
        if len(fields) != len(header):
            raise LogError(
                f"got {len(fields)} tab-separated fields, {fields}, expected {len(header)}",
                row=row,
                source=str(path),
            )
    return rows
