"""A local stand-in for TensorFlow Serving, for development and tests on one machine.

It speaks TensorFlow Serving's own gRPC API, so that any client of the one works with the other;
`serving/README.md` lists what differs.
"""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import grpc

from serving.api import ModelApi
from serving.batching import Batches, BatchingOptions
from serving.errors import ServingError
from serving.limits import Limits
from serving.metrics import Metrics
from serving.running import OneByOne, Runner
from serving.servable import Servable
from serving.versions import Versions
from serving.warmup import warm_up

__all__ = ["ModelServer", "ServerOptions", "ServingError"]

# For what is answered at once: health, status, and the refusal of one request too many.
_SPARE_THREADS = 8


@dataclasses.dataclass(frozen=True)
class ServerOptions:
    """How a server serves.

    Attributes:
      poll_s: Seconds between two looks at the folder of versions; 0 looks once.
      limits: Of what may be asked for.
      batching: How requests of several clients share a run; None runs each by itself.
    """

    poll_s: float = 1.0
    limits: Limits = dataclasses.field(default_factory=Limits)
    batching: BatchingOptions | None = None


class ModelServer:
    """Serves the latest version of a pushed model over gRPC.

    Creating it loads the version; `start` takes the port and begins to answer. A version that is
    pushed later takes over once it is loaded. As a context manager it starts on entering and stops
    on leaving.

    Args:
      model_dir: The folder that versions are pushed to, as `<model_dir>/<integer version>/`.
      model_name: The name that requests must carry.
      host: The address to listen on; the default can be reached from this machine alone.
      port: The port to listen on; 0 takes any free one.
      options: How it serves.

    Raises:
      ServingError: There is no version that can be loaded, or no such port.
    """

    def __init__(
        self,
        model_dir: str | Path,
        model_name: str = "piano",
        host: str = "127.0.0.1",
        port: int = 8500,
        options: ServerOptions = ServerOptions(),
    ) -> None:
        if not 0 <= port <= 65535:
            raise ServingError(f"port {port} does not exist: a port is a number from 0 to 65535")
        self._host = host
        self._port = port
        self._options = options
        limits = options.limits
        metrics = Metrics(model_name)

        def load(version: int, folder: Path) -> Servable:
            servable = Servable(version, folder)
            try:
                warm_up(servable, folder, limits)
            except BaseException:
                servable.close()
                raise
            return servable

        self.versions = Versions(model_dir, load, metrics.version)
        self.versions.open()
        self._runner: Runner = (
            OneByOne(metrics)
            if options.batching is None
            else Batches(options.batching, metrics, limits.pairs)
        )
        self._api = ModelApi(model_name, self.versions, self._runner, limits, metrics)
        self._threads = ThreadPoolExecutor(limits.concurrency + _SPARE_THREADS)
        self._server = grpc.server(
            self._threads,
            options=(
                # Otherwise two servers may share a port, and each answers some of the calls.
                ("grpc.so_reuseport", 0),
                # A little above the limit is refused by us, who can name it; the rest by gRPC.
                ("grpc.max_receive_message_length", min(2 * limits.message_bytes, 2**31 - 1)),
                ("grpc.max_send_message_length", -1),
            ),
        )
        self._server.add_generic_rpc_handlers(self._api.handlers())

    @property
    def address(self) -> str:
        """Where clients reach the started server, as `host:port`."""
        return f"{self._host}:{self._port}"

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
            self._port = self._server.add_insecure_port(self.address)
        except RuntimeError as error:
            self.stop()
            raise ServingError(
                f"cannot listen on {self.address}: the port is in use or the host is not this "
                "machine"
            ) from error
        self._server.start()
        if self._options.poll_s:
            self.versions.watch(self._options.poll_s)

    def wait(self) -> None:
        """Blocks until the server stops, for a program that does nothing but serve."""
        self._server.wait_for_termination()

    def stop(self, grace: float = 1.0) -> None:
        """Stops for good: takes no new call and frees the port and the model.

        Args:
          grace: Seconds that calls in progress have to finish before they are cancelled.
        """
        self._server.stop(grace).wait()
        # A cancelled call may still be in the model, which must not be closed under it.
        self._threads.shutdown()
        self._runner.close()
        self.versions.close()

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
