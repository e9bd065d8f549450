"""A local stand-in for TensorFlow Serving, for development and tests on one machine.

It speaks TensorFlow Serving's own gRPC API, so that any client of the one works with the other;
`serving/README.md` lists what differs.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import grpc

from serving.api import ModelApi
from serving.servable import Servable, ServingError, latest_version

_THREADS = 8
_OPTIONS = (
    # Otherwise two servers may share a port, and each answers some of the calls.
    ("grpc.so_reuseport", 0),
    # A batch may exceed gRPC's 4 MiB; the real server sets no limit either.
    ("grpc.max_receive_message_length", -1),
)


class ModelServer:
    """Serves the latest version of a pushed model over gRPC.

    Creating it loads the version; `start` takes the port and begins to answer. A version that is
    pushed later is served by the next server: this one does not look again. As a context manager
    it starts on entering and stops on leaving.

    Args:
      model_dir: The folder that versions are pushed to, as `<model_dir>/<integer version>/`.
      model_name: The name that requests must carry.
      host: The address to listen on; the default can be reached from this machine alone.
      port: The port to listen on; 0 takes any free one.

    Raises:
      ServingError: There is no version that can be loaded, or no such port.
    """

    def __init__(
        self,
        model_dir: str | Path,
        model_name: str = "piano",
        host: str = "127.0.0.1",
        port: int = 8500,
    ) -> None:
        if not 0 <= port <= 65535:
            raise ServingError(f"port {port} does not exist: a port is a number from 0 to 65535")
        self._host = host
        self._port = port
        self._servable = Servable(*latest_version(model_dir))
        self._threads = ThreadPoolExecutor(_THREADS)
        self._server = grpc.server(self._threads, options=_OPTIONS)
        self._server.add_generic_rpc_handlers(ModelApi(model_name, self._servable).handlers())

    @property
    def address(self) -> str:
        """Where clients reach the started server, as `host:port`."""
        return f"{self._host}:{self._port}"

    @property
    def version(self) -> int:
        """The version that is served."""
        return self._servable.version

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
        self._servable.close()

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
