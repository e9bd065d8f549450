"""What can go wrong while serving: a model that cannot be served, a request that is refused."""

from __future__ import annotations

import grpc


class ServingError(Exception):
    """A model or a setting that cannot be served; the message says why in one sentence."""


class Refusal(Exception):
    """A request that is answered with an error status.

    Args:
      code: The gRPC status of the answer.
      message: What was wrong with the request.
      limit: Which limit it would have passed, if it is for one.
    """

    def __init__(self, code: grpc.StatusCode, message: str, limit: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.limit = limit


def invalid_argument(message: str) -> Refusal:
    """Returns the commonest refusal, the one of a request that is itself at fault."""
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, message)


def exhausted(limit: str, message: str) -> Refusal:
    """Returns the refusal of a request that asks for more than there is.

    Args:
      limit: Which limit it would pass, as it is counted: one of `Limits`, or of few other names.
      message: What it asks for, and what there is.
    """
    return Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, message, limit)
