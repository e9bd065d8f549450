"""A server is reached over IPv6 as over IPv4, by name and by either kind of address."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path

import adding_model
import pytest

from serving.client import RerankClient
from serving.server import ModelServer, ServerOptions, ServingError


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no ::1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("addresses")
    adding_model.push(folder, 7)
    return folder


@pytest.mark.parametrize(
    ("host", "said"),
    [
        pytest.param("::1", "[::1]", marks=needs_ipv6),
        pytest.param("[::1]", "[::1]", marks=needs_ipv6),
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "localhost"),
    ],
)
def test_both_ports_answer(folder: Path, host: str, said: str) -> None:
    options = ServerOptions(poll_s=0, rest_port=0)
    with ModelServer(folder, host=host, port=0, options=options) as server:
        assert server.rest_address is not None
        for address in (server.address, server.rest_address):
            assert address.rpartition(":")[0] == said
        with RerankClient(server.address, timeout_s=60) as client:
            assert client.wait_until_available(60) == 7
        connection = http.client.HTTPConnection(server.rest_address, timeout=60)
        connection.request("GET", "/v1/models/piano")
        (version,) = json.loads(connection.getresponse().read())["model_version_status"]
        connection.close()
        assert version["version"] == "7"


@needs_ipv6
def test_port_in_use_is_named_in_brackets(folder: Path) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        for options in (dict(port=port), dict(port=0, options=ServerOptions(rest_port=port))):
            with pytest.raises(ServingError, match=rf"cannot listen on \[::1\]:{port}"):
                ModelServer(folder, host="::1", **options).start()
