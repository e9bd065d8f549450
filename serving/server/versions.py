"""The versions of a model: found in its folder, loaded beside each other, swapped and drained.

The highest version is served. A newer one is loaded and warmed up while the old one answers; then
new calls go to it at once, and the old one is closed after its last call. A version that cannot be
loaded is refused, and tried again only when its files change; the best of the others goes on. What
may have failed for the moment alone, as for want of memory, is tried again a few times before. The
one that is served is loaded anew when its files change: it may have been half copied at the start.
One that was removed goes on for as long as none of those that are left can be loaded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import gc
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import grpc
import tensorflow as tf
from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus

from serving.server import memory
from serving.server.errors import ServingError
from serving.server.servable import Servable

# The version travels as an int64, which holds any number of 18 digits.
_VERSION = re.compile(r"[0-9]{1,18}")

# How often a load that failed for the moment is tried again, one look after the other: as often as
# the real server tries any.
_MORE_TRIES = 5
# What the next look may find mended, the version being what it is.
_MOMENTARY_ERRNOS = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ESTALE,
    errno.ETIMEDOUT,
}
_MOMENTARY = (MemoryError, tf.errors.ResourceExhaustedError, tf.errors.UnavailableError)

# What is in a folder: each file's path, size and time of change.
Fingerprint = tuple[tuple[str, int, int], ...]

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class VersionState:
    """What became of one version.

    Attributes:
      version: Its number.
      state: Of `ModelVersionStatus`: LOADING, AVAILABLE, UNLOADING or END.
      error: Why it was refused; empty if it was not.
    """

    version: int
    state: int
    error: str = ""

    def message(self) -> ModelVersionStatus:
        """As GetModelStatus tells it."""
        found = ModelVersionStatus(version=self.version, state=self.state)
        found.status.SetInParent()
        if self.error:
            # The real server's code for what it does not know better.
            found.status.error_code = grpc.StatusCode.UNKNOWN.value[0]
            found.status.error_message = self.error
        return found


@dataclasses.dataclass(frozen=True)
class _Refused:
    """A version that could not be loaded.

    Attributes:
      files: What was in its folder.
      tries_left: How often it is tried again though they have not changed.
    """

    files: Fingerprint
    tries_left: int


@dataclasses.dataclass(eq=False)
class _Loaded:
    """A version in memory with the calls that are in it."""

    servable: Servable
    files: Fingerprint
    calls: int = 0


class Versions:
    """Keeps the best version of a folder ready; safe to use from several threads.

    Args:
      model_dir: The folder that versions are pushed to, as `<model_dir>/<integer version>/`.
      load: Loads and warms up a version; raises `ServingError` if it cannot be served.
      observe: Told of each change of a version's state, once it has happened; of the version that
        is served also, as AVAILABLE with an error, that what its files are now was refused.
    """

    def __init__(
        self,
        model_dir: str | Path,
        load: Callable[[int, Path], Servable],
        observe: Callable[[VersionState], None] = lambda state: None,
    ) -> None:
        self._folder = Path(model_dir)
        self._load = load
        self._observe = observe
        self._changed = threading.Condition()
        # One look at a time; calls are answered meanwhile.
        self._looking = threading.Lock()
        self._current: _Loaded | None = None
        self._leaving: list[_Loaded] = []
        self._states: dict[int, VersionState] = {}
        self._seen: dict[int, Fingerprint] = {}
        self._refused: dict[int, _Refused] = {}
        # What was removed and goes on, as far as it has been told.
        self._kept: int | None = None
        self._stopped = threading.Event()
        self._watcher: threading.Thread | None = None

    @property
    def current(self) -> int | None:
        """The version that new calls go to."""
        with self._changed:
            return self._current.servable.version if self._current else None

    def states(self) -> list[VersionState]:
        """Every version seen, highest first; those that ended are remembered."""
        with self._changed:
            return [self._states[version] for version in sorted(self._states, reverse=True)]

    @contextlib.contextmanager
    def lease(self, version: int | None = None) -> Iterator[Servable | None]:
        """Keeps a version from being closed while a call is in it.

        Args:
          version: Which; by default the one that is served.

        Yields:
          The version, or None if it is not there to be called.
        """
        with self._changed:
            loaded = self._current
            if loaded is not None and version not in (None, loaded.servable.version):
                loaded = None
            if loaded is not None:
                loaded.calls += 1
        try:
            yield loaded.servable if loaded else None
        finally:
            if loaded is not None:
                with self._changed:
                    loaded.calls -= 1
                    if not loaded.calls:
                        self._changed.notify_all()

    def open(self) -> None:
        """Looks for the first time.

        Raises:
          ServingError: There is no version that can be served.
        """
        if not self._folder.is_dir():
            raise ServingError(f"the model folder {self._folder} does not exist")
        if not self._found():
            raise ServingError(
                f"the model folder {self._folder} holds no version, that is no folder named by an "
                "integer"
            )
        self.refresh(settled=False)
        if self.current is None:
            refused = [state.error for state in self.states() if state.error]
            unread = f"the model folder {self._folder} cannot be read"
            raise ServingError("; ".join(refused) or unread)

    def watch(self, seconds: float) -> None:
        """Looks again and again, on a thread of its own.

        Args:
          seconds: Between two looks.
        """
        self._watcher = threading.Thread(
            target=self._watch, args=(seconds,), name="versions", daemon=True
        )
        self._watcher.start()

    def refresh(self, settled: bool = True) -> None:
        """Looks at the folder once and does what is to be done.

        Args:
          settled: Whether to load a version only if its files are as they were at the last look, so
            that one which is being copied is left in peace.
        """
        with self._looking:
            try:
                self._look(settled)
            except OSError as error:
                # A folder that cannot be read for a moment is no reason to stop serving.
                _log.warning("the model folder %s cannot be read: %s", self._folder, error.strerror)
            self._reap()

    def wait_until(self, holds: Callable[[], bool], timeout_s: float) -> bool:
        """Waits for something to become true of the versions.

        Returns:
          Whether it did in time.
        """
        with self._changed:
            return self._changed.wait_for(holds, timeout_s)

    def close(self, seconds: float) -> None:
        """Ends watching and closes every version.

        Args:
          seconds: To wait for calls that are in a version, and for one that is being loaded. What
            is run after that ends with an error.
        """
        ends = time.monotonic() + seconds
        with self._changed:
            self._stopped.set()
        if self._watcher is not None:
            self._watcher.join(max(0.0, ends - time.monotonic()))
        self._replace(None)
        with self._changed:
            self._changed.wait_for(
                lambda: not any(one.calls for one in self._leaving),
                max(0.0, ends - time.monotonic()),
            )
        self._reap(all_of_them=True)

    def _watch(self, seconds: float) -> None:
        while not self._stopped.wait(seconds):
            try:
                self.refresh()
            except Exception:
                # Whatever is wrong with the folder now, the next look may find it mended.
                _log.exception("the model folder %s could not be looked at", self._folder)

    def _found(self) -> dict[int, Path]:
        found = [
            child
            for child in self._folder.iterdir()
            if _VERSION.fullmatch(child.name) and child.is_dir()
        ]
        # Of `5` and `05`, which are the same version, the one without zeros is taken.
        found.sort(key=lambda child: (-len(child.name), child.name))
        return {int(child.name): child for child in found}

    def _look(self, settled: bool) -> None:
        found = self._found()
        for gone in [version for version in self._refused if version not in found]:
            del self._refused[gone]
        seen: dict[int, Fingerprint] = {}
        for version in sorted(found, reverse=True):
            files = _fingerprint(found[version])
            seen[version] = files
            served = version == self.current
            if served and files == self._served_files():
                break
            stands_still = not settled or self._seen.get(version) == files
            is_new = stands_still and self._tries_left(version, files) > 0
            # Of the one that is served, what was loaded goes on if what is there now is refused.
            if (is_new and self._try(version, found[version], files)) or served:
                break
        self._seen = seen
        if not found and self.current is not None:
            _log.warning(
                "the model folder %s was emptied: nothing is served in place of version %d",
                self._folder,
                self.current,
            )
            self._replace(None)
        self._tell_of_kept(found)

    def _tell_of_kept(self, found: Mapping[int, Path]) -> None:
        """Says once that what was removed goes on, since nothing that is left can be loaded."""
        current = self.current
        if current is None or current in found:
            self._kept = None
        elif current != self._kept and self._refused.keys() >= found.keys():
            self._kept = current
            _log.warning(
                "version %d was removed from %s and is served still: of what is left, version %s "
                "cannot be loaded",
                current,
                self._folder,
                ", ".join(map(str, sorted(found, reverse=True))),
            )

    def _served_files(self) -> Fingerprint | None:
        """What was in the folder of the version that is served, when it was loaded."""
        with self._changed:
            return self._current.files if self._current else None

    def _try(self, version: int, folder: Path, files: Fingerprint) -> bool:
        """Loads a version and serves it, or refuses it."""
        before = self.current
        again = version == before
        _log.info("loading version %d of %s%s", version, self._folder, " anew" if again else "")
        if not again:
            self._note(VersionState(version, ModelVersionStatus.LOADING))
        try:
            servable = self._loaded(version, folder, files)
        except Exception as error:
            expected = isinstance(error, ServingError)
            reason = str(error) if expected else f"{folder}: {type(error).__name__}: {error}"
            left = self._tries_left(version, files) - 1 if _is_momentary(error) else 0
            if left:
                _log.warning(
                    "version %d cannot be loaded now, and is tried again, at most %d times: %s",
                    version,
                    left,
                    reason,
                )
            else:
                _log.error("version %d is refused: %s", version, reason, exc_info=not expected)
            self._refused[version] = _Refused(files, left)
            if again:
                self._observe(VersionState(version, ModelVersionStatus.AVAILABLE, reason))
            else:
                self._note(VersionState(version, ModelVersionStatus.END, reason))
            return False
        self._refused.pop(version, None)
        with self._changed:
            stopped = self._stopped.is_set()
            if not stopped:
                self._replace(_Loaded(servable, files))
        if stopped:
            servable.close()
            return False
        if before is not None and version < before:
            _log.info("gone back to version %d from %d, which was removed", version, before)
        else:
            changed = ", its files having changed" if again else ""
            _log.info("version %d is served%s", version, changed)
        return True

    def _tries_left(self, version: int, files: Fingerprint) -> int:
        """How often a version may be tried, its files being these."""
        refused = self._refused.get(version)
        if refused is None or refused.files != files:
            return 1 + _MORE_TRIES
        return refused.tries_left

    def _loaded(self, version: int, folder: Path, files: Fingerprint) -> Servable:
        """Loads a version whose files stay as they are meanwhile."""
        servable = self._load(version, folder)
        try:
            if _fingerprint(folder) != files:
                raise ServingError(f"the version folder {folder} changed while it was loaded")
        except Exception:
            servable.close()
            raise
        return servable

    def _replace(self, new: _Loaded | None) -> None:
        """Sends new calls to a version, and the old one away."""
        changes = []
        with self._changed:
            old, self._current = self._current, new
            if new is not None:
                changes.append(VersionState(new.servable.version, ModelVersionStatus.AVAILABLE))
            if old is not None:
                self._leaving.append(old)
                if old.servable.version != self.current:
                    changes.append(VersionState(old.servable.version, ModelVersionStatus.UNLOADING))
            self._note(*changes)

    def _reap(self, all_of_them: bool = False) -> None:
        """Closes the versions that no call is in any more, or all that are to go."""
        with self._changed:
            done = [one for one in self._leaving if all_of_them or not one.calls]
            self._leaving = [one for one in self._leaving if one not in done]
        for one in done:
            if one.calls:
                _log.warning("version %d is closed under its calls", one.servable.version)
            one.servable.close()
            version = one.servable.version
            # The same version may have been loaded anew.
            if version != self.current:
                self._note(VersionState(version, ModelVersionStatus.END))
            _log.info("version %d is closed", version)
        if done:
            # A graph refers to itself, so that its memory would stay for as long as Python likes.
            del done, one
            gc.collect()
            memory.give_back()

    def _note(self, *changes: VersionState) -> None:
        with self._changed:
            for state in changes:
                self._states[state.version] = state
                self._observe(state)
            self._changed.notify_all()


def _fingerprint(folder: Path) -> Fingerprint:
    """What is in a version's folder now.

    Raises:
      OSError: That cannot be told at the moment.
    """

    def fail(error: OSError) -> None:
        if _is_momentary(error):
            raise error

    files = []
    for place, _, names in os.walk(folder, onerror=fail):
        for name in names:
            path = os.path.join(place, name)
            # A file may go while the folder is being read; then it is not in it.
            with contextlib.suppress(OSError):
                status = os.stat(path)
                files.append((os.path.relpath(path, folder), status.st_size, status.st_mtime_ns))
    return tuple(sorted(files))


def _is_momentary(error: BaseException | None) -> bool:
    """Whether a failure, or what it comes from, says nothing of the version."""
    while error is not None:
        if isinstance(error, _MOMENTARY):
            return True
        if isinstance(error, OSError) and error.errno in _MOMENTARY_ERRNOS:
            return True
        error = error.__cause__
    return False
