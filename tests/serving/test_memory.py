"""What a server frees does not stay with it."""

from __future__ import annotations

import ctypes

import psutil
import pytest

from serving.server.memory import give_back

MIB = 1 << 20


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not glibc"
)
def test_what_was_freed_goes_back_to_the_system() -> None:
    process = psutil.Process()
    blocks = [bytearray(2000) for _ in range(100_000)]
    held = blocks[::1000]  # between what is freed and the heap's end, which goes back by itself
    del blocks
    before = process.memory_info().rss
    give_back()
    assert before - process.memory_info().rss > 100 * MIB
    assert len(held) == 100
