"""What a task took goes back to the system when it ends, and is not kept for the next."""

from __future__ import annotations

import ctypes

import pyarrow as pa

_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
_LARGE = 1 << 18
_ARROWS_OWN = pa.default_memory_pool()


def take_and_give_back() -> None:
    """Lets this process, as long as it lives, take large arrays from the system one by one.

    glibc's own limit rises to what was freed last, so that large arrays come to lie between small
    ones, and Arrow's allocator keeps most of what it ever had. With another C library nothing
    changes.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_MMAP_THRESHOLD, _LARGE)
        pa.set_memory_pool(pa.system_memory_pool())


def give_back() -> None:
    """Gives back what is free; some of Arrow's operations use its own allocator whatever is set."""
    for pool in {id(pool): pool for pool in (_ARROWS_OWN, pa.default_memory_pool())}.values():
        pool.release_unused()
