"""Dead letters in parts are in the same order as all of them at once."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from tfx_pipeline.events import dead_letters
from tfx_pipeline.events.config import DAY
from tfx_pipeline.events.dead_letters import Reason


def test_parts_one_after_the_other_are_in_the_order_of_all() -> None:
    rng = np.random.default_rng(3)
    tables = []
    for reason in (Reason.DUPLICATE, Reason.TOO_LATE, Reason.MISSING):
        count = 200
        time = pa.array(rng.integers(0, 400, count) * DAY // 3, mask=rng.random(count) < 0.2)
        rows = pa.table(
            {
                "time": time,
                "user_id": pa.array(rng.integers(0, 5, count).astype(str)),
                "request_id": pa.array(rng.integers(0, 9, count).astype(str)),
            }
        )
        tables.append(dead_letters.letters("click", reason, rows))

    parts: dict[tuple, list[pa.Table]] = {}
    for key, rows in dead_letters.divided(tables):
        parts.setdefault(key, []).append(rows)

    assert len(parts) > 3 * 4, "each reason is divided by time"
    one_by_one = [one for key in sorted(parts) for one in dead_letters.blocks(parts[key])]
    assert pa.concat_tables(one_by_one).equals(dead_letters.in_order(tables))


def test_letters_that_say_nothing_are_counted_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "_BLOCK", 100)
    monkeypatch.setattr(dead_letters, "in_order", None)  # nothing is sorted
    parts = [dead_letters.without_payload("click", Reason.FORGOTTEN, n) for n in (70, 0, 95, 85)]
    found = [*dead_letters.blocks(parts)]
    assert [one.num_rows for one in found] == [100, 100, 50]
    assert pa.concat_tables(found).equals(pa.concat_tables(parts))
    assert [*dead_letters.blocks([])] == []


def test_letters_of_which_one_says_something_are_in_order() -> None:
    parts = [
        dead_letters.without_payload("click", Reason.MISSING, 2, ["{}", None]),
        dead_letters.without_payload("click", Reason.MISSING, 1),
    ]
    (found,) = dead_letters.blocks(parts)
    assert found["detail"].to_pylist() == [None, None, "{}"]
