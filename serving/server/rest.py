"""TensorFlow Serving's REST API: predict, metadata and status of a model, and the metrics."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import socket
import threading
import time
import zlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from google.protobuf import json_format
from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataRequest, SignatureDefMap
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest
from tensorflow_serving.apis.model_pb2 import ModelSpec

from serving.columns import DEFAULT_SIGNATURE
from serving.server import rest_json
from serving.server.address import address_of
from serving.server.api import ModelApi
from serving.server.call import Call
from serving.server.errors import Refusal, ServingError, exhausted, invalid_argument
from serving.server.limits import Limits
from serving.server.metrics import Metrics

METRICS_PATH = "/monitoring/prometheus/metrics"
_VERSION = r"(?:/versions/(?P<version>[0-9]{1,18})|/labels/(?P<label>[^/:]+))?"
_RUN = re.compile(
    rf"/v1/models/(?P<name>[^/:]+){_VERSION}:(?P<method>predict|classify|regress)", re.IGNORECASE
)
_ASK = re.compile(rf"/v1/models/(?P<name>[^/:]+){_VERSION}(?P<metadata>/metadata)?", re.IGNORECASE)
_TIMEOUT_S = 30.0
# As gRPC itself has it on the wire, and its gateways take it from HTTP.
TIMEOUT_HEADER = "Grpc-Timeout"
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_TIMEOUT = re.compile(rf"([0-9]{{1,8}})([{''.join(_UNITS)}])")
_CHUNK = 1 << 16
# Connections over the limit that are answered at a time, for the metrics or as too many; any
# further are dropped.
_MOST_BEYOND = 8
_BEYOND_S = 1.0
_CODES = {
    "OK": 200,
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "NOT_FOUND": 404,
    "DEADLINE_EXCEEDED": 504,
    "RESOURCE_EXHAUSTED": 429,
    "UNAVAILABLE": 503,
    "UNIMPLEMENTED": 501,
}

_log = logging.getLogger(__name__)


class RestServer:
    """Answers over HTTP what the API answers over gRPC.

    Args:
      api: What answers.
      metrics: To tell.
      limits: Of the size of a body, and of connections.
      host: The address to listen on.
      port: The port to listen on; 0 takes any free one.

    Raises:
      ServingError: The port cannot be taken.
    """

    def __init__(
        self, api: ModelApi, metrics: Metrics, limits: Limits, host: str, port: int
    ) -> None:
        parts = {"api": api, "metrics": metrics, "limits": limits}
        handler = type("_Handler", (_Handler,), parts)
        beyond = type("_HandlerBeyond", (_HandlerBeyond,), parts)
        try:
            self._server = _Server((host, port), handler, beyond, metrics, limits.concurrency)
        except OSError as error:
            raise ServingError(
                f"cannot listen on {address_of(host, port)} for REST: the port is in use or the "
                "host is not this machine"
            ) from error
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="rest", daemon=True
        )

    def start(self) -> None:
        """Begins to answer, on threads of its own."""
        self._thread.start()

    def stop(self, grace: float) -> None:
        """Takes no new connection, waits so long for requests in progress, and hangs up."""
        ends = time.monotonic() + grace
        if self._thread.is_alive():
            self._server.shutdown()
            self._server.wait_idle(grace)
        self._server.server_close()
        self._server.hang_up(max(0.0, ends - time.monotonic()))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # The port of another server must not be shared.
    allow_reuse_port = False

    def __init__(
        self,
        address: tuple[str, int],
        handler: Any,
        beyond: Any,
        metrics: Metrics,
        connections: int,
    ) -> None:
        self._metrics = metrics
        self._handler_beyond = beyond
        self.address_family = _family(*address)
        self._free = threading.Semaphore(connections)
        self._free_beyond = threading.Semaphore(_MOST_BEYOND)
        # A burst waits to be taken; of the library's own 5, the system would drop the rest.
        self.request_queue_size = connections
        self._idle = threading.Condition()
        self._busy = 0
        self._open: set[socket.socket] = set()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            with self._idle:
                self._open.add(request)
            super().process_request(request, client_address)
            return
        if self._free_beyond.acquire(blocking=False):
            threading.Thread(
                target=self._answer_beyond, args=(request, client_address), daemon=True
            ).start()
        else:
            self._metrics.beyond("connections")
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._idle:
                self._open.discard(request)
                self._idle.notify_all()
            self._free.release()

    def _answer_beyond(self, request: socket.socket, client_address: Any) -> None:
        """Answers one request on a connection beyond the limit, which has so long in all."""
        over = threading.Timer(_BEYOND_S, _break_off, (request,))
        over.start()
        was_asked = False
        try:
            handler = self._handler_beyond(request, client_address, self)
            was_asked = getattr(handler, "command", None) is not None
            request.shutdown(socket.SHUT_WR)
            # Closing what was not read would take the answer back.
            while request.recv(_CHUNK):
                pass
        except OSError:
            _log.debug("a connection too many broke off", exc_info=True)
        finally:
            over.cancel()
            if not was_asked:  # else it is counted by what was asked
                self._metrics.beyond("connections")
            self._free_beyond.release()
            self.shutdown_request(request)

    def hang_up(self, seconds: float) -> None:
        """Ends the connections that are open, and waits so long for their threads."""
        with self._idle:
            for one in self._open:
                _break_off(one)
            self._idle.wait_for(lambda: not self._open, seconds)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A caller who hangs up is no error of ours.
        _log.debug("a connection from %s broke off", client_address, exc_info=True)

    def busy(self, change: int) -> None:
        with self._idle:
            self._busy += change
            self._idle.notify_all()

    def wait_idle(self, seconds: float) -> None:
        with self._idle:
            self._idle.wait_for(lambda: not self._busy, seconds)


class _Handler(BaseHTTPRequestHandler):
    api: ModelApi
    metrics: Metrics
    limits: Limits
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version = "piano"
    timeout = _TIMEOUT_S
    # For a body to come and to be answered.
    longest_s = _TIMEOUT_S
    # Head and body are written one after the other, which must not wait for each other.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if self.headers.get("Content-Length", "0") != "0" or self.headers["Transfer-Encoding"]:
            # What is not read of a body would be taken for the next request.
            self.close_connection = True
        if path == METRICS_PATH:
            self._tell_metrics()
            return
        found = _ASK.fullmatch(path)
        if found is None:
            self._malformed(path)
        elif found["metadata"]:
            self._answer(lambda: self._metadata(_spec(found)))
        else:
            self._answer(lambda: self._status(_spec(found)))

    def _do_other(self) -> None:
        self.close_connection = True
        self._malformed(self.path.partition("?")[0])

    do_HEAD = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _do_other

    def do_POST(self) -> None:
        path = self.path.partition("?")[0]
        found = _RUN.fullmatch(path)
        if found is None:
            self.close_connection = True
            self._malformed(path)
            return

        def answer() -> Any:
            with self.api.counted("REST") as counted:
                counted.model_name = found["name"]
                call = Call.within("REST", self._seconds())
                return self._predict(found, self._body(call), call)

        self._answer(answer)

    def _seconds(self) -> float:
        """How long the caller waits, by its own word or at most."""
        given = self.headers.get(TIMEOUT_HEADER)
        if given is None:
            return self.longest_s
        match = _TIMEOUT.fullmatch(given.strip())
        if match is None:
            # The body is not read.
            self.close_connection = True
            raise invalid_argument(
                f"{TIMEOUT_HEADER} is {given[:80]!r}, expected 1 to 8 digits and a unit of "
                f"{', '.join(_UNITS)}, such as 200m for 200 milliseconds"
            )
        return min(int(match[1]) * _UNITS[match[2]], self.longest_s)

    def _predict(self, found: re.Match[str], body: bytes, call: Call) -> Any:
        if found["method"].lower() != "predict":
            raise Refusal(
                grpc.StatusCode.UNIMPLEMENTED, f"{found['method']} is not answered, only predict"
            )
        with self.api.admitted():
            parsed = rest_json.parse(body)
            spec = _spec(found)
            spec.signature_name = parsed.get("signature_name", "")
            # One version reads the request and runs it, even if another takes over meanwhile.
            with self.api.leased(spec) as servable:
                signature_name = spec.signature_name or DEFAULT_SIGNATURE
                request = rest_json.to_request(parsed, servable.signature(signature_name))
                request.model_spec.CopyFrom(spec)
                response = self.api.run(servable, request, call)
        if call.seconds_left() == 0.0:
            raise Refusal(
                grpc.StatusCode.DEADLINE_EXCEEDED, "the call's deadline passed while it was run"
            )
        return rest_json.to_json(response, by_row="instances" in parsed)

    def _metadata(self, spec: ModelSpec) -> Any:
        request = GetModelMetadataRequest(model_spec=spec, metadata_field=["signature_def"])
        response = self.api.get_model_metadata(request)
        signatures = SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        version = str(response.model_spec.version.value)
        return {
            "model_spec": {"name": spec.name, "signature_name": "", "version": version},
            "metadata": {"signature_def": _dict(signatures)},
        }

    def _status(self, spec: ModelSpec) -> Any:
        return _dict(self.api.get_model_status(GetModelStatusRequest(model_spec=spec)))

    def _body(self, call: Call) -> bytes:
        most = self.limits.message_bytes
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            length = -1
        if length < 0:
            self.close_connection = True
            raise invalid_argument("the request has no Content-Length that is a number")
        if length > most:
            self.close_connection = True
            raise exhausted(
                "message_bytes", f"the body has {length} bytes, expected at most {most}"
            )
        body = self._read(length, call)
        encoding = self.headers.get("Content-Encoding", "identity").lower()
        if encoding == "identity":
            return body
        if encoding != "gzip":
            raise invalid_argument(f"Content-Encoding is {encoding!r}, expected gzip or none")
        inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
        try:
            body = inflater.decompress(body, most + 1)
        except zlib.error as error:
            raise invalid_argument(f"the body is no gzip: {error}") from error
        if len(body) > most:
            raise exhausted("message_bytes", f"the inflated body has more than {most} bytes")
        return body

    def _read(self, length: int, call: Call) -> bytes:
        """So many bytes, within the time of the call, however slowly each of them comes."""
        parts: list[bytes] = []
        left = length
        while left:
            seconds = call.seconds_left()
            try:
                if seconds == 0.0:
                    raise TimeoutError
                self.connection.settimeout(seconds)
                part = self.rfile.read1(min(left, _CHUNK))
            except TimeoutError as error:
                self.close_connection = True
                raise Refusal(
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                    f"of a body of {length} bytes, {length - left} came by the call's deadline",
                ) from error
            except ConnectionError:
                part = b""
            if not part:
                raise Refusal(
                    grpc.StatusCode.CANCELLED,
                    f"of a body of {length} bytes, {length - left} came before the caller hung up",
                )
            parts.append(part)
            left -= len(part)
        self.connection.settimeout(self.timeout)
        return b"".join(parts)

    def _answer(self, answer: Callable[[], Any]) -> None:
        self.server.busy(1)
        try:
            try:
                content = json.dumps(answer()).encode()
            except Exception as error:
                status, message = self.api.failed(error)
                if status is grpc.StatusCode.CANCELLED:
                    # The caller is gone: nobody is left to be told.
                    self.close_connection = True
                else:
                    self._error(_CODES.get(status.name, 500), message)
            else:
                self._send(200, content, "application/json")
        finally:
            self.server.busy(-1)

    def _tell_metrics(self) -> None:
        self._send(200, self.metrics.text(), "text/plain; version=0.0.4; charset=utf-8")

    def _malformed(self, path: str) -> None:
        if path.lower().startswith("/v1/"):
            self._error(400, f"Malformed request: {self.command} {path[:1024]}")
        else:
            self._error(404, f"Not found: {path[:1024]}")

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the library cannot read as HTTP is the caller's fault, and told as JSON."""
        self.close_connection = True
        self._error(code if code < 500 else 400, f"Malformed request: {message or code}")

    def send_response_only(self, code: int, message: str | None = None) -> None:
        # HTTP 0.9, which is also what the library takes noise for, would have no head.
        self.request_version = self.protocol_version
        super().send_response_only(code, message)

    def _error(self, code: int, message: str) -> None:
        self._send(code, json.dumps({"error": message}).encode(), "application/json")

    def _send(self, code: int, content: bytes, kind: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        _log.debug(format, *args)


class _HandlerBeyond(_Handler):
    """Of a connection beyond the limit: tells the metrics, and all others that it is too many.

    So whoever watches the server sees it just when there is too much to do.
    """

    def parse_request(self) -> bool:
        parsed = super().parse_request()
        self.close_connection = True
        return parsed

    def do_GET(self) -> None:
        if self.path.partition("?")[0] == METRICS_PATH:
            self._tell_metrics()
        else:
            self._refuse()

    def _refuse(self) -> None:
        def refuse() -> None:
            raise exhausted(
                "connections",
                f"{self.limits.concurrency} connections are open, which is the most there may be",
            )

        self._answer(refuse)

    do_POST = do_HEAD = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse


def _family(host: str, port: int) -> socket.AddressFamily:
    """IPv4, unless the host has no address of that kind."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    families = {family for family, *_ in found}
    return socket.AF_INET if socket.AF_INET in families else socket.AF_INET6


def _break_off(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _spec(found: re.Match[str]) -> ModelSpec:
    spec = ModelSpec(name=found["name"])
    if found["version"]:
        spec.version.value = int(found["version"])
    if found["label"]:
        spec.version_label = found["label"]
    return spec


def _dict(message: Any) -> Any:
    return json_format.MessageToDict(
        message, including_default_value_fields=True, preserving_proto_field_name=True
    )
