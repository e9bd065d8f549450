"""A local stand-in for TensorFlow Serving, with its API.

    with ModelServer("run/pushed", port=8500) as server:
        server.wait()

`serving/README.md` lists what differs from the real one.
"""

from serving.server.batching import BatchingOptions
from serving.server.errors import ServingError
from serving.server.limits import Limits
from serving.server.model_server import ModelServer, ServerOptions
from serving.server.threads import Threads
from serving.server.tls import credentials

__all__ = [
    "BatchingOptions",
    "Limits",
    "ModelServer",
    "ServerOptions",
    "ServingError",
    "Threads",
    "credentials",
]
