"""A server ends in time and answers probes, whatever its callers do."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import adding_model
import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

from serving.server import BatchingOptions, Limits, ModelServer, ServerOptions
from serving.server.batching import Batches

PATIENCE_S = 120.0
NO_PROXY = [("grpc.enable_http_proxy", 0)]


class EndlessModel(tf.Module):
    """Never answers."""

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.string, name="item_id")])
    def rerank(self, item_id: tf.Tensor) -> dict[str, tf.Tensor]:
        turns = tf.while_loop(
            lambda turn: turn >= 0, lambda turn: [turn % 7 + 1], [tf.size(item_id)]
        )
        return {"score": tf.fill(tf.shape(item_id), turns[0])}


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("endless")
    model = EndlessModel()
    tf.saved_model.save(model, str(folder / "1"), signatures={"serving_default": model.rerank})
    # A warm-up of nothing, or it would never be loaded.
    (folder / "1" / "assets.extra").mkdir()
    (folder / "1" / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"")
    return folder


@pytest.mark.parametrize("batching", [None, BatchingOptions()], ids=["single", "batch"])
def test_run_that_never_ends_is_broken_off(
    endless: Path, batching: BatchingOptions | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ServerOptions(poll_s=0, batching=batching, grace_s=0.1)
    server = ModelServer(endless, port=0, options=options)
    begun = threading.Event()
    timed = server._metrics.run

    @contextlib.contextmanager
    def run(lists: int | None) -> Iterator[None]:
        with timed(lists):
            begun.set()
            yield

    monkeypatch.setattr(server._metrics, "run", run)
    server.start()
    request = adding_model.request({"item_id": np.array([["a", "b"]], object)})
    with grpc.insecure_channel(server.address, NO_PROXY) as channel:
        call = PredictionServiceStub(channel).Predict.future(request, timeout=PATIENCE_S)
        assert begun.wait(PATIENCE_S)
        stop = threading.Thread(target=server.stop, daemon=True)
        stop.start()
        stop.join(PATIENCE_S / 2)
        assert not stop.is_alive()
        call.exception()
        assert call.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    assert server.versions.states()[0].version == 1


def test_batch_that_is_broken_off_is_unavailable_to_each_of_its_callers(
    endless: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not halved, as one with a request at fault is: there is no model to run a half."""
    # Only both together make a batch that is due.
    batching = BatchingOptions(most_lists=2, timeout_s=PATIENCE_S, threads=1)
    server = ModelServer(
        endless, port=0, options=ServerOptions(poll_s=0, batching=batching, grace_s=0.1)
    )
    begun = threading.Event()
    timed = server._metrics.run
    lists_of_runs: list[int | None] = []
    statuses: list[str] = []

    @contextlib.contextmanager
    def run(lists: int | None) -> Iterator[None]:
        lists_of_runs.append(lists)
        with timed(lists):
            begun.set()
            yield

    def count(model_name: str, status: str, entry: str, seconds: float) -> None:
        statuses.append(status)

    monkeypatch.setattr(server._metrics, "run", run)
    monkeypatch.setattr(server._metrics, "request", count)
    server.start()
    request = adding_model.request({"item_id": np.array([["a", "b"]], object)})
    with grpc.insecure_channel(server.address, NO_PROXY) as channel:
        predict = PredictionServiceStub(channel).Predict
        calls = [predict.future(request, timeout=PATIENCE_S) for _ in range(2)]
        assert begun.wait(PATIENCE_S)
        server.stop()
        for call in calls:
            call.exception()
    assert (lists_of_runs, statuses) == ([2], ["UNAVAILABLE"] * 2)
    assert "a request failed" not in caplog.text


def test_request_that_waits_for_others_is_answered_before_the_end(tmp_path: Path) -> None:
    adding_model.push(tmp_path, 7)
    batching = BatchingOptions(timeout_s=1000 * PATIENCE_S)
    options = ServerOptions(poll_s=0, batching=batching, grace_s=PATIENCE_S)
    server = ModelServer(tmp_path, port=0, options=options)
    server.start()
    batches = server._runner
    assert isinstance(batches, Batches)
    given = adding_model.inputs()
    with grpc.insecure_channel(server.address, NO_PROXY) as channel:
        predict = PredictionServiceStub(channel).Predict
        call = predict.future(adding_model.request(given), timeout=PATIENCE_S)
        assert batches.wait_until(lambda: batches.waiting == 1, PATIENCE_S)
        server.stop()
        answer = adding_model.arrays(call.result())
    assert adding_model.same(answer, adding_model.expected(given, 7))


def test_streams_that_never_end_do_not_starve_probes(tmp_path: Path) -> None:
    adding_model.push(tmp_path, 7)
    options = ServerOptions(poll_s=0, limits=Limits(concurrency=1), grace_s=0.1)
    ended = threading.Event()

    def nothing() -> Iterator[Any]:
        ended.wait(PATIENCE_S)
        yield from ()

    with (
        ModelServer(tmp_path, port=0, options=options) as server,
        grpc.insecure_channel(server.address, NO_PROXY) as channel,
    ):
        reflect = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        half_sent = channel.stream_unary("/tensorflow.serving.PredictionService/Predict")
        calls = [reflect(nothing(), timeout=PATIENCE_S) for _ in range(20)]
        calls += [half_sent.future(nothing(), timeout=PATIENCE_S) for _ in range(20)]
        request = health_pb2.HealthCheckRequest()
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=PATIENCE_S / 4)
        finally:
            for call in calls:
                call.cancel()
            ended.set()
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
