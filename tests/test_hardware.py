"""Training on several devices and by several workers comes to the same as on one."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from tiny_training import Found, clusters, finished, start

from piano_tf import hardware
from piano_tf.cluster import workers
from piano_tf.errors import ConfigError

Worker = tuple["subprocess.Popen[str]", Path]


@pytest.fixture(scope="module")
def alone(log_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Found:
    output = tmp_path_factory.mktemp("alone") / "found.npz"
    return finished(start(log_dir, output), output)


def assert_same(found: Found, expected: Found, *, replicas: int, since: int = 0) -> None:
    """Losses of every step since one, validation, weights and the chosen score."""
    assert found["replicas"] == replicas and expected["replicas"] == 1
    # Three epochs of three batches of 6 lists, and one of 2.
    assert len(found["steps"]) == 3 * 4 - since
    expected = {**expected, "steps": expected["steps"][since:]}
    for name in sorted(expected.keys() - {"replicas", "chief"}):
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-4, atol=2e-5, err_msg=name)


def test_three_devices_learn_what_one_does(alone, log_dir, tmp_path: Path) -> None:
    """With a last batch of two lists, of which one device gets none."""
    output = tmp_path / "found.npz"
    found = finished(start(log_dir, output, "--cpus", "3"), output)
    assert_same(found, alone, replicas=3)


def test_two_devices_train_piano_as_one_does(log_dir, tmp_path: Path) -> None:
    """Its losses and figures; weights without a gradient but rounding go where Adam takes them."""
    alone, found = (
        finished(start(log_dir, output, "--model", "piano", "--cpus", f"{count}"), output)
        for count, output in ((1, tmp_path / "one.npz"), (2, tmp_path / "two.npz"))
    )
    assert found["replicas"] == 2
    for name in ("steps", *(name for name in alone if name.startswith("history "))):
        np.testing.assert_allclose(found[name], alone[name], rtol=2e-3, atol=1e-4, err_msg=name)


def two_workers(log_dir: Path, folder: Path, *options: str | Path) -> list[Worker]:
    """The chief and the other, with what each will write."""
    outputs = [folder / f"{index}.npz" for index in range(2)]
    return [
        (start(log_dir, output, *options, cluster=cluster), output)
        for output, cluster in zip(outputs, clusters(2), strict=True)
    ]


def test_two_workers_learn_what_one_does(alone, log_dir, tmp_path: Path) -> None:
    both = [finished(*worker) for worker in two_workers(log_dir, tmp_path)]
    assert [bool(found["chief"]) for found in both] == [True, False]
    for found in both:
        assert_same(found, alone, replicas=2)


def test_two_workers_that_are_killed_go_on_from_what_the_chief_wrote(
    log_dir, tmp_path: Path
) -> None:
    """In the middle of an epoch, to where one process comes that is not killed."""
    output = tmp_path / "alone.npz"
    alone = finished(start(log_dir, output, "--checkpoints", tmp_path / "its"), output)
    checkpoints = ("--checkpoints", tmp_path / "checkpoints")
    (chief, _), (other, _) = two_workers(log_dir, tmp_path, *checkpoints, "--kill-at", "8")
    said, _ = chief.communicate()
    assert chief.returncode == -signal.SIGKILL, said
    other.kill()  # it may wait for the chief for as long as it lives
    other.communicate()
    # The newest, after step 6; every third step has one.
    newest = max((tmp_path / "checkpoints").iterdir())
    assert newest.name == "00001-000000002"
    both = [finished(*worker) for worker in two_workers(log_dir, tmp_path, *checkpoints)]
    for found in both:
        assert_same(found, alone, replicas=2, since=6)
    assert not (tmp_path / "checkpoints").exists()


def test_several_gpus_are_trained_on_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are none here: what TensorFlow says of them is made up."""
    mirrored = mock.Mock()
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", mirrored)
    for count, together in ((0, False), (1, False), (2, True)):
        gpus = [f"GPU:{number}" for number in range(count)]
        monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind, gpus=gpus: gpus)
        assert (hardware.choose_strategy.__wrapped__() is mirrored.return_value) == together


def test_steps_of_several_replicas_are_not_compiled() -> None:
    alone, two = (mock.Mock(num_replicas_in_sync=count) for count in (1, 2))
    hardware.require_compilable(alone)
    with pytest.raises(ConfigError, match=r"^training\.xla: got true with 2 replicas"):
        hardware.require_compilable(two)


@pytest.mark.parametrize("text", ["{", "[]", '{"cluster": {"worker": 3}}'])
def test_a_cluster_that_is_none_is_one_sentence(text: str) -> None:
    with pytest.raises(ConfigError, match="environment variable TF_CONFIG: got "):
        workers({"TF_CONFIG": text})
