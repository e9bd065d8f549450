"""Files and folders that are whole or not there."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from piano_tf.errors import PianoError

_REPLACED = ".replaced"


def require_room(path: Path) -> None:
    """Finds out, before long work, whether a folder can be made or written to.

    Raises:
      PianoError: There is a file in the way, or no right to write.
    """
    whole = path.absolute()
    try:
        there = next(place for place in (whole, *whole.parents) if os.path.lexists(place))
        if not there.is_dir():
            raise PianoError(f"{path}: cannot be made, for {there} is no folder")
        if not os.access(there, os.W_OK | os.X_OK):
            raise PianoError(f"{path}: cannot be written, for {there} may not be written to")
        whole.exists()  # raises where the name is too long
    except OSError as error:
        raise PianoError(f"{path}: cannot be made ({error.strerror})") from error


def require_place_for(what: str, parts: Sequence[str], path: Path, *, overwrite: bool) -> None:
    """Finds out, before long work, whether something may be made at `path`.

    Args:
      what: What it is, in a word.
      parts: What such a folder has in it, by which it is known.
      path: Folder to make.
      overwrite: Whether one that is there may be replaced.

    Raises:
      PianoError: It may not, or there is something else.
    """
    if path.exists() and not overwrite:
        raise PianoError(f"{path} exists already; choose another output, or --overwrite")
    if path.exists() and not path.is_dir():
        raise PianoError(f"{path} is a file, expected a folder; not overwritten")
    if path.exists() and any(path.iterdir()) and not all((path / p).exists() for p in parts):
        raise PianoError(f"{path} is not a {what} (with {', '.join(parts)}); not overwritten")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write that becomes `path` at the end, unless something went wrong.

    Args:
      path: A file, there already or not, in a folder that exists.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, 0o644)  # mkstemp's files are for their owner alone
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


@contextlib.contextmanager
def whole_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder to fill that becomes `path` at the end, unless something went wrong.

    Args:
      path: A folder that is not there then, or is empty; its parent is made too.
      replace: Whether a folder that is there may be full. It stays as it was until the new one
        takes its place.

    Raises:
      PianoError: The folder cannot be made there.
    """
    for place in (path, path.parent):
        require_room(place)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    old = partial / _REPLACED
    try:
        yield partial
        partial.chmod(0o755)  # mkdtemp's folders are for their owner alone
        if replace and path.exists():
            path.rename(old)
        partial.rename(path)
    except BaseException:
        if old.exists():
            old.rename(path)
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(path / _REPLACED, ignore_errors=True)
