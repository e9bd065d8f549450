"""The soak benchmark: a moment of it, and what it makes of an hour."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import itertools
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from stub_server import StubServer

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def soak() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("soak")


def test_versions_take_over_under_load(
    soak: Any, model_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    quick = ["--seconds", "1.5", "--every", "0.5", "--rate", "40", "--rows-per-version", "2"]
    where = ["--model", str(model_dir), "--output", str(tmp_path / "found")]
    arguments = ["soak", *quick, *where, "--", "--poll-seconds", "0.05"]
    monkeypatch.setattr(sys, "argv", arguments)
    assert soak.main() == 0
    header, _, *rows, empty, told = (tmp_path / "found.md").read_text().splitlines()
    assert (len(rows), empty) == (3, "")
    assert {row.count("|") for row in rows} == {header.count("|")}
    assert " 0 errors" in told
    assert (tmp_path / "found.svg").read_bytes().startswith(b"<?xml")


def test_errors_are_counted_and_no_answers(soak: Any, tmp_path: Path) -> None:
    calls = itertools.count()

    def every_other(request: Any, context: Any) -> None:
        if next(calls) % 2:
            context.abort(grpc.StatusCode.INTERNAL, "no")

    args = argparse.Namespace(seconds=1.5, every=0.5, rate=80, rows_per_version=9)
    with StubServer().running() as stub:
        stub.columns = ("item_id", "history_item_id")
        stub.behave = every_other
        found = soak.Soak(stub.address, psutil.Process(), tmp_path, args)
        asyncio.run(found.run())
    assert len(found.rows) == 3
    failed = sum((row.errors for row in found.rows), Counter())
    assert failed.keys() == {"INTERNAL"}
    assert 0 < sum(len(row.took) for row in found.rows) <= failed.total() + soak.CALLERS


def test_end_is_compared_with_the_beginning(soak: Any) -> None:
    rows = [
        soak.Row(
            minute=minute,
            version=1,
            took=[0.010 if minute <= 30 else 0.020],
            late=int(minute == 7),
            errors=Counter(UNAVAILABLE=2) if minute == 9 else Counter(),
            work=0.012,
            memory=1000 + 10 * minute,
            threads=40,
            files=30,
        )
        for minute in range(1, 61)
    ]
    *lines, empty, told = soak.table(rows).splitlines()
    assert lines[10] == "| 9 | 1 | 1 | 10.0 | 10.0 | 0 | UNAVAILABLE 2 | 12.0 | 1,090 | 40 | 30 |"
    assert (len(lines), empty) == (62, "")
    assert told == (
        "60 answers, 2 errors, 1 late. Memory: 1,600 MiB after 60 minutes, 1,050 after 5: 1.52 "
        "times. p99 of the last 10 rows: 20.0 ms, of the first 10.0: 2.00 times."
    )
