"""A local stand-in for TensorFlow Serving, for development and tests on one machine.

It speaks TensorFlow Serving's own gRPC API, so that any client of the one works with the other;
`serving/README.md` lists what differs.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import grpc
from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus

from serving.server.address import address_of, bare
from serving.server.api import ModelApi
from serving.server.batching import Batches, BatchingOptions
from serving.server.errors import ServingError
from serving.server.first_runs import warm_up
from serving.server.health import Health
from serving.server.limits import Limits
from serving.server.metrics import Metrics
from serving.server.rest import RestServer
from serving.server.running import OneByOne, Runner
from serving.server.servable import Servable
from serving.server.threads import Threads
from serving.server.versions import Versions, VersionState

# For what is answered at once: health, status, and the refusal of one request too many.
_SPARE_THREADS = 8
# Calls that wait for their message, or for a thread; beyond these, gRPC refuses by itself.
_SPARE_STREAMS = 64
# For what was broken off to be told so.
_LAST_S = 2.0

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ServerOptions:
    """How a server serves.

    Attributes:
      poll_s: Seconds between two looks at the folder of versions; 0 looks once.
      limits: Of what may be asked for.
      batching: How requests of several clients share a run; None runs each by itself.
      threads: TensorFlow's, which are those of the whole process; None leaves them as they are.
      rest_port: Of the REST API and the metrics; 0 takes any free one, None has neither.
      tls: Of the gRPC port; None for a port that is not encrypted.
      linger_s: Seconds for which a server that is told to stop still answers while probes are told
        that it does not, so that callers go elsewhere first.
      grace_s: Seconds that requests in progress have after that, all of them together; what is run
        still is then broken off.

    Raises:
      ServingError: A time is negative, infinite or no number.
    """

    poll_s: float = 1.0
    limits: Limits = dataclasses.field(default_factory=Limits)
    batching: BatchingOptions | None = None
    threads: Threads | None = None
    rest_port: int | None = None
    tls: grpc.ServerCredentials | None = None
    linger_s: float = 0.0
    grace_s: float = 5.0

    def __post_init__(self) -> None:
        for name in ("poll_s", "linger_s", "grace_s"):
            seconds = getattr(self, name)
            if not (math.isfinite(seconds) and seconds >= 0):
                raise ServingError(f"{name} is {seconds:g}, expected 0 seconds or more")


class ModelServer:
    """Serves the latest version of a pushed model over gRPC, and over REST if told to.

    Creating it loads the version; `start` takes the port and begins to answer. A version that is
    pushed later takes over once it is loaded. As a context manager it starts on entering and stops
    on leaving.

    Args:
      model_dir: The folder that versions are pushed to, as `<model_dir>/<integer version>/`.
      model_name: The name that requests must carry.
      host: The address to listen on, of IPv4, or of IPv6 with or without brackets; the default can
        be reached from this machine alone.
      port: The port to listen on; 0 takes any free one.
      options: How it serves.

    Raises:
      ServingError: There is no version that can be loaded, no such port or name, or no way to have
        such threads.
    """

    def __init__(
        self,
        model_dir: str | Path,
        model_name: str = "piano",
        host: str = "127.0.0.1",
        port: int = 8500,
        options: ServerOptions = ServerOptions(),
    ) -> None:
        for one in (port, options.rest_port or 0):
            if not 0 <= one <= 65535:
                raise ServingError(f"port {one} does not exist: a port is a number from 0 to 65535")
        if not re.fullmatch(r"[A-Za-z0-9._~-]+", model_name):
            raise ServingError(
                f"the model name is {model_name!r}, expected letters, digits and ._~- alone, which "
                "a REST path can hold"
            )
        if options.threads is not None:
            options.threads.start()
        self._host = bare(host)
        self._port = port
        self._options = options
        limits = options.limits
        self._metrics = metrics = Metrics(model_name)
        self._health: Health | None = None
        self._rest: RestServer | None = None
        self._started = False

        def load(version: int, folder: Path) -> Servable:
            began = time.monotonic()
            servable = Servable(version, folder)
            loaded = time.monotonic()
            try:
                records = warm_up(servable, folder, limits)
            except BaseException:
                servable.close()
                raise
            _log.info(
                "version %d: loaded in %.1f s, warmed up with %d records in %.1f s",
                version,
                loaded - began,
                records,
                time.monotonic() - loaded,
            )
            return servable

        self.versions = Versions(model_dir, load, self._observe)
        self.versions.open()
        self._runner: Runner = (
            OneByOne(metrics)
            if options.batching is None
            else Batches(options.batching, metrics, limits.pairs)
        )
        self.api = ModelApi(model_name, self.versions, self._runner, limits, metrics)
        self._threads = ThreadPoolExecutor(limits.concurrency + _SPARE_THREADS)
        self._server = grpc.server(
            self._threads,
            # More than are in progress, so that it is us who refuse them, and can say why.
            maximum_concurrent_rpcs=4 * limits.concurrency + _SPARE_STREAMS,
            options=(
                # Otherwise two servers may share a port, and each answers some of the calls.
                ("grpc.so_reuseport", 0),
                # A little above the limit is refused by us, who can name it; the rest by gRPC.
                ("grpc.max_receive_message_length", min(2 * limits.message_bytes, 2**31 - 1)),
                ("grpc.max_send_message_length", -1),
            ),
        )
        self._server.add_generic_rpc_handlers(self.api.handlers())
        self._health = Health(self._server)
        self._health.set(True)

    @property
    def address(self) -> str:
        """Where clients reach the started server, as `host:port`."""
        return address_of(self._host, self._port)

    @property
    def rest_address(self) -> str | None:
        """Where the started server's REST API is reached, if it has one."""
        return address_of(self._host, self._rest.port) if self._rest else None

    @property
    def version(self) -> int:
        """The version that is served."""
        current = self.versions.current
        if current is None:
            raise ServingError("no version is served: the model folder has been emptied")
        return current

    def start(self) -> None:
        """Begins to answer, on threads of its own; returns at once.

        Raises:
          ServingError: The port cannot be taken.
        """
        try:
            if self._options.tls is None:
                self._port = self._server.add_insecure_port(self.address)
            else:
                self._port = self._server.add_secure_port(self.address, self._options.tls)
        except RuntimeError as error:
            self.stop()
            raise ServingError(
                f"cannot listen on {self.address}: the port is in use or the host is not this "
                "machine"
            ) from error
        if self._options.rest_port is not None:
            try:
                self._rest = RestServer(
                    self.api,
                    self._metrics,
                    self._options.limits,
                    self._host,
                    self._options.rest_port,
                )
            except ServingError:
                self.stop()
                raise
            self._rest.start()
        self._server.start()
        self._started = True
        if self._options.poll_s:
            self.versions.watch(self._options.poll_s)

    def wait(self) -> None:
        """Blocks until the server stops, for a program that does nothing but serve."""
        self._server.wait_for_termination()

    def stop(self) -> None:
        """Stops for good: answers what is in progress, and frees the ports and the model.

        Takes no longer than `linger_s`, `grace_s` and a moment together.
        """
        if self._health is not None:
            self._health.leave()
        if self._started:
            _log.info(
                "stopping: requests are answered for %g s more, those in progress for %g s after",
                self._options.linger_s,
                self._options.grace_s,
            )
            time.sleep(self._options.linger_s)
        ends = time.monotonic() + self._options.grace_s

        def left() -> float:
            return max(0.0, ends - time.monotonic())

        self._runner.hurry()
        self.api.drain(left())
        stopped = self._server.stop(left())
        if self._rest is not None:
            self._rest.stop(left())
        self._runner.close(left())
        self.versions.close(left())
        self.api.drain(_LAST_S)
        stopped.wait(left() + _LAST_S)
        self._threads.shutdown(wait=False)
        if self._health is not None:
            self._health.close()

    def _observe(self, state: VersionState) -> None:
        """Tells the metrics and the probes what became of a version."""
        if state.error:
            self._metrics.load("refused")
        elif state.state == ModelVersionStatus.AVAILABLE:
            self._metrics.load("loaded")
        current = self.versions.current
        self._metrics.serves(current)
        if self._health is not None:
            self._health.set(current is not None)

    def __enter__(self) -> ModelServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
