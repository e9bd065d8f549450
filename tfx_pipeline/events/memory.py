"""What a task took goes back to the system when it ends, and is not kept for the next."""

from __future__ import annotations

import ctypes

import pyarrow as pa

_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
_LARGE = 1 << 18


def take_and_give_back() -> None:
    """Lets this process take large arrays from the system one by one; again changes nothing.

    glibc's own limit rises to what was freed last, so that large arrays come to lie between small
    ones, and Arrow's allocator keeps most of what it ever had. Another C library goes on as it did.
    """
    pa.set_memory_pool(pa.system_memory_pool())
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_MMAP_THRESHOLD, _LARGE)


def give_back() -> None:
    """Gives back what is free."""
    pa.default_memory_pool().release_unused()
