"""A full disk, found behind the error that it caused."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from piano_tf.errors import PianoError

_FULL = (errno.ENOSPC, errno.EDQUOT)
# Libraries in C++, and Beam, pass on what the system says as text; SQLite has words of its own.
_WORDS = "|".join([*(re.escape(os.strerror(number)) for number in _FULL), "disk is full"])
_TOLD = re.compile(_WORDS)
# TensorFlow says `/a/file; No space ...`, and Python `... device: '/a/file'`, or `'from' -> 'to'`.
# What TensorFlow renames is `/a/file to: /b/file; No space ...`: the second could not be written.
_BEFORE = re.compile(rf"(?:^|\s)(/(?:(?! to: )[^;\n])+); (?:{_WORDS})", re.MULTILINE)
_AFTER = re.compile(rf"(?:{_WORDS}): (?:'[^'\n]*' -> )?'(/[^'\n]+)'")
# Where no other traceback, of what caused this one, ends in `exception:` and an empty line.
_TRACEBACK = re.compile(r"^(?<!:\n\n)Traceback\b", re.MULTILINE)


def full_disk(told: BaseException | str, written: Iterable[Path]) -> str | None:
    """Names the disk if a full one is what an error is about.

    Args:
      told: The error, with all that it came of; or what a process that failed has printed, of which
        the last traceback counts with what caused it, or the last line if there is none.
      written: Folders that may have been written to, for an error that names no file: the disk is
        then that with the least room.

    Returns:
      Half a sentence, or None.

    >>> full_disk(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/run.log"), [])
    'no space left on the disk of /, to write run.log'
    >>> full_disk(ValueError("expected a number"), [Path("/")]) is None
    True
    """
    errors = [*_came_of(told)] if isinstance(told, BaseException) else [_last(told)]
    if not any(_is_full(error) for error in errors):
        return None
    named = next((path for error in errors for path in _named(error)), None)
    if named is not None:
        disk = _mounted(named)
        return f"no space left on the disk of {disk}, to write {_lasting(named.relative_to(disk))}"
    rooms = {path: shutil.disk_usage(path).free for path in map(_existing, written)}
    if not rooms:
        return "no space left on a disk"
    return f"no space left on the disk of {_mounted(min(rooms, key=lambda path: rooms[path]))}"


def _came_of(error: BaseException) -> Iterator[BaseException]:
    """An error and all behind it."""
    waiting, seen = [error], set()
    while waiting:
        one = waiting.pop(0)
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [other for other in (one.__cause__, one.__context__) if other is not None]


def _last(printed: str) -> str:
    """What a process printed last of an error."""
    starts = [found.start() for found in _TRACEBACK.finditer(printed)]
    return printed[starts[-1] :] if starts else "".join(printed.strip().splitlines()[-1:])


def _text(error: BaseException | str) -> str:
    """An error's words; none of what quotes the values of a person's log or configuration."""
    return "" if isinstance(error, PianoError) else str(error)


def _is_full(error: BaseException | str) -> bool:
    return getattr(error, "errno", None) in _FULL or _TOLD.search(_text(error)) is not None


def _named(error: BaseException | str) -> Iterator[Path]:
    """The files that could not be written, as an error says."""
    if getattr(error, "errno", None) in _FULL:
        for name in (getattr(error, "filename2", None), getattr(error, "filename", None)):
            if isinstance(name, str | os.PathLike):
                yield Path(name).absolute()
    for pattern in (_BEFORE, _AFTER):
        for found in pattern.finditer(_text(error)):
            yield Path(found[1])


def _existing(path: Path) -> Path:
    """The folder itself, or the nearest above it that there is."""
    whole = path.absolute()
    return next(place for place in (whole, *whole.parents) if place.exists())


def _lasting(path: Path) -> Path:
    """The path down to where the names of temporary files and folders begin."""
    hidden = (number for number, part in enumerate(path.parts) if part.startswith("."))
    return Path(*path.parts[: next(hidden, None)])


def _mounted(path: Path) -> Path:
    """Where the disk is mounted that a path is on."""
    place = _existing(path)
    while not place.is_mount():
        place = place.parent
    return place
