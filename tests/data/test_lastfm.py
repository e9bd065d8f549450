"""The constructed lists against lists made by hand, a slow reference and the published files."""

from __future__ import annotations

import datetime
import functools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from piano_tf.data import lastfm
from piano_tf.errors import LogError

PUBLISHED = Path(__file__).parents[2].parent / "shared" / "data" / "lastfm"

# (user, artist, tag, day, month, year), as in the published file.
Assignment = tuple[int, int, int, int, int, int]
TEXTS = {1: "tropicália", 2: "rock", 3: "fußball"}


def write(folder: Path, assignments: Sequence[Assignment]) -> Path:
    tags = [("tagID", "tagValue"), *((str(id), text) for id, text in TEXTS.items())]
    header = ("userID", "artistID", "tagID", "day", "month", "year")
    folder.mkdir(exist_ok=True)
    for name, rows in (("tags.dat", tags), ("user_taggedartists.dat", [header, *assignments])):
        lines = ["\t".join(map(str, row)) for row in rows]
        (folder / name).write_bytes(("\n".join(lines) + "\n").encode("latin-1"))
    return folder


def lists(folder: Path) -> list[dict[str, Any]]:
    source = lastfm.read(folder)
    batches = list(source.batches)
    assert all(batch.schema == source.spec.arrow_schema for batch in batches)
    return [row for batch in batches for row in batch.to_pylist()]


def seconds(year: int, month: int, day: int = 1) -> int:
    return int(datetime.datetime(year, month, day, tzinfo=datetime.timezone.utc).timestamp())


def test_lists_made_by_hand(tmp_path: Path) -> None:
    january = [(1, artist, 1, 1, 1, 2010) for artist in (10, 11, 12, 13, 14, 15, 17)]
    january += [(2, 11, 1, 1, 1, 2010), (2, 12, 1, 1, 1, 2010), (2, 15, 2, 3, 1, 2010)]
    february = [
        (2, 10, 1, 1, 2, 2010),
        (2, 13, 2, 9, 2, 2010),
    ]  # No list for `rock`: one candidate.
    february += [
        (3, 14, 1, 1, 2, 2010),
        (1, 16, 1, 1, 2, 2010),
    ]  # User 1 gave it to every candidate.
    misdated = [(3, 10, 1, 1, 5, 1979)]
    got = lists(write(tmp_path, february + misdated + january))

    # Artists 11 and 12 have the tag twice; of the others 15 has one more assignment, under `rock`.
    common = {"query": "tropicália", "timestamp": seconds(2010, 2)}
    assert got == [
        common
        | {
            "list_id": "2-1-2010-02",
            "user_id": "2",
            "item_id": ["15", "10", "13", "14", "17"],
            "initial_score": [1, 1, 1, 1, 1],
            "item_popularity": [2, 1, 1, 1, 1],
            "item_taggers": [2, 1, 1, 1, 1],
            "item_tag": ["tropicália"] * 5,
            "history_query": ["rock", "tropicália", "tropicália"],
            "history_item_id": ["15", "11", "12"],
            "history_action": ["conversion"] * 3,
            "history_age": [31 - 2, 31, 31],
            "history_item_tag": ["tropicália"] * 3,
            "click": [0, 1, 1, 0, 0],
            "conversion": [0, 1, 0, 0, 0],
        },
        common
        | {
            "list_id": "3-1-2010-02",
            "user_id": "3",
            "item_id": ["11", "12", "15", "10", "13", "14", "17"],
            "initial_score": [2, 2, 1, 1, 1, 1, 1],
            "item_popularity": [2, 2, 2, 1, 1, 1, 1],
            "item_taggers": [2, 2, 2, 1, 1, 1, 1],
            "item_tag": ["tropicália"] * 7,
            "history_query": [],
            "history_item_id": [],
            "history_action": [],
            "history_age": [],
            "history_item_tag": [],
            "click": [0, 0, 0, 0, 0, 1, 0],
            "conversion": [0, 0, 0, 0, 0, 1, 0],
        },
    ]


def test_the_next_artists_take_the_places_of_those_already_given(tmp_path: Path) -> None:
    artists = range(1, 26)
    earlier = [(1, artist, 1, 1, 1, 2010) for artist in artists]
    earlier += [(2, artist, 1, 1, 1, 2010) for artist in (1, 2, 3)]
    folder = write(tmp_path, [*earlier, (2, 25, 1, 1, 2, 2010)])
    (row,) = lists(folder)
    assert row["item_id"] == [str(artist) for artist in range(4, 4 + 20)]


def test_history_keeps_the_newest(tmp_path: Path) -> None:
    january = [(1, artist, 1, 1 + artist % 31, 1, 2010) for artist in range(100, 160)]
    (row,) = lists(
        write(
            tmp_path,
            [*january, (1, 7, 3, 1, 2, 2010), (1, 8, 3, 1, 3, 2010)]
            + [(2, artist, 3, 1, 1, 2010) for artist in range(5)],
        )
    )[1:]
    newest = sorted(january, key=lambda row: (-row[3], row[1]))[:49]
    assert row["history_item_id"] == ["7", *(str(artist) for _, artist, *_ in newest)]
    assert row["history_age"] == [28, *(28 + 31 - (day - 1) for _, _, _, day, *_ in newest)]


def reference(assignments: Sequence[Assignment]) -> list[dict[str, Any]]:
    """The module's docstring once more, list by list."""
    dated: dict[tuple[int, int, int], datetime.date] = {}
    for user, artist, tag, day, month, year in assignments:
        date = datetime.date(year, month, day)
        if year >= 2005:
            dated[user, artist, tag] = min(date, dated.get((user, artist, tag), date))
    found = []
    for first in sorted({date.replace(day=1) for date in dated.values()}):
        earlier = [key for key, date in dated.items() if date < first]
        now = {key for key, date in dated.items() if date.replace(day=1) == first}
        given = Counter((tag, artist) for _, artist, tag in earlier)
        uses = Counter(tag for _, _, tag in earlier)
        popularity = Counter(artist for _, artist, _ in earlier)
        taggers = Counter(artist for _, artist in {(user, artist) for user, artist, _ in earlier})

        def main_tag(artist: int, given: Any = given, uses: Any = uses) -> str:
            tags = [tag for tag in TEXTS if given[tag, artist]]
            return TEXTS[min(tags, key=lambda tag: (-given[tag, artist], -uses[tag], tag))]

        for user, tag in sorted({(user, tag) for user, _, tag in now}):
            ranked = sorted(
                (artist for other, artist in given if other == tag),
                key=lambda artist: (-given[tag, artist], -popularity[artist], artist),
            )
            new = [artist for artist in ranked if (user, artist, tag) not in earlier][:20]
            if len(new) < 5:
                continue
            history = sorted(
                (key for key in earlier if key[0] == user),
                key=lambda key: (-dated[key].toordinal(), key[1], key[2]),
            )[:50]
            found.append(
                {
                    "list_id": f"{user}-{tag}-{first:%Y-%m}",
                    "user_id": str(user),
                    "query": TEXTS[tag],
                    "timestamp": seconds(first.year, first.month),
                    "item_id": [str(artist) for artist in new],
                    "initial_score": [given[tag, artist] for artist in new],
                    "item_popularity": [popularity[artist] for artist in new],
                    "item_taggers": [taggers[artist] for artist in new],
                    "item_tag": [main_tag(artist) for artist in new],
                    "history_query": [TEXTS[tag] for _, _, tag in history],
                    "history_item_id": [str(artist) for _, artist, _ in history],
                    "history_action": ["conversion"] * len(history),
                    "history_age": [(first - dated[key]).days for key in history],
                    "history_item_tag": [main_tag(artist) for _, artist, _ in history],
                    "click": [int(any((user, a, t) in now for t in TEXTS)) for a in new],
                    "conversion": [int((user, artist, tag) in now) for artist in new],
                }
            )
    return found


def world(rng: np.random.Generator, size: int) -> list[Assignment]:
    """Random assignments of November 2009 to March 2010, some repeated, and a few misdated."""
    months = [(11, 2009), (12, 2009), (1, 2010), (2, 2010), (3, 2010), (6, 1956)]
    when = rng.choice(6, size, p=[0.3, 0.2, 0.2, 0.14, 0.14, 0.02])
    artists = rng.choice(40, size, p=np.arange(1, 41) / np.arange(1, 41).sum())
    users, tags, days = (
        rng.integers(1, 7, size),
        rng.integers(1, 4, size),
        rng.integers(1, 29, size),
    )
    return [
        (int(user), int(artist), int(tag), int(day), *months[month])
        for user, artist, tag, day, month in zip(users, artists, tags, days, when, strict=True)
    ]


@pytest.mark.parametrize("seed", range(8))
def test_equals_a_slow_reference(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    assignments = world(rng, int(rng.integers(50, 500)))
    expected = reference(assignments)
    assert expected
    assert lists(write(tmp_path, assignments)) == expected


@pytest.mark.parametrize("seed", range(12))
def test_nothing_but_the_labels_knows_the_month_or_later(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    assignments = world(rng, 400)
    year, month = [(2009, 12), (2010, 1), (2010, 2), (2010, 3)][seed % 4]
    now = seconds(year, month)
    earlier = [row for row in assignments if (row[5], row[4]) < (year, month)]
    later = [row for row in assignments if (row[5], row[4]) >= (year, month)]
    added = [row for row in world(rng, 400) if (row[5], row[4]) >= (year, month)]
    kept = [row for row in later if rng.random() < 0.5]
    changed = [(*row[:2], 1 + row[2] % 3, *row[3:]) for row in kept if rng.random() < 0.5]

    before = {row["list_id"]: row for row in lists(write(tmp_path, earlier + later))}
    after = {
        row["list_id"]: row for row in lists(write(tmp_path, earlier + kept + changed + added))
    }
    past = {
        id for id in before.keys() | after.keys() if id in before and before[id]["timestamp"] < now
    }
    assert past == {id for id, row in after.items() if row["timestamp"] < now}
    assert all(before[id] == after[id] for id in past)

    present = [id for id, row in before.items() if row["timestamp"] == now and id in after]
    assert present
    for id in present:
        for label in ("click", "conversion"):
            del before[id][label], after[id][label]
        assert before[id] == after[id]


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        (
            "user_taggedartists.dat",
            "2\t7\t1",
            "2\tseven\t1",
            "column 'artistID', row 1: got 'seven'",
        ),
        (
            "user_taggedartists.dat",
            "2\t7\t1",
            "2\t7\t9",
            "column 'tagID', row 1: got 9, expected an id",
        ),
        ("user_taggedartists.dat", "2\t7\t1", "2\t7", "row 1: got 5 tab-separated fields"),
        ("user_taggedartists.dat", "1\t1\t2010", "31\t2\t2010", "got day 31, month 2, year 2010"),
        ("user_taggedartists.dat", "userID", "user", "got the header 'user\\tartistID"),
        ("tags.dat", "2\trock", "two\trock", "column 'tagID', row 1: got 'two'"),
        ("tags.dat", "2\trock", "1\trock", "column 'tagID', row 1: got 1 once more"),
    ],
)
def test_a_malformed_row_is_named(
    tmp_path: Path, name: str, old: str, new: str, message: str
) -> None:
    path = write(tmp_path, [(1, 7, 1, 1, 1, 2010), (2, 7, 1, 1, 1, 2010)]) / name
    text = path.read_text(encoding="latin-1")
    assert old in text
    path.write_text(text.replace(old, new), encoding="latin-1")
    with pytest.raises(LogError) as error:
        lastfm.read(tmp_path)
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["tags.dat", "user_taggedartists.dat"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, []) / name
    path.unlink()
    with pytest.raises(LogError, match="no such file") as error:
        lastfm.read(tmp_path)
    assert str(path) in str(error.value)


def test_no_assignments_make_no_lists(tmp_path: Path) -> None:
    assert lists(write(tmp_path, [])) == []


def ndcg_at_10(labels: pa.Array) -> np.ndarray:
    """NDCG@10 of the logged order, gain 2^y - 1 and log2 discount, of the lists with a positive."""
    lengths = labels.value_lengths().to_numpy()
    shown = np.arange(lengths.max()) < lengths[:, None]
    gain = np.zeros(shown.shape)
    gain[shown] = 2.0 ** labels.flatten().to_numpy() - 1
    gain = gain[gain.any(axis=1)]
    discount = 1 / np.log2(np.arange(10) + 2)
    ideal = -np.sort(-gain, axis=1)
    return (gain[:, :10] @ discount) / (ideal[:, :10] @ discount)


@functools.cache
def published() -> tuple[pa.Table, np.ndarray]:
    """All lists of the published files; 0, 1, 2 for those of train, validation and test."""
    if not PUBLISHED.is_dir():
        pytest.skip(f"needs the HetRec 2011 Last.fm files in {PUBLISHED}")
    table = pa.Table.from_batches(lastfm.read(PUBLISHED).batches)
    limits = [seconds(2010, 7), seconds(2010, 10)]
    return table, np.searchsorted(limits, table["timestamp"].to_numpy(), side="right")


def test_published_files_give_the_known_number_of_lists() -> None:
    table, split = published()
    assert np.bincount(split).tolist() == [41_539, 5_191, 4_912]
    assert len(set(table["list_id"].to_pylist())) == table.num_rows


# Measured by an independent construction of the same lists.
@pytest.mark.parametrize(("label", "expected"), [("click", 0.427), ("conversion", 0.431)])
def test_published_files_give_the_known_quality_of_the_order(label: str, expected: float) -> None:
    table, split = published()
    test = table.filter(pa.array(split == 2))
    quality = ndcg_at_10(test[label].combine_chunks()).mean()
    assert quality == pytest.approx(expected, abs=0.001)
