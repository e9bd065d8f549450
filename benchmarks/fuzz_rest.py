"""What fuzz_server.py sends over HTTP: good requests, and what is no JSON, no body or no HTTP."""

from __future__ import annotations

import base64
import copy
import dataclasses
import gzip
import http.client
import json
import random
import socket
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow_serving.apis.get_model_metadata_pb2 import SignatureDefMap

from benchmarks.fuzz_grpc import PATIENCE_S, good_requests, is_same_answer

_PREDICT = "/v1/models/piano:predict"
_METADATA = "/v1/models/piano/metadata"
_GOOD_SHARE = 0.1
# What a caller at fault may be told; 501 is for what the real server can do and this one cannot.
EXPECTED = {400, 404, 414, 429, 431, 501}
HUNG_UP = "hung up"


@dataclasses.dataclass
class Sent:
    """Bytes for a connection.

    Attributes:
      received: All of them.
      method: Of the request, without which its answer cannot be read.
      ends: Whether nothing follows, as the server is told: it may hang up without an answer.
    """

    received: bytes
    method: str = "POST"
    ends: bool = False


class RestFuzzer:
    """Makes requests of a model about lists and judges the answers; of one thread.

    Args:
      address: Of the server, as host:port.
      seed: What is made depends on it alone.
    """

    def __init__(self, address: str, seed: int) -> None:
        host, _, port = address.rpartition(":")
        self._address = (host, int(port))
        self._random = random.Random(seed)
        self._connection: socket.socket | None = None
        _, metadata = self._ask(_request(_METADATA, b"", method="GET"))
        signatures = SignatureDefMap()
        json_format.ParseDict(json.loads(metadata)["metadata"]["signature_def"], signatures)
        self._bodies: list[dict[str, Any]] = []
        self._good = []
        for request in good_requests(signatures.signature_def, seed):
            inputs = request.inputs
            columns = {name: _told(tf.make_ndarray(inputs[name])) for name in inputs}
            rows = [{name: columns[name][row] for name in columns} for row in range(2)]
            named = {"signature_name": request.model_spec.signature_name}
            by_column = {**named, "inputs": columns}
            self._bodies += [by_column, {**named, "instances": rows}]
            good = _request(_PREDICT, json.dumps(by_column).encode())
            self._good.append((good, _outputs(self._ask(good)[1])))

    def once(self) -> tuple[str, str | None]:
        """Sends one request; returns the status of its answer, and what should not have been."""
        is_good = self._random.random() < _GOOD_SHARE
        good, first = self._random.choice(self._good)
        sent = good if is_good else self._bad()
        try:
            code, content = self._ask(sent)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            hung_up = isinstance(error, ConnectionError) and sent.ends
            return HUNG_UP, None if hung_up else f"{error!r} to {sent.received!r:.500}"
        status = str(code)
        if is_good and not (code == 200 and is_same_answer(_outputs(content), first)):
            return status, f"a good request was answered otherwise than at first: {content!r:.500}"
        if code == 200 or (code in EXPECTED and _names_a_fault(sent, content)):
            return status, None
        return status, f"{status}: {content!r:.500} to {sent.received!r:.500}"

    def close(self) -> None:
        """Hangs up."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _bad(self) -> Sent:
        made = self._random.choice(_DAMAGES)
        return made(self._random, copy.deepcopy(self._random.choice(self._bodies)))

    def _ask(self, sent: Sent) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = socket.create_connection(self._address, timeout=PATIENCE_S)
        try:
            self._connection.sendall(sent.received)
            if sent.ends:
                self._connection.shutdown(socket.SHUT_WR)
        except ConnectionError:
            # Whoever is refused before all is read may be told so before all is sent.
            pass
        response = http.client.HTTPResponse(self._connection, method=sent.method)
        response.begin()
        content = response.read()
        if response.will_close or sent.ends:
            self.close()
        return response.status, content


def _outputs(content: bytes) -> dict[str, np.ndarray[Any, Any]]:
    return {name: np.array(values) for name, values in json.loads(content)["outputs"].items()}


def _names_a_fault(sent: Sent, content: bytes) -> bool:
    if sent.method == "HEAD":
        return True
    try:
        error = json.loads(content)["error"]
    except (ValueError, KeyError, TypeError):
        return False
    return isinstance(error, str) and bool(error)


def _told(array: np.ndarray[Any, Any]) -> Any:
    if array.dtype != object:
        return array.tolist()
    return np.vectorize(_text, otypes=[object])(array).tolist()


def _text(value: bytes) -> str | dict[str, str]:
    """As JSON has it; what is no plain text, as base64."""
    text = value.decode("latin-1")
    plain = text.isascii() and text.isprintable()
    return text if plain else {"b64": base64.b64encode(value).decode()}


def _request(
    path: str, body: bytes, *headers: str, method: str = "POST", ends: bool = False
) -> Sent:
    """A request with its length, unless the headers say another."""
    named = {header.partition(":")[0].lower() for header in headers}
    length = [] if "content-length" in named else [f"Content-Length: {len(body)}"]
    head = "\r\n".join([f"{method} {path} HTTP/1.1", "Host: piano", *length, *headers, "", ""])
    return Sent(head.encode("latin-1", "replace") + body, method, ends)


def _posted(body: bytes, *headers: str, ends: bool = False) -> Sent:
    return _request(_PREDICT, body, *headers, ends=ends)


# --- damages ---

_Places = list[tuple[Any, Any]]


def _places(value: Any) -> _Places:
    """Each place in nested lists and objects: what holds it, and its key."""
    found: _Places = []
    inside = (
        list(value.items())
        if isinstance(value, dict)
        else list(enumerate(value))
        if isinstance(value, list)
        else []
    )
    for key, inner in inside:
        found += [(value, key), *_places(inner)]
    return found


def _nested(depth: int) -> bytes:
    opens, closes = (b"[", b"]")
    return opens * depth + closes * depth


# As JSON, since Python has no value for some of them.
_STRANGE: tuple[Callable[[random.Random], bytes], ...] = (
    lambda draw: draw.choice([b"null", b"true", b"false", b"{}", b"[]", b'""', b"[[]]", b"[null]"]),
    lambda draw: draw.choice([b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-0.0", b"1e-400"]),
    lambda draw: draw.choice([b"-1", b"0", b"1.5", b"9223372036854775808", b"1" * 400]),
    lambda draw: b"1" * draw.choice([4000, 5000, 100_000]),
    lambda draw: draw.choice(
        [rb'"\ud800"', rb'"\u0000"', b'"' + b"x" * 5000 + b'"', b'"\xc3\xb8"']
    ),
    lambda draw: draw.choice(
        [b'{"b64": "AA=="}', b'{"b64": "A"}', b'{"b64": 1}', rb'{"b64": "\u00f8"}']
    ),
    lambda draw: b'{"b64": "AA==", "b65": ""}',
    lambda draw: _nested(draw.choice([2, 33, 500, 900, 980, 2000, 100_000])),
    lambda draw: b'{"a":' * (depth := draw.choice([2, 500, 900, 980, 2000])) + b"1" + b"}" * depth,
)


def _strange_value(draw: random.Random, body: Any) -> Sent:
    """One value or two are of another kind, in a list or of a whole column."""
    text = {}
    for number in range(draw.choice([1, 1, 2])):
        holder, key = draw.choice(_places(body))
        holder[key] = mark = f"strange-{number}"
        text[mark] = draw.choice(_STRANGE)(draw)
    raw = json.dumps(body).encode()
    for mark, strange in text.items():
        raw = raw.replace(f'"{mark}"'.encode(), strange)
    return _posted(raw)


def _other_keys(draw: random.Random, body: Any) -> Sent:
    """A key is gone, or there is one more."""
    objects = [body, *(holder[key] for holder, key in _places(body))]
    chosen = draw.choice([one for one in objects if isinstance(one, dict)])
    if draw.random() < 0.5 and chosen:
        del chosen[draw.choice(sorted(chosen))]
    else:
        name = draw.choice(["", "mood", "\ud800", "b64", "inputs", "instances", "x" * 3000])
        chosen[name] = draw.choice([None, 0, "a", [], {}, [["a"]]])
    return _posted(json.dumps(body).encode())


def _ragged(draw: random.Random, body: Any) -> Sent:
    """A list is shorter, longer, or deeper than those beside it."""
    lists = [(holder, key) for holder, key in _places(body) if isinstance(holder[key], list)]
    holder, key = draw.choice(lists)
    kind = draw.randrange(3)
    if kind == 0:
        holder[key] = holder[key][: draw.randrange(len(holder[key]) or 1)]
    elif kind == 1:
        holder[key] = holder[key] * draw.choice([2, 3, 600])
    else:
        holder[key] = [holder[key]]
    return _posted(json.dumps(body).encode())


def _signature(draw: random.Random, body: Any) -> Sent:
    names = ["explain", "select_list", "serve_examples", "", "\ud800", "x" * 3000, None, 1, []]
    body["signature_name"] = draw.choice(names)
    return _posted(json.dumps(body).encode())


def _no_object(draw: random.Random, body: Any) -> Sent:
    return _posted(draw.choice(_STRANGE)(draw))


def _noise(draw: random.Random, body: Any) -> Sent:
    raw = json.dumps(body).encode()
    place = draw.randrange(len(raw))
    kind = draw.randrange(4)
    if kind == 0:
        return _posted(draw.randbytes(draw.randrange(200)))
    if kind == 1:
        return _posted(raw[:place])
    piece = draw.randbytes(draw.randrange(1, 9))
    return _posted(raw[:place] + piece + raw[place + (len(piece) if kind == 2 else 0) :])


def _broken_off(draw: random.Random, body: Any) -> Sent:
    """The caller says nothing more in the middle of a request."""
    received = _posted(json.dumps(body).encode()).received
    return Sent(received[: draw.randrange(1, len(received))], ends=True)


def _length(draw: random.Random, body: Any) -> Sent:
    """A length that is none, or not that of the body."""
    raw = json.dumps(body).encode()
    kind = draw.randrange(4)
    if kind == 0:
        said = draw.choice(["", "x", "-1", "0x10", "1e3", "1.0", "\xb2", "1" * 5000])
        return _posted(raw, f"Content-Length: {said}")
    if kind == 1:
        said = draw.choice([2**23 + 1, 2**31, 2**63, 10**30])
        return _posted(raw, f"Content-Length: {said}")
    if kind == 2:
        return _posted(raw, f"Content-Length: {len(raw) + draw.choice([1, 100, 10**6])}", ends=True)
    # Chunks are not read, so that what follows the head is no request.
    head = f"POST {_PREDICT} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    return Sent(head.encode() + b"%x\r\n%s\r\n0\r\n\r\n" % (len(raw), raw))


def _encoding(draw: random.Random, body: Any) -> Sent:
    """The body is compressed, in a way that is not known, damaged, or too much."""
    raw = json.dumps(body).encode()
    kind = draw.randrange(4)
    if kind == 0:
        return _posted(
            raw, f"Content-Encoding: {draw.choice(['gzip', 'br', 'deflate', 'x' * 500])}"
        )
    if kind == 1:
        packed = bytearray(gzip.compress(raw))
        packed[draw.randrange(len(packed))] ^= 1 << draw.randrange(8)
        return _posted(bytes(packed), "Content-Encoding: gzip")
    if kind == 2:
        packed = gzip.compress(raw)
        return _posted(packed[: draw.randrange(len(packed))], "Content-Encoding: gzip")
    return _posted(_BOMB, "Content-Encoding: gzip")


_BOMB = gzip.compress(b" " * 2**26)


def _path(draw: random.Random, body: Any) -> Sent:
    paths = [
        *("/", "//", "*", "/v1", "/v1/", "/v1/models", "/v1/models/", "/v1/models/piano"),
        *(
            "/v1/models/m",
            "/v1/models/m:predict",
            "/v1/models/piano:predict/",
            "/v1/models/:predict",
        ),
        *("/v1/models/piano/versions/1", "/v1/models/piano/versions/999999:predict"),
        *("/v1/models/piano/versions/-1:predict", f"/v1/models/piano/versions/{'9' * 19}:predict"),
        *("/v1/models/piano/labels/stable:predict", "/v1/models/piano/labels/:predict"),
        *("/v1/models/piano:classify", "/v1/models/piano:regress", "/v1/models/piano:mood"),
        *("/v1/models/piano/metadata/metadata", "/v1/models/../piano:predict", "/v1/models/%00"),
        *("/v1/models/\xff:predict", "/v1/models/p%69ano:predict", "http://a/v1/models/piano"),
        *(f"/v1/{'x' * 3000}", f"/v1/{'x' * 70_000}", f"{_PREDICT}?a=b#c", f"{_PREDICT} x"),
    ]
    method = draw.choice(["GET", "POST", "POST"])
    return _request(draw.choice(paths), json.dumps(body).encode(), method=method)


def _method(draw: random.Random, body: Any) -> Sent:
    methods = ["HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "GET", "FROB", "post", "\xff"]
    path = draw.choice([_PREDICT, _METADATA, "/v1/models/piano", "/"])
    return _request(path, json.dumps(body).encode(), method=draw.choice(methods))


def _head(draw: random.Random, body: Any) -> Sent:
    """What stands before the body is no head of HTTP."""
    raw = json.dumps(body).encode()
    kind = draw.randrange(5)
    if kind == 0:
        header = draw.choice(["no colon", "X: " + "x" * 70_000, ": x", "X\0: \0", "\xff: \xff"])
        return _posted(raw, header)
    if kind == 1:
        return _posted(raw, *(f"X-{number}: x" for number in range(draw.choice([50, 200]))))
    if kind == 2:
        version = draw.choice(
            ["HTTP/2.0", "HTTP/0.9", "HTTP/1", "HTTP/x.y", "HTTP/1.1.1", "FTP/1.0"]
        )
        return Sent(
            f"POST {_PREDICT} {version}\r\nContent-Length: 2\r\n\r\n{{}}".encode(), ends=True
        )
    if kind == 3:
        return Sent(draw.randbytes(draw.randrange(1, 200)) + b"\r\n\r\n", ends=True)
    return Sent(
        draw.choice([b"\r\n\r\n", b"GET\r\n\r\n", b"GET /\r\n\r\n", b"\0\r\n\r\n"]), ends=True
    )


_DAMAGES: tuple[Callable[[random.Random, Any], Sent], ...] = (
    *(_strange_value,) * 4,
    *(_other_keys, _ragged, _signature, _no_object, _noise, _broken_off),
    *(_length, _encoding, _path, _method, _head),
)
