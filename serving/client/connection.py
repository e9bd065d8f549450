"""How a client reaches its server: the options of a channel and the methods on it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import grpc

from serving.client.attempts import Ended
from serving.client.messages import METHODS


def _options() -> list[tuple[str, Any]]:
    """Options of a channel, sync or asyncio."""
    return [
        # The answer to a batch may exceed gRPC's 4 MiB.
        ("grpc.max_receive_message_length", -1),
        # A proxy meant for the web must not stand between two programs of one service.
        ("grpc.enable_http_proxy", 0),
        # Of several machines each call takes the next.
        ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
        # A server that comes back is found within seconds; gRPC would wait up to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1000),
        ("grpc.max_reconnect_backoff_ms", 2000),
        # A machine that vanished says nothing: while calls are under way the connection is tried.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 5_000),
    ]


def channel_to(library: Any, address: str, credentials: grpc.ChannelCredentials | None) -> Any:
    """A channel of `grpc` or `grpc.aio`, encrypted where there are credentials."""
    if credentials is None:
        return library.insecure_channel(address, options=_options())
    return library.secure_channel(address, credentials, options=_options())


def methods(channel: Any) -> Mapping[str, Any]:
    """The methods by name, on a channel, sync or asyncio."""
    return {
        name: channel.unary_unary(
            path,
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=response.FromString,
        )
        for name, (path, response) in METHODS.items()
    }


def ended_by(number: int, call: Any) -> Ended:
    """How an attempt ended, from a call that is done."""
    code = call.code()
    response = call.result() if code is grpc.StatusCode.OK else None
    return Ended(number, response, code, call.details() or "")
