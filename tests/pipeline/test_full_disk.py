"""A full disk is named, whichever library was writing. Whole runs: `test_run_faults.py`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_disk import SmallDisk

from piano_tf import cli
from piano_tf.disk import full_disk
from piano_tf.errors import PianoError

# They say which file it was that they could not write.
NAMED = {"copying", "tensorflow", "checkpoint", "saved_model"}
NAMELESS = {"python", "numpy", "parquet", "beam", "metadata"}


def test_a_full_disk_is_named_whatever_fills_it(tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    small.mkdir()
    large.mkdir()
    (large / "file").write_bytes(bytes(2_000_000))
    with SmallDisk(small, room_kb=1000) as disk:
        done = disk.run(
            sys.executable, Path(__file__).with_name("fill_disk.py"), small, large,
            more={"TF_CPP_MIN_LOG_LEVEL": "3"},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said.keys() == NAMED | NAMELESS
    disk_named = f"no space left on the disk of {small}"
    for name in NAMELESS:
        assert said[name] == disk_named, name
    for name in NAMED:
        assert said[name].startswith(f"{disk_named}, to write {name}/"), said[name]


@pytest.mark.parametrize(
    "error",
    [OSError(2, "No such file or directory", "/a"), ValueError("expected a number"), KeyError()],
    ids=lambda error: type(error).__name__,
)
def test_what_is_no_full_disk_is_none(error: Exception) -> None:
    assert full_disk(error, [Path("/")]) is None


def test_it_is_found_behind_what_it_caused() -> None:
    try:
        try:
            raise OSError(28, "No space left on device", "/no-such-folder/file")
        except OSError:
            raise KeyError("recording it failed too")  # noqa: B904
    except KeyError as error:
        found = full_disk(error, [])
    assert found == "no space left on the disk of /, to write no-such-folder/file"


def test_what_the_tfx_command_says_of_it_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It copies the pipeline's file into its home before any stage runs."""
    said = (
        f"Traceback\nOSError: [Errno 28] No space left on device: '{tmp_path}/from' -> '/tfx/to'\n"
    )
    monkeypatch.setattr(
        subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1, stderr=said)
    )
    with pytest.raises(PianoError) as error:
        cli._tfx(["pipeline", "create"], {}, tmp_path, stdout=None)
    assert (
        str(error.value) == "tfx pipeline create: no space left on the disk of /, to write tfx/to"
    )
