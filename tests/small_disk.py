"""A disk small enough to be filled, for real."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

_MOUNT = 'mount -t tmpfs -o size="$1"k tmpfs "$0" && echo mounted && exec cat'
_THERE = 'cd "$0" && exec "$@"'


class SmallDisk:
    """A disk in memory over a folder, for the commands that are run on it.

    Nobody else sees it, and it goes with the `with` block. The test is skipped where a user may not
    mount anything.

    Args:
      folder: What it covers, and is full of to begin with.
      room_kb: Its room beside that.
    """

    def __init__(self, folder: Path, room_kb: int) -> None:
        self._folder = folder
        self._room_kb = room_kb

    def __enter__(self) -> SmallDisk:
        if shutil.which("unshare") is None or shutil.which("nsenter") is None:
            pytest.skip("there is no unshare, with which to mount a small disk")
        copy = self._folder.with_name(f"{self._folder.name}-copy")
        shutil.copytree(self._folder, copy)
        self._holder = subprocess.Popen(
            ["unshare", "--map-root-user", "--mount", "sh", "-c", _MOUNT, self._folder, "1000000"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if self._holder.stdout.readline() != "mounted\n":
            shutil.rmtree(copy)
            _, told = self._holder.communicate()
            pytest.skip(f"a small disk cannot be mounted here: {told.strip()}")
        done = self.run("cp", "-a", f"{copy}/.", self._folder)
        assert done.returncode == 0, done.stderr
        shutil.rmtree(copy)
        used = self.run("df", "--output=used", "-k", self._folder).stdout.split()[-1]
        self._resize(int(used) + self._room_kb)
        return self

    def __exit__(self, *error: object) -> None:
        self._holder.communicate()  # it ends with its input

    def run(
        self, *command: str | Path, more: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command to which the folder is the disk.

        Args:
          *command: And its arguments.
          more: Variables of its environment.
        """
        inside = ["nsenter", "--user", "--mount", "--preserve-credentials"]
        there = ["sh", "-c", _THERE, os.getcwd(), *map(str, command)]
        return subprocess.run(
            [*inside, f"--target={self._holder.pid}", *there],
            env={**os.environ, **(more or {})},
            capture_output=True,
            text=True,
        )

    def make_room(self) -> None:
        """Lets it grow to a gigabyte."""
        self._resize(1_000_000)

    def _resize(self, size_kb: int) -> None:
        done = self.run("mount", "-o", f"remount,size={size_kb}k", self._folder)
        assert done.returncode == 0, done.stderr
