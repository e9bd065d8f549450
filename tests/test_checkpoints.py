"""Training that is killed and started again comes to what it would have come to."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from tiny_training import finished, start

from piano_tf.checkpoints import Checkpoints, fingerprint
from piano_tf.config import Config, TrainingConfig
from piano_tf.data.encoding import Encoder
from piano_tf.errors import PianoError

STEPS = 3 * 4  # three epochs of four batches, with a checkpoint after every third
KILLED_AT = 7


@pytest.fixture(scope="module")
def killed(log_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of a training that died in the middle of its second epoch."""
    folder = tmp_path_factory.mktemp("killed")
    process = start(
        *(log_dir, folder / "never.npz", "--eagerly", "--dropout", "0.3"),
        *("--checkpoints", folder / "checkpoints", "--kill-at", str(KILLED_AT)),
    )
    said, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, said
    assert not (folder / "never.npz").exists()
    return folder / "checkpoints"


def test_checkpoints_are_whole_and_few(killed: Path) -> None:
    newest = sorted(killed.iterdir())
    assert [path.name for path in newest] == ["00000-000000003", "00001-000000002"]
    assert json.loads((newest[-1] / "state.json").read_text())["position"] == [1, 2]


def test_another_training_does_not_go_on_from_them(killed: Path, log_dir, tmp_path: Path) -> None:
    process = start(
        *(log_dir, tmp_path / "never.npz", "--eagerly", "--dropout", "0.3", "--seed", "1"),
        *("--checkpoints", killed),
    )
    said, _ = process.communicate()
    assert process.returncode == 1
    assert said.splitlines()[-1] == (
        f"piano_tf.errors.PianoError: {killed}: 00001-000000002 is not of this training, but of "
        "another configuration or log; expected an empty folder, or this training's"
    )
    assert len([*killed.iterdir()]) == 2


def test_a_killed_training_ends_as_if_it_had_not_been(killed: Path, log_dir, tmp_path) -> None:
    """Weights, what is known of every epoch, and the running loss of the epoch it died in."""
    straight, resumed = (
        finished(
            start(
                *(log_dir, tmp_path / f"{name}.npz", "--eagerly", "--dropout", "0.3"),
                *checkpoints,
            ),
            tmp_path / f"{name}.npz",
        )
        for name, checkpoints in (("straight", ()), ("resumed", ("--checkpoints", killed)))
    )
    assert len(straight["steps"]) == STEPS
    assert len(resumed["steps"]) == STEPS - 6
    np.testing.assert_array_equal(resumed.pop("steps"), straight.pop("steps")[6:])
    assert straight.keys() == resumed.keys()
    for name, expected in straight.items():
        np.testing.assert_array_equal(resumed[name], expected, err_msg=name)
    assert not killed.exists()


# --- whose they are ---


def test_a_fingerprint_is_of_configuration_and_data(encoder: Encoder, tmp_path: Path) -> None:
    def found(seed: int, text: str) -> str:
        (tmp_path / "data").write_text(text)
        config = Config(training=TrainingConfig(seed=seed))
        return fingerprint(config, encoder.inputs, [tmp_path / "data"])

    assert found(0, "lists") == found(0, "lists")
    assert found(0, "lists") != found(0, "list")
    assert found(0, "lists") != found(1, "lists")


@pytest.mark.parametrize("written", ["", "{}", "[]", '{"fingerprint": "another"}'])
def test_what_is_no_checkpoint_of_ours_is_left_alone(tmp_path: Path, written: str) -> None:
    place = tmp_path / "00000-000000001"
    place.mkdir()
    (place / "state.json").write_text(written)
    with pytest.raises(PianoError, match="is not of this training"):
        Checkpoints(tmp_path, "ours").newest()


def test_there_may_be_none(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "none", "ours").newest() is None
    assert Checkpoints(tmp_path, "ours").newest() is None
