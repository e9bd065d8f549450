"""`piano logs events` on files as teams have them, sound and not."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from piano_tf.cli import piano
from piano_tf.data.logs import check_log
from piano_tf.data.splits import ByDate
from piano_tf.errors import LogError, PianoError
from tfx_pipeline.events import stages
from tfx_pipeline.events.config import EventsConfig
from tfx_pipeline.events.job import run
from tfx_pipeline.events.report import sentences
from tfx_pipeline.events.shuffle import Pieces

DAY = 86_400
START = 1_704_067_200  # 2024-01-01, 00:00 UTC
RULE = ByDate(dt.date(2024, 1, 3), dt.date(2024, 1, 4))

MAPPING: dict[str, Any] = {
    "dataset": "shop",
    "search": {
        "files": "searches/*",
        "columns": {"request_id": "rid", "user_id": "uid", "time": "ts", "item_id": "shown"},
    },
    "click": {"files": "clicks/*", "columns": {"request_id": "rid", "user_id": "uid"}},
    "conversion": {"files": "buys/*", "columns": {"user_id": "uid", "kind": "what"}},
    "attribution": {"click_window": 3_600, "conversion_windows": {"purchase": DAY}},
    "until": "2024-01-06T00:00:00Z",
}


def searches() -> dict[str, list]:
    """Eight sound searches, two a day, by two users."""
    return {
        "rid": [f"r{number}" for number in range(8)],
        "uid": [b"ann" if number % 2 else "Zoë".encode() for number in range(8)],
        "ts": [START + number * DAY // 2 for number in range(8)],
        "query": [b"soul"] * 8,
        "shown": [["a", "b", "c"]] * 8,
    }


def clicks() -> list[dict]:
    """A click on the second item of each search."""
    return [
        {"rid": f"r{n}", "uid": None, "item_id": "b", "time": START + n * DAY // 2 + 60}
        for n in range(8)
    ]


def write(folder: Path, mapping: dict | None = None, **changed: Any) -> Path:
    """Writes sound events, or some that are changed, and the mapping."""
    for table in ("searches", "clicks", "buys"):
        (folder / table).mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(changed.get("searches", searches())), folder / "searches/1.parquet")
    lines = [json.dumps(row).encode() for row in changed.get("clicks", clicks())]
    (folder / "clicks/1.jsonl").write_bytes(b"\n".join([*lines, *changed.get("lines", [])]))
    rows = ["uid,item_id,time,what", *changed.get("buys", ["ann,c,2024-01-01T12:30:00,purchase"])]
    (folder / "buys/1.csv").write_bytes("\n".join(rows).encode("utf-8", "surrogateescape"))
    (folder / "mapping.json").write_text(json.dumps(mapping or MAPPING))
    return folder


def built(folder: Path, output: Path, **changed: Any) -> dict[str, Any]:
    config = EventsConfig.model_validate({**MAPPING, **changed})
    return run(folder, config, output, RULE, overwrite=True)


def lists_of(output: Path) -> list[dict]:
    files = [
        file for split in ("train", "validation", "test") for file in (output / split).glob("*")
    ]
    return pa.concat_tables(
        map(pq.read_table, sorted(files, key=lambda file: file.name))
    ).to_pylist()


def reasons(output: Path, kind: str) -> Counter[str]:
    return Counter(pq.read_table(output / f"dead_letters/{kind}.parquet")["reason"].to_pylist())


def test_a_log_is_built_of_three_formats(tmp_path: Path) -> None:
    write(tmp_path / "in")
    arguments = ["logs", "events", "--input", "in", "--mapping", "in/mapping.json"]
    cuts = ["--validation-from", "2024-01-03", "--test-from", "2024-01-04"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        done = CliRunner().invoke(
            piano, [*arguments, "--output", "out", *cuts, "--", "--direct_num_workers=1"]
        )
    assert done.exit_code == 0, done.output
    assert "shop lists, train 4, validation 2, test 2, held back 0" in done.output
    assert "observed until 2024-01-06T00:00:00Z\n" in done.output
    assert "click: 8 read, 8 used\n" in done.output
    out = tmp_path / "out"
    assert check_log(out).lists == {"train": 4, "validation": 2, "test": 2}
    found = lists_of(out)
    assert [row["click"] for row in found] == [[0, 1, 0], [0, 1, 1], *[[0, 1, 0]] * 6]
    assert [row["conversion"] for row in found] == [[0, 0, 0], [0, 0, 1], *[[0, 0, 0]] * 6]
    assert found[2]["history_item_id"] == ["b"]
    assert found[3]["history_item_id"] == ["c", "b"]
    assert found[3]["history_action"] == ["conversion", "click"]
    report = (out / "report.html").read_text()
    assert "Observed until 2024-01-06T00:00:00Z." in report
    assert "data:image/svg+xml;base64," in report and "http" not in report.replace("w3.org", "")
    names = {path.name for path in out.iterdir()}
    assert names == {
        *("train", "validation", "test", "features.json"),
        *("dead_letters", "reconciliation.json", "report.html"),
    }


def test_dirty_input_is_reconciled_to_the_event(tmp_path: Path) -> None:
    dirty = searches()
    for rid, uid, query, shown in (
        ("r0", "Zoë".encode(), b"soul", ["a", "b", "c"]),  # the same again
        ("r1", b"ann", b"soup", ["a", "b", "c"]),  # another of the same name
        ("empty", b"ann", b"soul", []),
        ("twice", b"ann", b"soul", ["a", "a"]),
        ("bytes", b"ann", b"so\xffl", ["a"]),
        ("nobody", None, b"soul", ["a"]),
        (None, b"ann", b"soul", ["a"]),
        ("gap", b"ann", b"soul", ["a", None]),
    ):
        number = 0 if rid == "r0" else 1
        for name, value in (("rid", rid), ("uid", uid), ("query", query), ("shown", shown)):
            dirty[name].append(value)
        dirty["ts"].append(START + number * DAY // 2)
    dirty["rid"].append("future")
    dirty["uid"].append(b"ann")
    dirty["ts"].append(10**12)
    dirty["query"].append(b"soul")
    dirty["shown"].append(["a"])
    acts = [
        *clicks(),
        clicks()[0],
        {"rid": "r9", "item_id": "b", "time": START},
        {"rid": "r1", "item_id": "z", "time": START + DAY},
        {"rid": "r1", "item_id": "a", "time": START},
        {"rid": "r1", "item_id": "a", "time": START + DAY // 2 + 3_601},
        {"rid": "r1", "uid": "Zoë", "item_id": "a", "time": START + DAY // 2},
        {"uid": "ann", "item_id": "a", "time": START + DAY // 2 - 1},
        {"item_id": "a", "time": START},
        {"rid": "r1", "time": START},
        {"rid": "r1", "item_id": {"id": "a"}, "time": START},
        {"rid": "r1", "item_id": "a", "time": "yesterday"},
    ]
    lines = [b'{"rid": "r1", "item', b'{"rid": "\xff"}', b"[]", b""]
    buys = [
        "ann,c,2024-01-01T12:30:00,purchase",
        "ann,c,2024-01-01T12:31:00,visit",
        "ann,c,2024-01-01T12:32:00",
        "ann,c,soon,purchase",
        "\udcff,c,2024-01-01T12:30:00,purchase",
        "",
    ]
    write(tmp_path / "in", searches=dirty, clicks=acts, lines=lines, buys=buys)
    whole = (tmp_path / "in/searches/1.parquet").read_bytes()
    (tmp_path / "in/searches/2.parquet").write_bytes(whole[: len(whole) // 2])
    out = tmp_path / "out"
    said = built(tmp_path / "in", out, unreadable_files="set_aside")

    clean = tmp_path / "clean"
    built(write(tmp_path / "sound"), clean)
    assert lists_of(out) == lists_of(clean)
    expected = {
        "search": {
            "unreadable file": 1,
            "not UTF-8": 1,
            "missing value": 3,
            "time out of range": 1,
            "empty list": 1,
            "item shown twice": 1,
            "duplicate": 1,
            "request id used twice": 1,
        },
        "click": {
            "not readable": 4,
            "not UTF-8": 1,
            "missing value": 2,
            "duplicate": 1,
            "unknown request": 1,
            "another user's request": 1,
            "item not shown": 1,
            "before its request": 1,
            "outside the window": 1,
            "no request within the window": 1,
        },
        "conversion": {"not readable": 2, "not UTF-8": 1, "unknown kind": 1},
    }
    read = {"search": 17, "click": 22, "conversion": 5}
    used = {"search": 8, "click": 8, "conversion": 1}
    for kind, dead in expected.items():
        assert said["events"][kind] == {
            "read": read[kind],
            "used": used[kind],
            "dead letters": dead,
        }, kind
        assert reasons(out, kind) == dead
    assert said["unreadable files"] == ["searches/2.parquet"]
    assert json.loads((out / "reconciliation.json").read_text()) == said
    dead = pq.read_table(out / "dead_letters/search.parquet").to_pylist()
    details = {row["reason"]: json.loads(row["detail"]) for row in dead}
    assert details["not UTF-8"]["query"] == r"so\xffl"
    assert details["unreadable file"] == {"file": "searches/2.parquet"}
    assert details["empty list"]["request_id"] == "empty"


def test_neither_files_nor_shards_change_a_byte(tmp_path: Path) -> None:
    write(tmp_path / "in")
    said = built(tmp_path / "in", tmp_path / "one", shards=1)
    table = pq.read_table(tmp_path / "in/searches/1.parquet")
    lines = (tmp_path / "in/clicks/1.jsonl").read_bytes().splitlines()
    write(tmp_path / "other")
    for number, part in enumerate((table.slice(5), table.slice(0, 5))):
        pq.write_table(part, tmp_path / f"other/searches/{number + 1}.parquet")
    (tmp_path / "other/clicks/1.jsonl").write_bytes(b"\n".join(lines[::-1]))
    assert built(tmp_path / "other", tmp_path / "five", shards=5) == said
    for file in sorted((tmp_path / "one").rglob("*")):
        if file.is_file():
            twin = tmp_path / "five" / file.relative_to(tmp_path / "one")
            assert twin.read_bytes() == file.read_bytes(), file


def test_of_forgotten_users_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "in", lines=[b'{"rid": "r1", "item'])
    (folder / "forget.txt").write_text("ann\n")
    monkeypatch.setenv("SHOP_SALT", "secret")
    out = tmp_path / "out"
    privacy = {"forget": "forget.txt", "salt_env": "SHOP_SALT"}
    said = built(folder, out, privacy=privacy)
    assert said["lists"] == {"train": 2, "validation": 1, "test": 1, "held back": 0}
    assert reasons(out, "search") == {"forgotten": 4}
    assert reasons(out, "click") == {"forgotten": 4, "not readable": 1}  # by request id alone
    assert reasons(out, "conversion") == {"forgotten": 1}
    for file in out.rglob("*.parquet"):
        rows = pq.read_table(file).to_pylist()
        text = json.dumps(rows, ensure_ascii=False)
        assert "ann" not in text and "Zoë" not in text, file
    assert {len(row["user_id"]) for row in lists_of(out)} == {32}
    assert {row["history_item_id"][0] for row in lists_of(out)[1:]} == {"b"}


@pytest.mark.parametrize(("shards", "in_order"), [(1, True), (5, False)])
def test_users_to_forget_who_were_never_met_are_counted_and_not_named(
    tmp_path: Path, shards: int, in_order: bool
) -> None:
    """One is met in searches, one in a click that lacks its item, one in a purchase."""
    lone = {"uid": "cleo", "time": START}
    folder = write(tmp_path / "in", lines=[json.dumps(lone).encode()], buys=["Di,c,soon,purchase"])
    table = pq.read_table(folder / "searches/1.parquet")
    if not in_order:
        for number, part in enumerate((table.slice(3), table.slice(0, 3))):
            pq.write_table(part, folder / f"searches/{number + 1}.parquet")
    (folder / "forget.txt").write_text("zzz\nann\nnobody\nDi\ncleo\nann\n")
    out = tmp_path / "out"
    said = built(folder, out, privacy={"forget": "forget.txt"}, shards=shards)
    assert said["to forget, never met"] == 2
    assert "users to forget whom no row names: 2" in list(sentences(said))
    text = (out / "report.html").read_text() + (out / "reconciliation.json").read_text()
    assert "users to forget whom no row names: 2.<" in text
    assert "zzz" not in text and "nobody" not in text


def test_tasks_are_not_told_what_others_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file may have met every user to forget, and all files are told to every task."""
    told: list[stages.Done] = []
    found_in = stages._of

    def noted(done: Iterable[stages.Done], name: str) -> list[Pieces]:
        told.extend(done := list(done))
        return found_in(done, name)

    monkeypatch.setattr(stages, "_of", noted)
    folder = write(tmp_path / "in")
    (folder / "forget.txt").write_text("ann\n")
    said = built(folder, tmp_path / "out", privacy={"forget": "forget.txt"})
    assert said["to forget, never met"] == 0
    assert any("lists" in done.rows for done in told)
    assert not any(done.tally.counts for done in told)


AHEAD = "a clock that runs ahead may have set the end of observation"


@pytest.mark.parametrize(
    ("later", "until", "is_said"),
    [
        ([], None, False),
        ([86_400], None, False),  # the day before has a search and its click
        ([2 * 86_400], None, True),
        ([2 * 86_400, 3 * 86_400], None, False),  # two events are more than a stray one
        ([2 * 86_400], "2024-01-20T00:00:00Z", False),
    ],
)
def test_a_lone_newest_event_is_said_to_be_a_clock_that_runs_ahead(
    tmp_path: Path, later: list[int], until: str | None, is_said: bool
) -> None:
    """The last search is of the evening of 2024-01-04; later clicks are of a user without one."""
    strays = [
        {"uid": "bob", "item_id": "b", "time": START + 3 * DAY + DAY // 2 + after}
        for after in later
    ]
    folder, out = write(tmp_path / "in", clicks=[*clicks(), *strays]), tmp_path / "out"
    said = built(folder, out, until=until, attribution={"click_window": 60})
    assert any(AHEAD in sentence for sentence in sentences(said)) == is_said
    assert (AHEAD in (out / "report.html").read_text()) == is_said
    if until is not None:
        assert said["near until"] is None
    elif is_said:
        assert said["near until"] == {"events": 1, "of": 18}


def test_a_table_of_which_nothing_is_used_is_told() -> None:
    said = {"until": "", "unreadable files": [], "without a snapshot": {}, "near until": None}
    said["to forget, never met"] = 0
    dead = {"duplicate": 1, "before its request": 174}
    said["events"] = {"click": {"read": 175, "used": 0, "dead letters": dead}}
    said["events"]["search"] = {"read": 9, "used": 1, "dead letters": {"old": 8}}
    told = [sentence for sentence in sentences(said) if "none of" in sentence]
    assert told == ["click: none of 175 events is used, most of them as 'before its request'"]


def test_few_events_near_the_end_are_a_thousandth_at_most() -> None:
    said = {"until": "", "events": {}, "unreadable files": [], "without a snapshot": {}}
    said["to forget, never met"] = 0
    for events, of, is_said in ((20, 20_000, True), (21, 20_000, False), (1, 2, True)):
        near = {"near until": {"events": events, "of": of}}
        assert any(AHEAD in sentence for sentence in sentences({**said, **near})) == is_said


@pytest.mark.parametrize(
    "words",
    [
        ["stray"],
        ["stray", "--", "--direct_num_workers=1"],
        ["--", "stray"],
        ["-"],
        ["--", "--direct_num_workers=1", "stray", "more"],
    ],
)
def test_words_that_are_no_options_are_one_sentence(tmp_path: Path, words: list[str]) -> None:
    folder = write(tmp_path / "in")
    arguments = ["--input", str(folder), "--mapping", str(folder / "mapping.json")]
    done = CliRunner().invoke(
        piano, ["logs", "events", *arguments, "--output", str(tmp_path / "out"), *words]
    )
    assert done.exit_code != 0
    word = next(word for word in words if not word.startswith("--"))
    with pytest.raises(PianoError, match=f"^'{word}': expected an option that Apache Beam knows$"):
        raise done.exception or AssertionError
    assert not (tmp_path / "out").exists()


def test_a_damaged_page_is_found_by_a_worker_and_said_by_the_command(tmp_path: Path) -> None:
    folder = write(tmp_path / "in")
    file = folder / "searches/1.parquet"
    data = bytearray(file.read_bytes())
    data[4:60] = b"\xff" * 56  # the footer stays sound
    file.write_bytes(data)
    with pytest.raises(PianoError, match=r"searches/1\.parquet: cannot be read .*set_aside"):
        built(folder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def truncate(folder: Path) -> None:
    (folder / "searches/2.parquet").write_bytes(b"PAR1 and no more")


def drop_column(folder: Path) -> None:
    pq.write_table(pa.table(searches()).drop(["query"]), folder / "searches/1.parquet")


def mistype(folder: Path) -> None:
    table = {**searches(), "ts": [[1.0]] * 8}
    pq.write_table(pa.table(table), folder / "searches/1.parquet")


def rename(folder: Path) -> None:
    (folder / "buys/1.csv").write_text("user,item_id,time,what\n")


def nameless(folder: Path) -> None:
    (folder / "clicks/1.jsonl").write_text('{"request": "r1", "item_id": "b", "time": 1}\n')


def empty(folder: Path) -> None:
    (folder / "searches/1.parquet").unlink()


def strange(folder: Path) -> None:
    (folder / "searches/2.xlsx").write_text("")


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (truncate, r"searches/2\.parquet: cannot be read \(.*\); .*set_aside"),
        (drop_column, r"searches/1\.parquet, column 'query': missing; .* as 'query'"),
        (mistype, r"1\.parquet, column 'ts': got type list<.*double>, expected a time"),
        (rename, r"buys/1\.csv, column 'uid': missing; expected by the mapping as 'user_id'"),
        (nameless, r"column 'rid': click: no row has it; expected by the mapping as 'request_id'"),
        (empty, r"search: expected files 'searches/\*'"),
        (strange, r"searches/2\.xlsx: expected a name that ends in \.parquet"),
    ],
)
def test_files_that_cannot_be_used_are_one_sentence(
    tmp_path: Path, break_it: Callable[[Path], None], sentence: str
) -> None:
    folder = write(tmp_path / "in")
    break_it(folder)
    with pytest.raises(PianoError, match=sentence):
        built(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"serach": {}}, "serach: got .*expected one of .*search, click"),
        ({"history_item": ["brand"]}, "history_item 'brand': expected one of the item features"),
        ({"click": {"columns": {"item_id": "i"}}}, "expected a column for request_id, for user_id"),
        ({"time_unit": "h"}, "time_unit: got 'h'"),
        ({"privacy": {"salt_env": "NO_SUCH_SALT"}}, "'NO_SUCH_SALT' is not set"),
        ({"privacy": {"forget": "nobody.txt"}}, r"privacy\.forget: .*nobody\.txt cannot be read"),
        (
            {"until": 0},
            "no list is settled by 1970-01-01T00:00:00Z, the end of observation: of 8 searches 8",
        ),
    ],
)
def test_mappings_that_cannot_be_used_are_one_sentence(
    tmp_path: Path, changed: dict, sentence: str
) -> None:
    folder = write(tmp_path / "in", mapping={**MAPPING, **changed})
    arguments = ["logs", "events", "--input", str(folder), "--output", str(tmp_path / "out")]
    done = CliRunner().invoke(piano, [*arguments, "--mapping", str(folder / "mapping.json")])
    assert isinstance(done.exception, PianoError)
    with pytest.raises(PianoError, match=sentence):
        raise done.exception
    assert not (tmp_path / "out").exists()


def test_another_folder_is_not_overwritten(tmp_path: Path) -> None:
    folder = write(tmp_path / "in")
    with pytest.raises(PianoError, match="is not a log"):
        built(folder, folder)
    with pytest.raises(LogError, match="no such folder"):
        built(tmp_path / "nowhere", tmp_path / "out")
