"""Training on several devices and by several workers comes to the same as on one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_training import Found, finished, free_ports, start

from piano_tf import hardware
from piano_tf.errors import ConfigError


@pytest.fixture(scope="module")
def alone(log_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Found:
    output = tmp_path_factory.mktemp("alone") / "found.npz"
    return finished(start(log_dir, output), output)


def assert_same(found: Found, expected: Found, *, replicas: int) -> None:
    """Losses step by step, validation, weights and the chosen score."""
    assert found["replicas"] == replicas and expected["replicas"] == 1
    assert len(found["steps"]) == 3 * 4  # three epochs of three batches of 6 lists, and one of 2
    for name in sorted(expected.keys() - {"replicas", "chief"}):
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-4, atol=2e-5, err_msg=name)


def test_three_devices_learn_what_one_does(alone, log_dir, tmp_path: Path) -> None:
    """With a last batch of two lists, of which one device gets none."""
    output = tmp_path / "found.npz"
    found = finished(start(log_dir, output, "--cpus", "3"), output)
    assert_same(found, alone, replicas=3)


def test_two_workers_learn_what_one_does(alone, log_dir, tmp_path: Path) -> None:
    workers = [f"localhost:{port}" for port in free_ports(2)]
    outputs = [tmp_path / f"{index}.npz" for index in range(2)]
    processes = [
        start(
            log_dir,
            output,
            cluster={"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}},
        )
        for index, output in enumerate(outputs)
    ]
    both = [finished(*pair) for pair in zip(processes, outputs, strict=True)]
    assert [bool(found["chief"]) for found in both] == [True, False]
    for found in both:
        assert_same(found, alone, replicas=2)


@pytest.mark.parametrize("text", ["{", "[]", '{"cluster": {"worker": 3}}'])
def test_a_cluster_that_is_none_is_one_sentence(text: str) -> None:
    with pytest.raises(ConfigError, match="environment variable TF_CONFIG: got "):
        hardware._workers({"TF_CONFIG": text})
