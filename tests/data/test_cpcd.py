"""The conversations' lists against lists made by hand, BM25's formula and the published files."""

from __future__ import annotations

import copy
import functools
import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bm25_reference import bm25

from piano_tf import cli
from piano_tf.data import cpcd
from piano_tf.data.logs import check_log, read_batches, split_files, write_log
from piano_tf.data.validation import checked
from piano_tf.errors import LogError, PianoError
from piano_tf.features import SPLITS

PUBLISHED = Path(__file__).parents[2].parent / "shared" / "data" / "cpcd"
DAY, TURN = 86_400, 3_600

Json = dict[str, Any]


def track(title: str, release: str, *artists: str) -> Json:
    cluster = f"cluster of {title}"
    return {
        "track_titles": title,
        "track_release_titles": release,
        "track_artists": list(artists),
        "track_cluster_ids": cluster,
    }


TRACKS = {
    "t1": track("So What", "Kind of Blue", "Miles Davis", "John Coltrane"),
    "t2": track("Blue in Green", "Kind of Blue", "Miles Davis"),
    "t3": track("Blue Train", "Blue Train", "John Coltrane"),
    "t4": track("Naima", "", "John Coltrane"),
    "t5": track("夜に駆ける", "THE BOOK"),
}
WORDS = {
    "t1": ["so", "what", "kind", "of", "blue", "miles", "davis", "john", "coltrane"],
    "t2": ["blue", "in", "green", "kind", "of", "blue", "miles", "davis"],
    "t3": ["blue", "train", "blue", "train", "john", "coltrane"],
    "t4": ["naima", "john", "coltrane"],
    "t5": ["夜に駆ける", "the", "book"],
}


def turn(
    searches: Iterable[tuple[str, list[str]]] = (),
    liked: Iterable[str] = (),
    disliked: Iterable[str] = (),
) -> Json:
    queries, results = [query for query, _ in searches], [found for _, found in searches]
    return {
        "user_query": "Play me something",
        "system_response": "Here you are",
        "search_queries": queries,
        "search_results": results,
        "liked_results": list(liked),
        "disliked_results": list(disliked),
    }


def conversation(id: str, *turns: Json, tracks: Json = TRACKS) -> Json:
    liked = [id for turn in turns for id in turn["liked_results"]]
    return {"id": id, "turns": list(turns), "tracks": tracks, "goal_playlist": liked}


SMALL = [conversation(f"z{number}", turn([("blue", ["t2", "t3"])])) for number in range(2)]


def write(folder: Path, conversations: Iterable[Json], name: str = "dialogs.jsonl") -> Path:
    folder.mkdir(exist_ok=True)
    lines = [json.dumps(found, ensure_ascii=False) + "\n" for found in conversations]
    (folder / name).write_text("".join(lines), encoding="utf-8")
    return folder


def lists(folder: Path, **asked: int) -> list[Json]:
    source = cpcd.read(folder, **asked)
    rows = [row for batch in checked(source.batches, source.spec) for row in batch.to_pylist()]
    assert len(rows) == source.total
    return rows


def by_id(rows: Iterable[Json], *without: str) -> dict[str, Json]:
    return {row["list_id"]: {k: v for k, v in row.items() if k not in without} for row in rows}


def approx(values: Iterable[float]) -> Any:
    return pytest.approx(list(values), rel=1e-5)


def test_lists_made_by_hand(tmp_path: Path) -> None:
    talk = conversation(
        "a0",
        turn(),
        turn(
            [("Blue, blue train!", ["t1", "t3", "t3", "t2"]), ("nothing", []), ("naima", ["t4"])],
            liked=["t5", "t3"],  # t5 was found by no search.
            disliked=["t4"],
        ),
        turn([("coltrane", ["t4", "t1"]), ("john coltrane", ["t1", "t5"])], liked=["t1"]),
        turn(liked=["t2"]),
        turn([("夜に駆ける", ["t4", "t5"])]),
    )
    got = lists(write(tmp_path, [talk, *SMALL]), folds=3, fold=1)
    assert [row["list_id"] for row in got[:4]] == ["a0-1-0", "a0-1-2", "a0-2-0", "a0-2-1"]

    def score(query: str, *ids: str) -> Any:
        scores = dict(zip(WORDS, bm25(list(WORDS.values()), query.split()), strict=True))
        return approx(scores[id] for id in ids)

    no_past = {
        "history_query": [],
        "history_item_id": [],
        "history_action": [],
        "history_age": [],
        "history_item_artist": [],
        "history_item_release": [],
        "history_item_cluster": [],
    }
    first_past = {
        "history_query": ["Blue, blue train!", "naima", ""],
        "history_item_id": ["t3", "t4", "t5"],
        "history_action": ["conversion", "click", "conversion"],
        "history_age": approx([1 / 24] * 3),
        "history_item_artist": ["John Coltrane", "John Coltrane", ""],
        "history_item_release": ["Blue Train", "", "THE BOOK"],
        "history_item_cluster": [f"cluster of {t}" for t in ("Blue Train", "Naima", "夜に駆ける")],
    }
    assert got[:4] == [
        {
            "list_id": "a0-1-0",
            "user_id": "a0",
            "query": "Blue, blue train!",
            "timestamp": TURN,
            "item_id": ["t3", "t2", "t1"],
            "initial_score": score("blue blue train", "t3", "t2", "t1"),
            "item_artist": ["John Coltrane", "Miles Davis", "Miles Davis"],
            "item_release": ["Blue Train", "Kind of Blue", "Kind of Blue"],
            "item_cluster": [f"cluster of {t}" for t in ("Blue Train", "Blue in Green", "So What")],
            **no_past,
            "click": [1, 0, 0],
            "conversion": [1, 0, 0],
        },
        {
            "list_id": "a0-1-2",
            "user_id": "a0",
            "query": "naima",
            "timestamp": TURN,
            "item_id": ["t4"],
            "initial_score": score("naima", "t4"),
            "item_artist": ["John Coltrane"],
            "item_release": [""],
            "item_cluster": ["cluster of Naima"],
            **no_past,
            "click": [1],
            "conversion": [0],
        },
        {
            "list_id": "a0-2-0",
            "user_id": "a0",
            "query": "coltrane",
            "timestamp": 2 * TURN,
            "item_id": ["t4", "t1"],
            "initial_score": score("coltrane", "t4", "t1"),
            "item_artist": ["John Coltrane", "Miles Davis"],
            "item_release": ["", "Kind of Blue"],
            "item_cluster": ["cluster of Naima", "cluster of So What"],
            **first_past,
            "click": [0, 1],
            "conversion": [0, 1],
        },
        {
            "list_id": "a0-2-1",
            "user_id": "a0",
            "query": "john coltrane",
            "timestamp": 2 * TURN,
            "item_id": ["t1", "t5"],
            "initial_score": score("john coltrane", "t1", "t5"),
            "item_artist": ["Miles Davis", ""],
            "item_release": ["Kind of Blue", "THE BOOK"],
            "item_cluster": ["cluster of So What", "cluster of 夜に駆ける"],
            **first_past,
            "click": [1, 0],
            "conversion": [1, 0],
        },
    ]
    last = got[4]
    assert last["list_id"] == "a0-4-0"
    assert last["timestamp"] == 4 * TURN
    assert last["item_id"] == ["t5", "t4"]
    assert last["history_item_id"] == ["t2", "t1", "t3", "t4", "t5"]
    assert last["history_query"] == ["", "coltrane", "Blue, blue train!", "naima", ""]
    assert last["history_age"] == approx([1 / 24, 2 / 24, 3 / 24, 3 / 24, 3 / 24])
    # Validation and test each begin at the next midnight.
    assert [(row["list_id"], row["timestamp"]) for row in got[5:]] == [
        ("z1-0-0", DAY),
        ("z0-0-0", 2 * DAY),
    ]


def test_equal_scores_stand_by_track_id(tmp_path: Path) -> None:
    same = {id: track("Blue", "Blue", "Joni Mitchell") for id in ("c", "a", "_", "B")}
    talk = conversation("a0", turn([("blue", ["c", "a", "_", "B"])], ["c"]), tracks=same)
    row = lists(write(tmp_path, [talk, *SMALL]), folds=3)[-1]
    assert row["item_id"] == ["B", "_", "a", "c"]
    assert len(set(row["initial_score"])) == 1
    assert row["click"] == [0, 0, 0, 1]


def world(rng: np.random.Generator, conversations: int = 7) -> list[Json]:
    """Random conversations over the same tracks, each with a search in its first turn."""

    def some(most: int) -> list[str]:
        return rng.choice(list(TRACKS), rng.integers(0, most + 1), replace=False).tolist()

    def random_turn(first: bool) -> Json:
        searches = [
            (" ".join(rng.choice(["blue", "train", "coltrane", "naima"], 2)), some(5))
            for _ in range(rng.integers(0, 4))
        ]
        liked = some(3)
        disliked = [id for id in some(3) if id not in liked]
        return turn([("blue", ["t1", "t2"])] * first + searches, liked, disliked)

    return [
        conversation(f"c{number}", *(random_turn(i == 0) for i in range(rng.integers(2, 6))))
        for number in range(conversations)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_the_published_order_says_nothing(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    before = world(rng)
    after = copy.deepcopy(before)
    for talk in after:
        for said in talk["turns"]:
            for ids in (*said["search_results"], said["liked_results"], said["disliked_results"]):
                rng.shuffle(ids)
    rng.shuffle(after)  # Nor does the order of the lines.
    assert after != before
    assert lists(write(tmp_path / "after", after)) == lists(write(tmp_path / "before", before))


@pytest.mark.parametrize("seed", range(5))
def test_a_list_knows_no_rating_of_its_turn_or_later(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    before = world(rng)
    now = 1
    after = copy.deepcopy(before)
    for talk, other in zip(after, reversed(before), strict=True):
        for number in range(now, len(talk["turns"])):
            source = other["turns"][number % len(other["turns"])]
            talk["turns"][number]["liked_results"] = source["disliked_results"]
            talk["turns"][number]["disliked_results"] = source["liked_results"]
        del talk["turns"][now + 1 :]

    rated = by_id(lists(write(tmp_path / "before", before)), "timestamp")
    other = by_id(lists(write(tmp_path / "after", after)), "timestamp")
    assert other.keys() < rated.keys()
    differing = 0
    for id, row in other.items():
        if id.split("-")[1] == str(now):
            differing += row["click"] != rated[id]["click"]
            for label in ("click", "conversion"):
                del row[label], rated[id][label]
        assert row == rated[id]
    assert differing


@pytest.mark.parametrize("folds", [3, 5])
def test_every_conversation_is_tested_once_and_never_cut(tmp_path: Path, folds: int) -> None:
    long = conversation("c3x", *(turn([("blue", ["t1", "t2"])]) for _ in range(50)))
    silent = conversation("c2x", turn(liked=["t1"]))
    folder = write(tmp_path / "input", [*world(np.random.default_rng(0), 11), long, silent])
    searching = sorted({f"c{number}" for number in range(11)} | {"c3x"})

    tested: list[str] = []
    seen = {}
    for fold in range(folds):
        output = tmp_path / str(fold)
        source = cpcd.read(folder, folds=folds, fold=fold)
        assert source.rule is not None
        write_log(source, output, source.rule)
        assert check_log(output).lists.keys() == set(SPLITS)
        users = {}
        for split in SPLITS:
            rows = [r for b in read_batches(split_files(output, split)) for r in b.to_pylist()]
            users[split] = {row["user_id"] for row in rows}
            seen.update({(fold, id): row for id, row in by_id(rows, "timestamp").items()})
            assert [row["timestamp"] for row in rows] == sorted(row["timestamp"] for row in rows)
        assert users["test"] == set(searching[fold::folds])
        assert users["validation"] == set(searching[(fold + 1) % folds :: folds])
        assert users["train"] == set(searching) - users["test"] - users["validation"]
        tested += sorted(users["test"])
    assert sorted(tested) == searching
    # The fold moves lists in time, and nothing else.
    first = {id: row for (fold, id), row in seen.items() if fold == 0}
    assert seen == {(fold, id): row for fold in range(folds) for id, row in first.items()}


@pytest.mark.parametrize(("folds", "fold"), [(2, 0), (5, 5), (5, -1), (0, 0)])
def test_a_fold_that_is_not_there(tmp_path: Path, folds: int, fold: int) -> None:
    with pytest.raises(PianoError, match=f"got fold {fold} of {folds} folds"):
        cpcd.read(write(tmp_path, SMALL), folds=folds, fold=fold)


def test_fewer_conversations_than_folds(tmp_path: Path) -> None:
    with pytest.raises(PianoError, match="got 2 conversations with a search, expected at least 3"):
        cpcd.read(write(tmp_path, [*SMALL, conversation("silent", turn())]), folds=3)


def test_a_conversation_of_several_files_counts_once(tmp_path: Path) -> None:
    talks = world(np.random.default_rng(1))
    whole = lists(write(tmp_path / "whole", talks))
    parts = write(tmp_path / "parts", talks, "cpcd_v1.dialogs.dev.jsonl")
    write(parts, talks[:4], "cpcd_v1.dialogs.dev.train.jsonl")
    (parts / "cpcd_v1.tracks.jsonl").write_text("not a conversation\n")
    assert lists(parts) == whole

    changed = copy.deepcopy(talks[0])
    changed["turns"][0]["liked_results"] = ["t5", "t1", "t2", "t4", "t3"]
    write(parts, [talks[1], changed], "dialogs.jsonl")
    with pytest.raises(LogError, match="row 1: got 'c0' once more with other content"):
        cpcd.read(parts)


def broken(change: Callable[[Json], object]) -> str:
    talk = copy.deepcopy(conversation("a0", turn([("blue", ["t1"])], ["t1"])))
    change(talk)
    return json.dumps(talk)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (broken(dict)[:-20], "row 2: got b'"),
        (broken(dict)[:-20], "invalid JSON"),
        ("", "invalid JSON"),
        ("[1, 2]", "row 2: got [1, 2]; input should be an object"),
        (broken(lambda talk: talk.pop("turns")), "column 'turns', row 2: got {"),
        (broken(lambda talk: talk.pop("turns")), "field required"),
        (broken(lambda talk: talk.update(id=7)), "column 'id', row 2: got 7; input should be a"),
        (
            broken(lambda talk: talk["turns"][0].update(liked_results="t1")),
            "column 'turns.0.liked_results', row 2: got 't1'; input should be a valid array",
        ),
        (
            broken(lambda talk: talk["tracks"]["t1"].update(track_titles=None)),
            "column 'tracks.t1.track_titles', row 2: got None; input should be a valid string",
        ),
        (
            broken(lambda talk: talk["turns"][0]["search_queries"].append("train")),
            "column 'turns.0.search_results', row 2: got 1 lists, expected 2 as in",
        ),
        (
            broken(lambda talk: talk["turns"][0]["search_results"][0].append("t9")),
            "column 'turns.0.search_results.0', row 2: got 't9', expected an id of 'tracks'",
        ),
        (
            broken(lambda talk: talk["turns"][0]["liked_results"].append("t9")),
            "column 'turns.0.liked_results', row 2: got 't9', expected an id of 'tracks'",
        ),
        (
            broken(lambda talk: talk["turns"][0]["disliked_results"].append("t9")),
            "column 'turns.0.disliked_results', row 2: got 't9', expected an id of 'tracks'",
        ),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path, SMALL) / "dialogs.jsonl"
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(LogError) as error:
        cpcd.read(tmp_path, folds=3)
    said = str(error.value)
    assert said.startswith(str(path))
    assert message in said
    assert "\n" not in said


def test_bytes_that_are_not_utf_8(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL) / "dialogs.jsonl"
    path.write_bytes(path.read_bytes().replace(b"Kind of", b"Kind \xff of"))
    with pytest.raises(LogError, match=re.escape(f"{path}, row 0: ")):
        cpcd.read(tmp_path, folds=3)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(LogError, match=re.escape(f"{folder}: expected *dialogs*.jsonl")):
            cpcd.read(folder)


def test_the_command_cuts_by_fold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "input", world(np.random.default_rng(2)))

    def run(*arguments: object) -> object:
        monkeypatch.setattr(sys, "argv", ["piano", "logs", "cpcd", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code

    where = ("--input", folder, "--output", tmp_path / "logs")
    assert run(*where, "--folds", 3, "--fold", 1) in (0, None)
    users = {
        split: {
            user
            for batch in read_batches(split_files(tmp_path / "logs", split))
            for user in batch.column("user_id").to_pylist()
        }
        for split in SPLITS
    }
    assert users == {"train": {"c0", "c3", "c6"}, "validation": {"c2", "c5"}, "test": {"c1", "c4"}}
    assert run(*where, "--overwrite", "--test-share", 0.2) == 2
    assert "No such option" in capsys.readouterr().err


# --- the published files ---


@functools.cache
def published() -> tuple[dict[str, Json], list[Json]]:
    """The conversations by id, and all their lists."""
    if not PUBLISHED.is_dir():
        pytest.skip(f"needs the CPCD file in {PUBLISHED}")
    lines = (PUBLISHED / "dialogs.jsonl").read_text(encoding="utf-8").splitlines()
    return {talk["id"]: talk for talk in map(json.loads, lines)}, lists(PUBLISHED)


def test_published_searches_all_become_lists() -> None:
    talks, rows = published()
    searches = {
        f"{id}-{number}-{search}": (query, found)
        for id, talk in talks.items()
        for number, said in enumerate(talk["turns"])
        for search, (query, found) in enumerate(
            zip(said["search_queries"], said["search_results"], strict=True)
        )
    }
    assert (len(talks), len(searches), len(rows)) == (27, 246, 246)
    got = {row["list_id"]: (row["query"], sorted(row["item_id"])) for row in rows}
    assert got == {id: (query, sorted(found)) for id, (query, found) in searches.items()}


def test_published_labels_are_those_of_the_turn() -> None:
    talks, rows = published()
    for row in rows:
        talk, number, _ = row["list_id"].split("-")
        said = talks[talk]["turns"][int(number)]
        assert np.less_equal(row["conversion"], row["click"]).all()
        liked = {id for id, y in zip(row["item_id"], row["conversion"], strict=True) if y}
        shown = {id for id, y in zip(row["item_id"], row["click"], strict=True) if y}
        assert liked == set(row["item_id"]).intersection(said["liked_results"])
        assert shown - liked == set(row["item_id"]).intersection(said["disliked_results"])
    # Counted in the file: candidates rated in their turn, and those of them liked.
    assert sum(sum(row["click"]) for row in rows) == 515
    assert 0 < sum(sum(row["conversion"]) for row in rows) < 515


def test_published_history_is_that_of_earlier_turns() -> None:
    talks, rows = published()
    for row in rows:
        turns = talks[row["user_id"]]["turns"][: int(row["list_id"].split("-")[1])]
        expected = [
            (id, "conversion" if id in said["liked_results"] else "click", (back + 1) / 24)
            for back, said in enumerate(reversed(turns))
            for id in sorted(said["liked_results"] + said["disliked_results"])
        ]
        assert row["history_item_id"] == [id for id, _, _ in expected]
        assert row["history_action"] == [action for _, action, _ in expected]
        assert row["history_age"] == approx(age for _, _, age in expected)
    assert max(len(row["history_item_id"]) for row in rows) > 20


def test_published_order_is_that_of_bm25() -> None:
    talks, rows = published()
    texts = {
        id: " ".join([t["track_titles"], t["track_release_titles"], *t["track_artists"]])
        for talk in talks.values()
        for id, t in talk["tracks"].items()
    }
    documents = [re.findall(r"\w+", text.lower()) for text in texts.values()]
    place = {id: number for number, id in enumerate(texts)}
    for row in rows[::12]:
        scores = bm25(documents, re.findall(r"\w+", row["query"].lower()))
        assert row["initial_score"] == approx(scores[place[id]] for id in row["item_id"])
    for row in rows:
        logged = list(zip((-score for score in row["initial_score"]), row["item_id"], strict=True))
        assert logged == sorted(logged)


def test_published_conversations_fall_into_folds() -> None:
    _, rows = published()
    tested: list[str] = []
    for fold in range(5):
        source = cpcd.read(PUBLISHED, fold=fold)
        assert source.rule is not None
        table = [row for batch in source.batches for row in batch.to_pylist()]
        times = np.array([row["timestamp"] for row in table])
        midnights = np.datetime64(source.rule.test_from).astype("datetime64[s]").astype(int)
        tested += {row["user_id"] for row in table if row["timestamp"] >= midnights}
        assert (np.diff(times) >= 0).all()
        assert len(table) == 246
    assert sorted(tested) == sorted({row["user_id"] for row in rows})
