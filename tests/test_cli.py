"""The `piano` command as a person uses it: what it prints, what it leaves, how it ends."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from piano_tf import cli, training
from piano_tf.data.logs import check_log, find_list
from piano_tf.errors import LogError

SPEC = {"dataset": "shop", "item": {"price": "float"}, "history_item": {"price": "float"}}


def shown(number: int, **changed: object) -> dict:
    """One good list, with some columns replaced."""
    row = {
        "list_id": f"list-{number}",
        "user_id": "ada",
        "query": "so what",
        "timestamp": 1_700_000_000 + number,
        "item_id": ["a", "b"],
        "item_price": [1.0, 2.5],
        "history_query": ["blue"],
        "history_item_id": ["c"],
        "history_action": ["click"],
        "history_age": [0.5],
        "history_item_price": [3.0],
        "click": [1, 0],
        "conversion": [0, 0],
    }
    return {**row, **changed}


def write_input(folder: Path, rows: list[dict]) -> Path:
    folder.mkdir()
    (folder / "features.json").write_text(json.dumps(SPEC))
    pq.write_table(pa.Table.from_pylist(rows), folder / "lists.parquet")
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["piano", *map(str, arguments)])
    cli.main()


def test_a_teams_own_logs_become_a_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_input(tmp_path / "input", [shown(number) for number in range(20)])
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, "logs", "parquet", "--input", source, "--output", tmp_path / "logs")
    assert ended.value.code in (0, None)
    assert "train 16, validation 2, test 2" in capsys.readouterr().out
    assert check_log(tmp_path / "logs").lists == {"train": 16, "validation": 2, "test": 2}


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ({"colour": "red"}, "column 'colour', row 0: unknown column"),
        ({"item_price": [1.0]}, "column 'item_price', row 7: got 1 values, expected 2"),
        ({"conversion": [0, 1]}, "column 'conversion', row 7: got 1 at position 1"),
        ({"item_price": [1.0, float("nan")]}, "column 'item_price', row 7: got nan at position 1"),
        ({"history_age": [float("inf")]}, "column 'history_age', row 7: got inf"),
        ({"list_id": "list-3"}, "column 'list_id', row 7: got 'list-3' a second time"),
        (None, "column 'click', row 0: missing"),
    ],
)
def test_a_fault_is_one_sentence_and_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: dict | None,
    sentence: str,
) -> None:
    rows = [shown(number) for number in range(20)]
    if fault is None:
        rows = [{name: row[name] for name in row if name != "click"} for row in rows]
    else:
        rows[7] |= fault
        rows[0] |= {name: value for name, value in fault.items() if name not in rows[0]}
    source = write_input(tmp_path / "input", rows)
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, "logs", "parquet", "--input", source, "--output", tmp_path / "logs")
    message = str(ended.value.code)
    assert message.startswith("error: ")
    assert sentence in message
    assert "\n" not in message
    assert [path.name for path in tmp_path.iterdir()] == ["input"]


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (
            ["logs", "simulated", "--output", "{file}/logs"],
            "cannot be made, for {file} is no folder",
        ),
        (
            ["logs", "simulated-events", "--output", "{file}/events"],
            "cannot be made, for {file} is no folder",
        ),
        (["train", "{tmp}", "--output", "{file}/1"], "cannot be made, for {file} is no folder"),
        (["train", "{tmp}/gone", "--output", "{tmp}/1"], "{tmp}/gone: no such folder"),
        (
            ["evaluate", "{tmp}/1", "{tmp}", "--output", "{file}/report"],
            "cannot be made, for {file} is no folder",
        ),
        (
            ["train", "{tmp}", "--config", "{tmp}/odd.json", "--output", "{tmp}/1"],
            "{tmp}/odd.json: model.name: got 'pino', expected one of piano, ",
        ),
        (
            ["pipeline", "--logs", "{log}", "--home", "{tmp}/run", "--config", "{tmp}/trees.json"],
            "{tmp}/trees.json: model.name: 'lambdamart' is no Keras model",
        ),
        (
            ["pipeline", "--logs", "{log}", "--home", "{tmp}/run", "--config", "{tmp}/dlcm.json"],
            "{tmp}/dlcm.json: model.rank: got 'training', but 'dlcm' cannot do without",
        ),
        (
            ["pipeline", "--logs", "{log}", "--home", "{tmp}/run", "--schema", "{tmp}/gone.pbtxt"],
            "schema {tmp}/gone.pbtxt: cannot be read (No such file or directory)",
        ),
        (
            ["pipeline", "--logs", "{log}", "--home", "{tmp}/run", "--schema", "{file}"],
            "schema {file}: column 'list_id': missing, and the log has it",
        ),
        (
            ["abtest", "{tmp}/abtest.json", "--output", "{file}/results"],
            "cannot be made, for {file} is no folder",
        ),
        (["rerank", "--logs", "{tmp}/gone"], "{tmp}/gone: no such folder"),
        (
            ["rerank", "--logs", "{log}", "--address", "127.0.0.1:1", "--timeout", "0.1"],
            "no server answered at 127.0.0.1:1 within 0.1 s",
        ),
        (["compare", "{tmp}/misspelt.json"], "modles: got {'PIANO': {}}; expected one of"),
        (
            ["logs", "parquet", "--input", "{empty}", "--output", "{tmp}/logs"],
            "{empty}/lists.parquet: cannot be read as Parquet",
        ),
        (
            ["logs", "parquet", "--input", "{none}", "--output", "{tmp}/logs"],
            "{none}: has no lists",
        ),
    ],
)
def test_what_cannot_be_done_is_told_at_once(
    tmp_path: Path,
    log_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
    sentence: str,
) -> None:
    file = tmp_path / "file"
    file.touch()
    for name, config in {
        "odd": {"model": {"name": "pino"}},
        "trees": {"model": {"name": "lambdamart"}},
        "dlcm": {"model": {"name": "dlcm", "rank": "training"}},
        "world": {},
        "abtest": {
            "world": "world.json",
            "output": "results",
            "policies": {"first stage": {}, "the same": {}},
            "control": "first stage",
        },
        "misspelt": {"logs": ["logs"], "output": "out", "modles": {"PIANO": {}}},
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(config))
    none = write_input(tmp_path / "none", [shown(0)])
    lists = none / "lists.parquet"
    pq.write_table(pq.read_table(lists).slice(0, 0), lists)
    empty = write_input(tmp_path / "empty", [shown(0)])
    (empty / "lists.parquet").write_bytes(b"")
    before = sorted(tmp_path.iterdir())

    def filled(text: str) -> str:
        for key, path in {
            "tmp": tmp_path,
            "file": file,
            "log": log_dir,
            "none": none,
            "empty": empty,
        }.items():
            text = text.replace(f"{{{key}}}", str(path))
        return text

    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, *map(filled, command))
    message = str(ended.value.code)
    assert message.startswith("error: ") and "\n" not in message
    assert filled(sentence) in message
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("split", "content"), [("validation", None), ("validation", b""), ("train", None)]
)
def test_a_split_that_cannot_be_read_is_found_before_training(
    tmp_path: Path,
    log_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    split: str,
    content: bytes | None,
) -> None:
    log = tmp_path / "log"
    shutil.copytree(log_dir, log)
    for file in (log / split).iterdir():
        file.unlink() if content is None else file.write_bytes(content)
    monkeypatch.setattr(training, "pretrain", lambda *_: pytest.fail("training has begun"))
    with pytest.raises(SystemExit, match=re.escape(f"error: {log / split}") + ".*[Pp]arquet"):
        run(monkeypatch, "train", log, "--output", tmp_path / "1")
    assert not (tmp_path / "1").exists()


def test_the_exit_status_and_stream_of_an_error(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from piano_tf.cli import main; main()"]
    arguments = ["logs", "lastfm", "--input", str(tmp_path), "--output", str(tmp_path / "logs")]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        f"error: {tmp_path / 'tags.dat'}: no such file; expected it as published in HetRec 2011\n"
    )


def test_help_needs_neither_tensorflow_nor_tfx() -> None:
    script = (
        "import sys\n"
        "from piano_tf import cli\n"
        "try:\n    cli.piano(['--help'])\n"
        "except SystemExit:\n    pass\n"
        "assert not {'tensorflow', 'tfx', 'pyarrow'} & set(sys.modules), 'heavy'\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in ("logs", "train", "pipeline", "serve", "rerank"):
        assert command in done.stdout


def test_every_limit_of_the_server_is_an_option() -> None:
    from serving.server import Limits

    options = {option for parameter in cli.serve.params for option in parameter.opts}
    names = {name.replace("_", "-") for name in vars(Limits())}
    assert {name for name in options if name.startswith("--max-")} == {f"--max-{n}" for n in names}


def test_cuts_by_date_and_by_share_do_not_mix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_input(tmp_path / "input", [shown(number) for number in range(20)])
    arguments = ["--input", source, "--output", tmp_path / "logs"]
    with pytest.raises(SystemExit, match="expected both or neither"):
        run(monkeypatch, "logs", "parquet", *arguments, "--test-from", "2023-11-15")


def test_find_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = {name: [] for name in shown(0) if name.startswith("history_")}
    rows = [shown(number, **(empty if number < 19 else {})) for number in range(20)]
    source = write_input(tmp_path / "input", rows)
    with pytest.raises(SystemExit):
        run(monkeypatch, "logs", "parquet", "--input", source, "--output", tmp_path / "logs")
    assert find_list(tmp_path / "logs", "test")["list_id"] == "list-19"
    assert find_list(tmp_path / "logs", "test", "list-18")["list_id"] == "list-18"
    assert find_list(tmp_path / "logs", "train")["list_id"] == "list-0"
    with pytest.raises(LogError, match="no list 'list-1'"):
        find_list(tmp_path / "logs", "test", "list-1")
