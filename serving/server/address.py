"""How a host and a port are said together."""

from __future__ import annotations


def bare(host: str) -> str:
    """A host without the brackets that an IPv6 address may have.

    >>> bare("[::1]"), bare("::1"), bare("127.0.0.1")
    ('::1', '::1', '127.0.0.1')
    """
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def address_of(host: str, port: int) -> str:
    """`host:port`, an IPv6 address in brackets.

    Args:
      host: See `bare`.
      port: The port.

    >>> address_of("::1", 8500), address_of("localhost", 8500)
    ('[::1]:8500', 'localhost:8500')
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
