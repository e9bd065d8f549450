"""A full disk is named, whichever library was writing. Whole runs: `test_run_faults.py`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_disk import SmallDisk

from piano_tf import cli
from piano_tf.disk import full_disk
from piano_tf.errors import ConfigError, LogError, PianoError
from tfx_pipeline import local_runner
from tfx_pipeline.configs import PipelineConfig, environment

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
        # Where a folder is made beside its place, that place's own folder is what there is to name.
        assert said[name].startswith(f"{disk_named}, to write {name}"), said[name]


def test_a_disk_that_a_push_fills_leaves_what_is_served(tmp_path: Path) -> None:
    """There is room for the record of a model, and not for the model that is served."""
    home = tmp_path / "home"
    model, pushed = home / "model", home / "pushed"
    (model / "Format-Serving").mkdir(parents=True)
    (model / "Format-Serving" / "saved_model.pb").write_bytes(bytes(2_000_000))
    pushed.mkdir()
    command = (sys.executable, Path(__file__).with_name("push_alone.py"), model, pushed)
    with SmallDisk(home, room_kb=3000) as disk:
        done = disk.run(*command)
        assert done.returncode == 1
        assert "No space left on device" in done.stderr
        assert disk.run("ls", "-A", pushed).stdout == ""
        disk.make_room()
        done = disk.run(*command)
        assert done.returncode == 0, done.stderr
        assert len(disk.run("ls", "-A", pushed).stdout.splitlines()) == 1


def test_a_disk_that_examples_fill_stops_the_run_which_goes_on_with_room(
    tiny, tmp_path: Path
) -> None:
    """The first stage that writes much; what is served stays."""
    draws = np.random.default_rng(0)
    rows = [tiny.row(number, context_device=draws.bytes(1000).hex()) for number in range(2000)]
    home, log = tmp_path / "home", tiny.write(tmp_path / "log", rows)
    (home / "pushed" / "1").mkdir(parents=True)
    (home / "pushed" / "1" / "saved_model.pb").write_text("served")
    command = (sys.executable, Path(__file__).with_name("run_until.py"), "ExampleGen")
    asked = environment(logs=log, home=home)
    with SmallDisk(home, room_kb=1000) as disk:
        done = disk.run(*command, more=asked)
        assert done.returncode == 1, done.stdout + done.stderr
        (sentence,) = done.stderr.splitlines()
        assert sentence.startswith(f"error: ExampleGen: no space left on the disk of {home}")
        assert sentence.endswith("; the same command goes on once there is room")
        assert "✗ ExampleGen" in done.stdout

        disk.make_room()
        done = disk.run(*command, more=asked)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "✓ ExampleGen" in done.stdout
        assert disk.run("find", home / "pushed", "-type", "f").stdout == (
            f"{home}/pushed/1/saved_model.pb\n"
        )
        assert disk.run("cat", home / "pushed" / "1" / "saved_model.pb").stdout == "served"


@pytest.mark.parametrize(
    "error",
    [
        OSError(2, "No such file or directory", "/a"),
        ValueError("expected a number"),
        KeyError(),
        LogError("got 'disk is full' a second time", column="list_id", row=3),
        ConfigError("training.seed: got '/a; No space left on device', expected a number"),
    ],
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


def test_a_run_says_what_is_wrong_with_a_log_that_speaks_of_full_disks(tmp_path: Path) -> None:
    config = PipelineConfig(logs=tmp_path / "logs", home=tmp_path)
    error = LogError("got 'disk is full' a second time", column="list_id", row=3)
    assert local_runner._reason(error, config) == str(error)
    error.__cause__ = OSError(28, "No space left on device", "/no-such-folder/file")
    assert local_runner._reason(error, config).startswith("no space left on the disk of /, to ")


@pytest.mark.parametrize("written", ["/no-such-folder/b/c", "/no-such-folder/b c"])
def test_of_what_is_renamed_the_new_name_is_named(written: str) -> None:
    """The rest of it is TensorFlow's."""
    error = ValueError(f"Failed to rename: /disk/a to: {written}; No space left on device")
    found = full_disk(error, [])
    assert found == f"no space left on the disk of /, to write {written[1:]}"


FULL = "OSError: [Errno 28] No space left on device: '/from' -> '/tfx/to'\n"
TRACEBACK = "Traceback (most recent call last):\n  File 'a.py', line 1\n"
NEXT = "\nDuring handling of the above exception, another exception occurred:\n\n"
TOLD = "no space left on the disk of /, to write tfx/to"
PRINTED = {
    "a full disk": (TRACEBACK + FULL, TOLD),
    "a full disk, and what came of it": (f"{TRACEBACK}{FULL}{NEXT}{TRACEBACK}KeyError: 1\n", TOLD),
    "after a warning": (f"a warning\n{TRACEBACK}{FULL}", TOLD),
    "a warning alone": (f"WARNING: {FULL}Error: no pipeline\n", "Error: no pipeline"),
    "a warning, then another error": (f"WARNING: {FULL}{TRACEBACK}KeyError: 1\n", "KeyError: 1"),
    "what was overcome": (f"{TRACEBACK}{FULL}again\n{TRACEBACK}KeyError: 1\n", "KeyError: 1"),
    "nothing": ("", "it gave no reason"),
}  # fmt: skip


@pytest.mark.parametrize(("printed", "told"), PRINTED.values(), ids=PRINTED)
def test_what_the_tfx_command_says_of_it_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, printed: str, told: str
) -> None:
    """It copies the pipeline's file into its home before any stage runs."""
    monkeypatch.setattr(
        subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1, stderr=printed)
    )
    with pytest.raises(PianoError) as error:
        cli._tfx(["pipeline", "create"], {}, tmp_path, stdout=None)
    assert str(error.value) == f"tfx pipeline create: {told}"
