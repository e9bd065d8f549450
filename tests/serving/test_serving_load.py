"""The load generator against a server that is up."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stub_server import StubServer

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def load() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("serving_load")


def rows_of(table: str) -> list[dict[str, str]]:
    lines = [line.strip("| ").split("|") for line in table.splitlines() if line.startswith("|")]
    names, _, *rows = [[cell.strip() for cell in line] for line in lines]
    return [dict(zip(names, row, strict=True)) for row in rows]


def run(load: Any, monkeypatch: pytest.MonkeyPatch, output: Path, *arguments: str) -> list[dict]:
    quick = ("--seconds", "0.2", "--rounds", "2", "--concurrency", "1", "3")
    monkeypatch.setattr(sys, "argv", ["load", *quick, "--output", str(output), *arguments])
    load.main()
    return rows_of(output.read_text())


def test_every_level_is_answered(
    load: Any, server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = run(load, monkeypatch, tmp_path / "load.md", "--address", server.address)
    assert [row["callers"] for row in rows] == ["1", "3", "1, by the client"]
    assert [row["errors"] for row in rows] == ["0"] * 3
    assert all(float(row["answers/s"]) > 0 for row in rows)
    assert rows[0]["/ 1 caller"] == "1.00"


def test_errors_are_counted_and_no_answers(
    load: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with StubServer().running() as stub:
        stub.columns = ("item_id", "history_item_id")
        calls = iter(range(10**9))

        def every_other(request: Any, context: Any) -> None:
            if next(calls) % 2:
                context.abort(load.grpc.StatusCode.RESOURCE_EXHAUSTED, "enough")

        stub.behave = every_other
        rows = run(load, monkeypatch, tmp_path / "load.md", "--address", stub.address)
    assert all(row["errors"].startswith("RESOURCE_EXHAUSTED ") for row in rows)
    assert all(float(row["answers/s"]) > 0 for row in rows)


def test_options_of_a_server_that_is_up_already(
    load: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["load", "--address", "127.0.0.1:1", "--", "--batching"])
    with pytest.raises(SystemExit):
        load.main()
    assert "['--batching']: options of a server that is up already" in capsys.readouterr().err
