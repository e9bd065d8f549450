"""What a probe or a stranger may ask the server: whether it serves, and what it answers."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

# For their descriptors, which reflection looks up by name.
from tensorflow_serving.apis import model_service_pb2, prediction_service_pb2

_SERVICES = tuple(
    pb2.DESCRIPTOR.services_by_name[name].full_name
    for pb2, name in (
        (prediction_service_pb2, "PredictionService"),
        (model_service_pb2, "ModelService"),
    )
)
# The whole server, the services by their full names, and as the real server calls them.
_NAMES = ("", *_SERVICES, *(name.rpartition(".")[2] for name in _SERVICES))


class Health:
    """The standard health and reflection services of a gRPC server.

    Unlike the real server's, which always says SERVING, this one follows the model.

    Args:
      server: To add them to.
    """

    def __init__(self, server: grpc.Server) -> None:
        self._servicer = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)
        names = (*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)

    def set(self, serves: bool) -> None:
        """Says whether there is a version that is served."""
        status = health_pb2.HealthCheckResponse
        for name in _NAMES:
            self._servicer.set(name, status.SERVING if serves else status.NOT_SERVING)

    def leave(self) -> None:
        """Says NOT_SERVING from now on, whatever happens."""
        self._servicer.enter_graceful_shutdown()
