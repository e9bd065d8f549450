"""Bytes that must be a message to their end."""

from __future__ import annotations

from google.protobuf.message import DecodeError, Message


def parse_whole(message: Message, received: bytes) -> None:
    """Reads a message from bytes of which nothing may be left.

    Args:
      message: An empty one.
      received: What it is read from.

    Raises:
      DecodeError: They are no such message, or stop being one somewhere.
    """
    # Of bytes that stop making sense, only a warning and the count would tell.
    read = message.MergeFromString(received)
    if read != len(received):
        raise DecodeError(f"byte {read} makes no sense")
