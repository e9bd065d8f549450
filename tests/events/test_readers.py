"""What is made of cells and files, without the job."""

from __future__ import annotations

import pyarrow as pa
import pytest

from tfx_pipeline.events import cells

SECOND = 1_000_000
MOMENT = 1_704_067_200  # 2024-01-01, 00:00 UTC


# --- cells ---

WHOLE = [pa.int32(), pa.uint32(), pa.int64(), pa.uint64()]
NARROW = [pa.int8(), pa.uint8(), pa.int16(), pa.uint16()]
FLOAT = [pa.float32(), pa.float64()]


@pytest.mark.parametrize("type", [*WHOLE, *NARROW, *FLOAT], ids=str)
@pytest.mark.parametrize(("unit", "size"), [("s", SECOND), ("ms", 1_000), ("us", 1)])
def test_numbers_of_every_type_are_the_same_times(type: pa.DataType, unit: str, size: int) -> None:
    # 1704067200 is a multiple of 128, so that single precision holds it.
    moments = [0, 1, 100, None, *([] if type in NARROW else [MOMENT])]
    column = pa.array(moments, pa.int64()).cast(type, safe=False)
    found = cells.time(column, unit)
    expected = [None if moment is None else moment * size for moment in moments]
    assert found.values.to_pylist() == expected
    assert not (found.not_utf8 | found.not_readable).any()


@pytest.mark.parametrize("type", [pa.int64(), pa.uint64()], ids=str)
def test_whole_microseconds_stay_exact(type: pa.DataType) -> None:
    moments = [2**53 + 1, 2**61 + 1, 2**62]
    found = cells.time(pa.array(moments, type), "us").values.to_pylist()
    assert found == [2**53 + 1, 2**61 + 1, -1], "what is beyond every time is none"
    assert cells.time(pa.array([2**63 - 1], type), "s").values.to_pylist() == [-1]
