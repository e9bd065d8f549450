"""What a probe or a stranger may ask the server: whether it serves, and what it answers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

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

# Threads of their own: a stranger who holds all others, with calls that never begin or streams that
# never end, must not have the server taken for dead.
_PROBES = 4
_STRANGERS = 4


class Health:
    """The standard health and reflection services of a gRPC server.

    Unlike the real server's, which always says SERVING, this one follows the model.

    Args:
      server: To add them to.
    """

    def __init__(self, server: grpc.Server) -> None:
        self._servicer = servicer = health.HealthServicer()
        names = (*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflecting = reflection.ReflectionServicer(names)
        self._probes = ThreadPoolExecutor(_PROBES)
        self._strangers = ThreadPoolExecutor(_STRANGERS)

        def check(request: Any, context: Any) -> Any:
            return servicer.Check(request, context)

        def watch(request: Any, context: Any, send_response_callback: Any = None) -> Any:
            return servicer.Watch(request, context, send_response_callback)

        def reflect(requests: Any, context: Any) -> Any:
            return reflecting.ServerReflectionInfo(requests, context)

        messages = health_pb2
        ask, answer = messages.HealthCheckRequest, messages.HealthCheckResponse
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    health.SERVICE_NAME,
                    {
                        "Check": grpc.unary_unary_rpc_method_handler(
                            _on(self._probes, check), ask.FromString, answer.SerializeToString
                        ),
                        "Watch": grpc.unary_stream_rpc_method_handler(
                            _on(self._probes, watch, blocking=False),
                            ask.FromString,
                            answer.SerializeToString,
                        ),
                    },
                ),
                grpc.method_handlers_generic_handler(
                    reflection.SERVICE_NAME,
                    {
                        "ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(
                            _on(self._strangers, reflect),
                            reflection_pb2.ServerReflectionRequest.FromString,
                            reflection_pb2.ServerReflectionResponse.SerializeToString,
                        )
                    },
                ),
            )
        )

    def set(self, serves: bool) -> None:
        """Says whether there is a version that is served."""
        status = health_pb2.HealthCheckResponse
        for name in _NAMES:
            self._servicer.set(name, status.SERVING if serves else status.NOT_SERVING)

    def close(self) -> None:
        """Ends the threads, once the server is stopped."""
        self._probes.shutdown(wait=False)
        self._strangers.shutdown(wait=False)

    def leave(self) -> None:
        """Says NOT_SERVING from now on, whatever happens."""
        self._servicer.enter_graceful_shutdown()


def _on(threads: ThreadPoolExecutor, behaviour: Any, blocking: bool = True) -> Any:
    """Has a method run on threads of its own, by attributes that gRPC looks for."""
    behaviour.experimental_thread_pool = threads
    behaviour.experimental_non_blocking = not blocking
    return behaviour
