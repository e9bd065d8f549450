"""The serving gate: what answers well passes, and whatever is wrong with a model is a reason."""

from __future__ import annotations

import dataclasses
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from piano_tf.config import Config, ModelConfig, ScoreConfig
from piano_tf.data.batches import dataset, raw_specs
from piano_tf.data.encoding import Encoder
from piano_tf.data.logs import read_spec
from piano_tf.export import ModelCard, ServingModule, export_model
from piano_tf.models import build
from serving.client import RerankedList, SearchList
from tfx_pipeline.configs import ServingLimits
from tfx_pipeline.gates.golden import faults, golden_requests, padding_faults
from tfx_pipeline.gates.server import stop
from tfx_pipeline.gates.serving import examine

LIMITS = ServingLimits(latency_ms=60_000, timed_requests=3, longest_list=40, startup_s=600)
ASKED = SearchList("so what", "ada", ["a", "b", "c"])
ANSWER = RerankedList(
    item_id=("a", "b", "c"),
    order=(1, 0, 2),
    score=(-1.0, -0.5, -2.0),
    click=(0.3, 0.6, 0.1),
    conversion=(0.1, 0.2, 0.1),
    list_click=0.7,
    list_conversion=0.3,
    model_version=1,
)


@pytest.fixture(scope="module")
def exported(
    log_dir: Path,
    encoder: Encoder,
    tiny_model: ModelConfig,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A model that was never trained."""
    model = build(encoder.inputs, tiny_model)
    batch, _ = next(iter(dataset(log_dir, "test", encoder, batch_size=4)))
    model(batch)  # builds it
    config = Config(model=tiny_model)
    module = ServingModule(model, encoder, encoder.features, ScoreConfig())
    card = ModelCard(inputs=encoder.inputs, config=config, score=ScoreConfig())
    return export_model(module, card, tmp_path_factory.mktemp("model") / "saved")


def test_a_sound_model_passes_in_the_real_server(log_dir: Path, exported: Path) -> None:
    verdict = examine(exported, golden_requests(log_dir, LIMITS.longest_list), LIMITS)
    assert verdict.reasons == ()
    assert verdict.passed
    assert verdict.requests == 5
    names = ["normal", "empty history", "unknown ids", "longest list", "one candidate"]
    assert [*verdict.p50_ms] == names
    assert min(verdict.p50_ms.values()) > 0


def test_a_model_that_is_slow_or_unsound_does_not(log_dir: Path, tmp_path: Path) -> None:
    """One that says NaN, and 0 where there is padding."""

    @tf.function
    def serving_default(**columns: tf.Tensor) -> dict[str, tf.Tensor]:
        items = tf.cast(columns["item_id"] != "", tf.float32)
        return {
            "score": items * float("nan"),
            "click": items / tf.cast(tf.shape(items)[1], tf.float32),
            "conversion": items * 0,
            "order": tf.zeros_like(items, tf.int32),
            "list_click": items[:, 0] + 1,
            "list_conversion": items[:, 0] * 0,
        }

    signature = serving_default.get_concrete_function(**raw_specs(read_spec(log_dir), labels=False))
    tf.saved_model.save(
        tf.Module(), str(tmp_path / "saved"), signatures={"serving_default": signature}
    )
    fast = LIMITS.model_copy(update={"latency_ms": 1e-6})
    reasons = examine(tmp_path / "saved", golden_requests(log_dir, 8), fast).reasons
    for expected in (
        "normal: score is not finite",
        "empty history: a probability is not between 0 and 1",
        "longest list: order is no permutation of 8 candidates",
        "padding changes click of a list of 1",
    ):
        assert expected in reasons
    slow = [one.split(": p50 is ")[0] for one in reasons if one.endswith("at most 1e-06 ms")]
    assert slow == ["normal", "empty history", "unknown ids", "longest list", "one candidate"]


def test_what_cannot_be_loaded_does_not(log_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_text("no model")
    verdict = examine(tmp_path, golden_requests(log_dir, 8), LIMITS)
    assert not verdict.passed
    assert verdict.p50_ms == {}
    (reason,) = verdict.reasons
    assert reason.startswith("the server did not start: the SavedModel in ")
    assert "cannot be loaded" in reason


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_the_server_of_a_gate_that_is_killed_ends(exported: Path) -> None:
    gate = (
        "import sys; from pathlib import Path; from tfx_pipeline.gates.server import served\n"
        "with served(Path(sys.argv[1]), 600) as address: print(address, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", gate, str(exported)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("127.0.0.1:")
        (server,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        ended = os.pidfd_open(int(server))
        process.kill()
    try:
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        assert poll.poll(60_000), "the server outlives the gate"
    finally:
        os.close(ended)


def test_a_server_that_does_not_end_when_told_to_is_killed() -> None:
    deaf = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('up', flush=True); signal.pause()"
    )
    process = subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    stop(process, within_s=0.1)
    assert process.returncode == -signal.SIGKILL


def test_the_golden_requests_are_what_they_are_called(log_dir: Path) -> None:
    asked = {golden.name: golden.asked for golden in golden_requests(log_dir, 40)}
    normal = asked["normal"]
    assert normal.history_item_id
    assert asked["empty history"].history_item_id == []
    assert asked["empty history"].features["history_item_artist"] == []
    assert asked["empty history"].item_id == normal.item_id
    unknown = asked["unknown ids"]
    assert unknown.query == unknown.features["user_country"] == "never seen"
    assert len(set(unknown.item_id)) == len(normal.item_id)
    assert unknown.history_action == normal.history_action
    assert unknown.initial_score == normal.initial_score
    for name, count in (("longest list", 40), ("one candidate", 1)):
        assert len(asked[name].item_id) == count
        assert len(asked[name].features["item_popularity"]) == count
        assert asked[name].history_item_id == normal.history_item_id


def test_a_good_answer_has_no_fault() -> None:
    assert list(faults(ASKED, ANSWER)) == []
    assert list(padding_faults([ANSWER], [ANSWER])) == []


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"score": (-1.0, -0.5)}, "score has shape (2,), expected (3,)"),
        ({"click": (0.3, float("nan"), 0.1)}, "click is not finite"),
        ({"list_click": 1.5}, "a probability is not between 0 and 1"),
        ({"conversion": (0.1, 0.7, 0.1)}, "p(conversion) exceeds p(click)"),
        ({"order": (1, 1, 2)}, "order is no permutation of 3 candidates"),
        ({"order": (0, 1, 2)}, "order does not follow the score"),
    ],
)
def test_what_is_wrong_with_an_answer_is_said(changed: dict, fault: str) -> None:
    assert fault in list(faults(ASKED, dataclasses.replace(ANSWER, **changed)))


def test_a_change_by_padding_is_said() -> None:
    other = dataclasses.replace(ANSWER, click=(0.3, 0.61, 0.1))
    assert list(padding_faults([ANSWER], [other])) == ["padding changes click of a list of 3"]
