"""The REST API, spoken to with nothing but HTTP and JSON."""

from __future__ import annotations

import base64
import contextlib
import gzip
import http.client
import itertools
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import adding_model
import grpc
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tensorflow_serving.apis.predict_pb2 import PredictResponse
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

from benchmarks.fuzz_rest import EXPECTED, HUNG_UP, RestFuzzer
from benchmarks.fuzz_server import fuzz
from serving.server import Limits, ModelServer, ServerOptions, ServingError, rest_json
from serving.server.call import Call
from serving.server.metrics import Metrics
from serving.server.rest import RestServer

PREDICT = "/v1/models/piano:predict"
PATIENCE_S = 120.0
Answer = tuple[int, Any]


@pytest.fixture(scope="module")
def server(model_dir: Path) -> Iterator[ModelServer]:
    options = ServerOptions(rest_port=0, limits=Limits(message_bytes=100_000))
    with ModelServer(model_dir, port=0, options=options) as server:
        yield server


@pytest.fixture(scope="module")
def adding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    folder = tmp_path_factory.mktemp("rest")
    adding_model.push(folder, 7)
    with ModelServer(folder, port=0, options=ServerOptions(rest_port=0)) as server:
        yield server


def ask(
    server: ModelServer, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, Any]:
    assert server.rest_address is not None
    connection = http.client.HTTPConnection(server.rest_address, timeout=PATIENCE_S)
    raw = body if isinstance(body, bytes | None) else json.dumps(body)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, raw, named)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    if response.headers.get_content_type() == "application/json":
        return response.status, json.loads(content)
    return response.status, content.decode()


def columns(given: dict[str, np.ndarray[Any, Any]]) -> dict[str, Any]:
    return {name: array.tolist() for name, array in given.items()}


def instances(given: dict[str, np.ndarray[Any, Any]]) -> list[dict[str, Any]]:
    found = columns(given)
    return [
        {name: values[row] for name, values in found.items()}
        for row in range(len(given["item_id"]))
    ]


def _nested(depth: int) -> Any:
    return [_nested(depth - 1)] if depth else "a"


class TestPredict:
    def test_columns(self, adding: ModelServer) -> None:
        given = adding_model.inputs(rows=2)
        code, answer = ask(adding, "POST", PREDICT, {"inputs": columns(given)})
        wanted = adding_model.expected(given, 7)
        assert code == 200
        assert answer["outputs"].keys() == wanted.keys()
        for name in ("score", "order", "list_click"):
            assert answer["outputs"][name] == wanted[name].tolist()
        assert answer["outputs"]["list_id"] == given["list_id"].tolist()

    def test_rows_of_a_named_version(self, adding: ModelServer) -> None:
        given = adding_model.inputs(rows=2)
        body = {"signature_name": "serving_default", "instances": instances(given)}
        code, answer = ask(adding, "POST", "/V1/Models/piano/Versions/7:Predict", body)
        assert code == 200
        wanted = adding_model.expected(given, 7)
        assert [row["order"] for row in answer["predictions"]] == wanted["order"].tolist()
        assert [row["list_id"] for row in answer["predictions"]] == given["list_id"].tolist()

    def test_one_input_may_go_without_its_name(self, server: ModelServer) -> None:
        path = base64.b64encode(b"/no/such/file").decode()
        for body in [
            {"inputs": {"b64": path}},
            {"inputs": "/no/such/file"},
            {"inputs": {"path": "/no/such/file"}},
        ]:
            code, answer = ask(server, "POST", PREDICT, {"signature_name": "read_lexicon", **body})
            assert code == 500
            assert "/no/such/file" in answer["error"]

    @pytest.mark.parametrize("depth", [1, 500, 900, 960, 980])
    def test_one_input_that_is_nested(self, server: ModelServer, depth: int) -> None:
        """What Python's reader of JSON still takes, its writer may not."""
        nested = b'{"a":' * depth + b"1" + b"}" * depth
        body = b'{"signature_name": "read_lexicon", "inputs": ' + nested + b"}"
        code, answer = ask(server, "POST", PREDICT, body)
        assert code == 400
        found = "input path holds an object, expected text", "JSON Parse error"
        assert answer["error"].startswith(found)

    def test_text_outputs_and_bytes_by_name(self, server: ModelServer, tmp_path: Path) -> None:
        (tmp_path / "lexicon").write_text("størst")
        body = {"signature_name": "read_lexicon", "inputs": str(tmp_path / "lexicon")}
        assert ask(server, "POST", PREDICT, body) == (200, {"outputs": "størst"})

    def test_gzip_body(self, adding: ModelServer) -> None:
        body = json.dumps({"inputs": columns(adding_model.inputs())}).encode()
        code, _ = ask(adding, "POST", PREDICT, gzip.compress(body), Content_Encoding="gzip")
        assert code == 200

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"item_id": None}, "input item_id is missing"),
            ({"item_id": [["a", "b", 3]]}, "input item_id holds 3, expected text"),
            ({"item_id": [["a", "b"], ["c"]]}, "input item_id holds lists of different lengths"),
            ({"item_id": [["a", ["b"]]]}, "input item_id holds lists of different depths"),
            ({"item_id": _nested(40)}, "input item_id holds lists nested deeper than 2, expected"),
            ({"timestamp": [1.0]}, "input timestamp holds 1.0, expected an integer of int64"),
            ({"timestamp": [2**63]}, "expected an integer of int64"),
            ({"initial_score": [[True, 1, 2]]}, "input initial_score holds true, expected a num"),
            ({"initial_score": [[1e99, 1, 2]]}, "input initial_score holds inf at [0, 0]"),
            ({"list_id": [{"b64": "?"}]}, "input list_id holds no base64"),
            ({"history_age": [[1.0]]}, "expected 1 as history_age has"),
        ],
        ids=lambda value: str(value)[:60],
    )
    def test_fault_of_an_input_is_named(
        self, adding: ModelServer, change: dict[str, Any], message: str
    ) -> None:
        given = {**columns(adding_model.inputs()), **change}
        body = {"inputs": {name: value for name, value in given.items() if value is not None}}
        code, answer = ask(adding, "POST", PREDICT, body)
        assert code == 400
        assert message in answer["error"]

    @pytest.mark.parametrize(
        ("path", "body", "code", "message"),
        [
            (PREDICT, b"{", 400, "JSON Parse error"),
            (PREDICT, b"[" * 100_000, 429, "the body has 100000 bytes, expected at most 90000"),
            (PREDICT, b"[" * 80_000, 400, "JSON Parse error"),
            (PREDICT, b"[]", 400, "JSON Value is not an object"),
            (PREDICT, {}, 400, "exactly one of the keys"),
            (PREDICT, {"inputs": {}, "instances": []}, 400, "exactly one of the keys"),
            (PREDICT, {"instances": []}, 400, "a list of one instance or more"),
            (PREDICT, {"instances": [1]}, 400, "instance 0 is of type int, expected an object"),
            (PREDICT, {"instances": [{"query": "x"}]}, 400, "instance 0 lacks the inputs ['"),
            (PREDICT, {"signature_name": 1, "inputs": {}}, 400, "must be a string"),
            (PREDICT, {"signature_name": "x", "inputs": {}}, 400, 'key "x" not found'),
            (PREDICT, {"signature_name": "\ud800", "inputs": {}}, 400, "half a surrogate pair"),
            ("/v1/models/m:predict", {"inputs": {}}, 404, "Latest(m)"),
            ("/v1/models/m:predict", b"{", 400, "JSON Parse error"),
            ("/v1/models/piano/versions/9:predict", {"inputs": {}}, 404, "Specific(piano, 9)"),
            ("/v1/models/piano/labels/x:predict", {"inputs": {}}, 400, "version label: x"),
            ("/v1/models/piano:classify", {"examples": []}, 501, "classify is not answered"),
            ("/v1/models/piano:listen", {}, 400, "Malformed request: POST /v1/models/piano:listen"),
        ],
        ids=str,
    )
    def test_fault_of_a_request_is_named(
        self,
        small: ModelServer,
        path: str,
        body: Any,
        code: int,
        message: str,
    ) -> None:
        found, answer = ask(small, "POST", path, body)
        assert (found, message in answer["error"]) == (code, True), answer

    @pytest.mark.parametrize("timeout", ["1H", "9M", "60S", "60000m", "99999999u"])
    def test_deadline_that_is_kept(self, adding: ModelServer, timeout: str) -> None:
        body = {"inputs": columns(adding_model.inputs())}
        assert ask(adding, "POST", PREDICT, body, Grpc_Timeout=timeout)[0] == 200

    @pytest.mark.parametrize("timeout", ["0S", "1n"])
    def test_deadline_that_is_over(self, adding: ModelServer, timeout: str) -> None:
        body = {"inputs": columns(adding_model.inputs())}
        code, answer = ask(adding, "POST", PREDICT, body, Grpc_Timeout=timeout)
        assert (code, "deadline" in answer["error"]) == (504, True)

    def test_deadline_that_passes_in_the_model(
        self, adding: ModelServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The answer is there, and too late to be one."""
        over: list[bool] = []
        run = adding.api.run

        def slow(*arguments: Any) -> Any:
            response = run(*arguments)
            over.append(True)
            return response

        left = Call.seconds_left
        monkeypatch.setattr(adding.api, "run", slow)
        monkeypatch.setattr(Call, "seconds_left", lambda call: 0.0 if over else left(call))
        code, answer = ask(adding, "POST", PREDICT, {"inputs": columns(adding_model.inputs())})
        assert (code, answer["error"]) == (504, "the call's deadline passed while it was run")

    @pytest.mark.parametrize("timeout", ["", "S", "1", "1s", "-1S", "1.5S", "123456789m"])
    def test_deadline_that_is_none(self, adding: ModelServer, timeout: str) -> None:
        body = {"inputs": columns(adding_model.inputs())}
        code, answer = ask(adding, "POST", PREDICT, body, Grpc_Timeout=timeout)
        assert code == 400
        assert answer["error"].startswith(f"Grpc-Timeout is {timeout!r}, expected 1 to 8 digits")

    def test_bad_gzip(self, adding: ModelServer) -> None:
        code, answer = ask(adding, "POST", PREDICT, b"no gzip", Content_Encoding="gzip")
        assert (code, answer["error"][:21]) == (400, "the body is no gzip: ")
        code, answer = ask(adding, "POST", PREDICT, b"x", Content_Encoding="br")
        assert (code, answer["error"]) == (400, "Content-Encoding is 'br', expected gzip or none")

    def test_body_that_inflates_beyond_the_limit(self, small: ModelServer) -> None:
        body = gzip.compress(b" " * 10_000_000)
        code, answer = ask(small, "POST", PREDICT, body, Content_Encoding="gzip")
        assert (code, answer["error"]) == (429, "the inflated body has more than 90000 bytes")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    folder = tmp_path_factory.mktemp("small")
    adding_model.push(folder, 7)
    options = ServerOptions(rest_port=0, limits=Limits(message_bytes=90_000))
    with ModelServer(folder, port=0, options=options) as server:
        yield server


class TestQuestions:
    def test_status(self, adding: ModelServer) -> None:
        status = {"error_code": "OK", "error_message": ""}
        version = {"version": "7", "state": "AVAILABLE", "status": status}
        for path in ("/v1/models/piano", "/v1/models/piano/versions/7"):
            assert ask(adding, "GET", path) == (200, {"model_version_status": [version]})
        code, answer = ask(adding, "GET", "/v1/models/m")
        assert (code, answer["error"]) == (404, "Could not find any versions of model m")

    def test_metadata(self, adding: ModelServer) -> None:
        code, answer = ask(adding, "GET", "/v1/models/piano/metadata")
        assert code == 200
        assert answer["model_spec"] == {"name": "piano", "signature_name": "", "version": "7"}
        signatures = answer["metadata"]["signature_def"]["signature_def"]
        found = signatures["serving_default"]["inputs"]
        assert found.keys() == adding_model.SPECS.keys()
        assert found["item_id"]["dtype"] == "DT_STRING"
        assert [dim["size"] for dim in found["item_id"]["tensor_shape"]["dim"]] == ["-1", "-1"]

    def test_malformed_paths(self, adding: ModelServer) -> None:
        for path in ("/v1/models", "/v1/models/", "/v1/models/piano/versions/x", "/v1/x"):
            code, answer = ask(adding, "GET", path)
            assert (code, answer["error"]) == (400, f"Malformed request: GET {path}")
        assert ask(adding, "GET", "/") == (404, {"error": "Not found: /"})

    def test_metrics(self, adding: ModelServer) -> None:
        def samples() -> dict[tuple[str, ...], float]:
            code, text = ask(adding, "GET", "/monitoring/prometheus/metrics")
            assert code == 200
            return {
                (sample.name, *sample.labels.values()): sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
            }

        before = samples()
        given = adding_model.inputs(rows=2)
        with grpc.insecure_channel(adding.address, [("grpc.enable_http_proxy", 0)]) as channel:
            predict = PredictionServiceStub(channel).Predict
            predict(adding_model.request(given), timeout=PATIENCE_S)
            for name in ("a stranger", "another"):
                with pytest.raises(grpc.RpcError):
                    predict(adding_model.request(given, name=name), timeout=PATIENCE_S)
            noise = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
            with pytest.raises(grpc.RpcError):
                noise(b"no message", timeout=PATIENCE_S)
            long = adding_model.inputs(items=1001)
            with pytest.raises(grpc.RpcError):
                predict(adding_model.request(long), timeout=PATIENCE_S)
        ask(adding, "POST", PREDICT, {"inputs": columns(given)})
        assert ask(adding, "POST", PREDICT, {"inputs": columns(long)})[0] == 429
        after = samples()

        def more(*sample: str) -> float:
            return after[sample] - before.get(sample, 0.0)

        assert more(":tensorflow:serving:request_count", "piano", "OK") == 2
        assert more(":tensorflow:serving:request_count", "unknown", "NOT_FOUND") == 2
        assert more(":tensorflow:serving:request_count", "unknown", "INVALID_ARGUMENT") == 1
        latency = ":tensorflow:serving:request_latency_count"
        assert more(latency, "Predict", "GRPC", "piano") == 1
        assert more(latency, "predict", "REST", "piano") == 1
        assert more(":tensorflow:serving:runtime_latency_count", "Predict", "piano", "TF1") == 2
        for stage in ("decode", "wait", "run", "encode"):
            refused = 2 if stage == "decode" else 0
            assert more("piano_serving_stage_seconds_count", stage) == 2 + refused
        assert more(":tensorflow:serving:request_count", "piano", "RESOURCE_EXHAUSTED") == 2
        assert more("piano_serving_beyond_limit_total", "list_length") == 2
        assert more("piano_serving_batch_lists_sum") == 4
        assert more("piano_serving_list_length_sum") == 2 * given["item_id"].shape[1]
        assert after["piano_serving_model_version",] == 7
        assert after["piano_serving_version_loads_total", "loaded"] == 1
        assert not any("stranger" in label for sample in after for label in sample)


class TestFuzzer:
    def test_finds_nothing(self, adding: ModelServer) -> None:
        assert adding.rest_address is not None
        outcome = fuzz(RestFuzzer, adding.rest_address, requests=1500, threads=3, seed=2)
        assert outcome.faults == []
        assert outcome.statuses.keys() >= {"200", HUNG_UP, *map(str, EXPECTED)}

    @pytest.mark.parametrize("broken", ["to_json", "to_request"])
    def test_finds_a_server_at_fault(
        self, adding: ModelServer, monkeypatch: pytest.MonkeyPatch, broken: str
    ) -> None:
        working = getattr(rest_json, broken)
        calls = itertools.count()

        def fail(*arguments: Any, **named: Any) -> Any:
            if next(calls) > 2:
                raise ZeroDivisionError
            return working(*arguments, **named)

        monkeypatch.setattr(rest_json, broken, fail)
        assert adding.rest_address is not None
        outcome = fuzz(RestFuzzer, adding.rest_address, requests=60, threads=1, seed=1)
        assert any(fault.startswith("500: ") for fault in outcome.faults)

    def test_finds_another_order(
        self, adding: ModelServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        working, calls = rest_json.to_json, itertools.count()

        def to_json(response: PredictResponse, by_row: bool) -> Any:
            if "order" in response.outputs and next(calls) >= 3:  # the first of each signature
                order = response.outputs["order"]
                order.int_val[:] = [*reversed(order.int_val)]
            return working(response, by_row)

        monkeypatch.setattr(rest_json, "to_json", to_json)
        assert adding.rest_address is not None
        outcome = fuzz(RestFuzzer, adding.rest_address, requests=60, threads=1, seed=1)
        assert outcome.faults
        assert all("otherwise than at first" in fault for fault in outcome.faults)


def test_rest_port_in_use(adding: ModelServer, model_dir: Path) -> None:
    assert adding.rest_address is not None
    port = int(adding.rest_address.rpartition(":")[2])
    with pytest.raises(ServingError, match=f"cannot listen on 127.0.0.1:{port} for REST"):
        ModelServer(model_dir, port=0, options=ServerOptions(rest_port=port)).start()


class TestConnections:
    @pytest.fixture
    def narrow(self, tmp_path: Path) -> Iterator[ModelServer]:
        adding_model.push(tmp_path, 7)
        options = ServerOptions(poll_s=0, rest_port=0, limits=Limits(concurrency=1), grace_s=1)
        with ModelServer(tmp_path, port=0, options=options) as server:
            yield server

    def connect(self, server: ModelServer) -> http.client.HTTPConnection:
        assert server.rest_address is not None
        return http.client.HTTPConnection(server.rest_address, timeout=PATIENCE_S)

    def test_one_too_many_is_told_so(self, narrow: ModelServer) -> None:
        kept = self.connect(narrow)
        kept.request("GET", "/v1/models/piano")
        assert kept.getresponse().read()
        code, answer = ask(narrow, "GET", "/v1/models/piano")
        assert code == 429
        assert answer["error"] == "1 connections are open, which is the most there may be"
        kept.request("GET", "/monitoring/prometheus/metrics")
        text = kept.getresponse().read().decode()
        assert 'piano_serving_beyond_limit_total{limit="connections"} 1.0' in text
        kept.close()

    def test_metrics_are_told_whoever_holds_the_connections(self, narrow: ModelServer) -> None:
        with contextlib.ExitStack() as stack:
            kept = self.connect(narrow)
            stack.callback(kept.close)
            kept.request("GET", "/v1/models/piano")
            assert kept.getresponse().read()
            others = [("GET", "/v1/models/piano"), ("POST", PREDICT), ("PUT", "/")]
            for refused, (method, path) in enumerate(others):
                scrape = self.connect(narrow)
                stack.callback(scrape.close)
                scrape.request("GET", "/monitoring/prometheus/metrics")
                response = scrape.getresponse()
                assert (response.status, response.getheader("Connection")) == (200, "close")
                families = [*text_string_to_metric_families(response.read().decode())]
                counted = [
                    sample.value
                    for family in families
                    for sample in family.samples
                    if sample.labels == {"limit": "connections"}
                ]
                assert counted == ([float(refused)] if refused else [])
                assert ask(narrow, method, path, b"{}")[0] == 429

    def test_who_sends_byte_by_byte_does_not_keep_the_metrics_from_others(
        self, narrow: ModelServer
    ) -> None:
        assert narrow.rest_address is not None
        host, _, port = narrow.rest_address.rpartition(":")
        with contextlib.ExitStack() as stack:
            kept = self.connect(narrow)
            stack.callback(kept.close)
            kept.request("GET", "/v1/models/piano")
            assert kept.getresponse().read()
            slow = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
            stack.enter_context(slow)
            ended = threading.Event()

            def drip() -> None:
                while not ended.wait(0.05):
                    with contextlib.suppress(OSError):
                        slow.send(b"G")

            thread = threading.Thread(target=drip)
            thread.start()
            stack.callback(thread.join)
            stack.callback(ended.set)
            # However often it sends, it is hung up on.
            with contextlib.suppress(ConnectionResetError):
                while slow.recv(1000):
                    pass
            # It is counted a moment after.
            told, text = 'piano_serving_beyond_limit_total{limit="connections"} 1.0', ""
            ends = time.monotonic() + PATIENCE_S
            while told not in text and time.monotonic() < ends:
                kept.request("GET", "/monitoring/prometheus/metrics")
                text = kept.getresponse().read().decode()
        assert told in text

    def test_as_many_may_wait_for_a_connection_as_there_may_be(self) -> None:
        """Nothing takes a connection yet: the system keeps them, and drops one too many."""
        limits = Limits(concurrency=32)
        rest = RestServer(Mock(), Metrics("piano"), limits, "127.0.0.1", 0)
        with contextlib.ExitStack() as stack:
            stack.callback(rest.stop, 0)
            for _ in range(limits.concurrency):
                waiting = socket.create_connection(("127.0.0.1", rest.port), timeout=10)
                stack.enter_context(waiting)

    def test_kept_connections_end_with_the_server(self, narrow: ModelServer) -> None:
        kept = self.connect(narrow)
        kept.request("GET", "/v1/models/piano")
        assert kept.getresponse().read()
        assert kept.sock is not None
        narrow.stop()
        assert kept.sock.recv(1) == b""

    def test_a_body_has_a_time_in_all(
        self, narrow: ModelServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("serving.server.rest._Handler.longest_s", 0.2)
        slow = self.connect(narrow)
        slow.putrequest("POST", PREDICT)
        slow.putheader("Content-Length", "100")
        slow.endheaders(b"{")
        response = slow.getresponse()
        assert response.status == 504
        error = json.loads(response.read())["error"]
        assert error == "of a body of 100 bytes, 1 came by the call's deadline"
        assert response.getheader("Connection") == "close"

    @pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
    def test_caller_who_hangs_up_in_a_body_is_counted_as_cancelled(
        self,
        narrow: ModelServer,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
        reset: bool,
    ) -> None:
        counted: list[str] = []
        done = threading.Event()

        def count(model_name: str, status: str, entry: str, seconds: float) -> None:
            counted.append(status)
            done.set()

        monkeypatch.setattr(narrow._metrics, "request", count)
        connection = self.connect(narrow)
        connection.putrequest("POST", PREDICT)
        connection.putheader("Content-Length", "100")
        connection.putheader("Expect", "100-continue")
        connection.endheaders()
        assert connection.sock is not None
        # The head has been read, so that a reset does not take it back.
        assert connection.sock.recv(12) == b"HTTP/1.1 100"
        connection.sock.sendall(b"{")
        if reset:
            linger = struct.pack("ii", 1, 0)
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        connection.close()
        assert done.wait(PATIENCE_S)
        assert counted == ["CANCELLED"]
        assert "a request failed" not in caplog.text

    @pytest.mark.parametrize(
        ("sent", "code", "error"),
        [
            (b"\xff\r\n\r\n", 400, "Bad request syntax ('\xff')"),
            (b"GET /\r\n\r\n", 404, "Not found: /"),
            (b"FROB /v1/models/piano HTTP/1.1\r\n\r\n", 400, "Unsupported method ('FROB')"),
            (b"GET / HTTP/2.0\r\n\r\n", 400, "Invalid HTTP version (2.0)"),
            (b"GET / HTTP/0.9\r\n\r\n", 404, "Not found: /"),
            (b"GET /%s HTTP/1.1\r\n\r\n" % (b"x" * 70_000), 414, "414"),
        ],
        ids=lambda value: str(value)[:40],
    )
    def test_what_is_no_http_is_told_in_json(
        self, adding: ModelServer, sent: bytes, code: int, error: str
    ) -> None:
        connection = self.connect(adding)
        connection.connect()
        assert connection.sock is not None
        connection.sock.sendall(sent)
        with http.client.HTTPResponse(connection.sock) as response:
            response.begin()
            told = json.loads(response.read())["error"]
        connection.close()
        assert (response.status, told.removeprefix("Malformed request: ")) == (code, error)

    @pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
    def test_other_methods(self, adding: ModelServer, method: str) -> None:
        connection = self.connect(adding)
        connection.request(method, "/v1/models/piano", b"GET / HTTP/1.1\r\n\r\n")
        response = connection.getresponse()
        content = response.read()
        assert response.status == 400
        assert response.getheader("Connection") == "close"
        expected = {"error": f"Malformed request: {method} /v1/models/piano"}
        assert content == b"" if method == "HEAD" else json.loads(content) == expected
        assert connection.sock is None
