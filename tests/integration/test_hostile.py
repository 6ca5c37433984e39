"""Thousands of requests that no client should send, to one started service: it refuses, and goes on."""

from __future__ import annotations

import contextlib
import json
import struct
import time
from collections import Counter
from typing import Final

import cv2
import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from services.scoring.openapi import example
from tests.faces_of_light import crops_of_light
from tests.integration.watched import Served, npy, until
from tests.integration.wire import Answer, Wire, head

_REQUESTS: Final = 2_400
_settings: Final = settings(
    max_examples=_REQUESTS,
    database=None,
    phases=(Phase.generate,),  # a failing request is small already, and shrinking would take minutes
    suppress_health_check=list(HealthCheck),
)


def _pictures() -> list[bytes]:
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    made = [
        (".jpg", []),
        (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
        (".png", []),
        (".webp", [cv2.IMWRITE_WEBP_QUALITY, 80]),
        (".webp", [cv2.IMWRITE_WEBP_QUALITY, 101]),
    ]
    encoded = [cv2.imencode(suffix, image, options)[1].tobytes() for suffix, options in made]
    wide = cv2.imencode(".png", image.astype(np.uint16) * 257)[1].tobytes()
    return [*encoded, wide, npy(crops_of_light(1, seed=0)), npy(crops_of_light(2, seed=1)[..., None])]


_BASES: Final = _pictures()
_EXTREMES: Final = [
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\0\0\xff\xff",
    b"\x80\0\0\0",
    b"IEND",
]


@st.composite
def _mutated(draw: st.DrawFn) -> bytes:
    """A file of a known format, cut, changed, doubled, or with another behind it."""
    content = bytearray(draw(st.sampled_from(_BASES)))
    for _ in range(draw(st.integers(0, 4))):
        # The head is where decoders take decisions.
        at = min(len(content), draw(st.one_of(st.integers(0, 64), st.integers(0, len(content)))))
        match draw(st.integers(0, 5)):
            case 0:
                content[at : at + 1] = draw(st.binary(min_size=1, max_size=3))
            case 1:
                content[at : at + 4] = draw(st.sampled_from(_EXTREMES))
            case 2:
                del content[at:]
            case 3:
                content[at:at] = draw(st.binary(max_size=16))
            case 4:
                content += draw(st.sampled_from(_BASES))
            case 5:
                content[at:at] = content[at : at + draw(st.integers(1, 200))]
    return bytes(content)


_DTYPES: Final = ["|u1", "<f8", "|O", ">i4", "<U4", "|V8", "|b1", "<M8[s]", "|u1'", "[('a', '|u1')]"]


@st.composite
def _npy(draw: st.DrawFn) -> bytes:
    """A NumPy file whose header says anything."""
    numbers = st.one_of(st.sampled_from([0, 1, 96, 2**31, 2**63, -1]), st.integers(-5, 200))
    shape = tuple(draw(st.lists(numbers, max_size=5)))
    header = "{'descr': '%s', 'fortran_order': %s, 'shape': %s}%s" % (  # noqa: UP031 - braces
        draw(st.sampled_from(_DTYPES)),
        draw(st.sampled_from(["False", "True", "0", "__import__('os')", "[[]]" * 50])),
        draw(st.sampled_from([str(shape), "(" * 300, "9" * 400, "()", "None"])),
        draw(st.sampled_from(["\n", "", " " * 9_000 + "\n", "}" * 20])),
    )
    raw = header.encode()
    version = draw(st.sampled_from([b"\1\0", b"\2\0", b"\3\0", b"\x09\x09"]))
    stated = draw(st.one_of(st.just(len(raw)), st.integers(0, 65_535)))
    length = struct.pack("<H" if version == b"\1\0" else "<I", stated)
    return b"\x93NUMPY" + version + length + raw + draw(st.binary(max_size=64)) * draw(st.integers(0, 200))


_NAMES: Final = st.one_of(
    st.sampled_from(['image"', "x" * 5_000, 'a"; filename="../../etc/passwd', "\0", "é", '"', "", "a\\"]),
    st.text(st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=12),
)


@st.composite
def _form(draw: st.DrawFn) -> tuple[bytes, list[str]]:
    """A multipart body that may be none, and the header that announces it."""
    boundary = draw(st.sampled_from(["x", "-" * 70, "a b", "x" * 300, '"q"']))
    parts = b""
    for _ in range(draw(st.integers(0, 3))):
        lines = [f'Content-Disposition: form-data; name="{draw(_NAMES)}"']
        if draw(st.booleans()):
            lines[0] += f'; filename="{draw(_NAMES)}"'
        if draw(st.booleans()):
            lines.append(draw(st.sampled_from(_PART_HEADERS)))
        if draw(st.integers(0, 9)) == 0:
            lines = lines * 40
        end = draw(st.sampled_from(["\r\n", "\n", ""]))
        inner = draw(st.one_of(_mutated(), st.binary(max_size=40), st.just(f"--{boundary}\r\n".encode())))
        parts += f"--{boundary}\r\n{end.join(lines)}\r\n\r\n".encode("latin-1") + inner + b"\r\n"
    parts *= draw(st.sampled_from([*[1] * 11, 60]))
    closing = draw(st.sampled_from([f"--{boundary}--\r\n", f"--{boundary}", "", "--other--\r\n"]))
    stated = draw(
        st.sampled_from([f"; boundary={boundary}", f'; boundary="{boundary}"', "", "; boundary=", ";;"])
    )
    charset = draw(st.sampled_from(["", "; charset=utf-16", "; charset=rot13", "; charset=hex"]))
    return parts + closing.encode(), [f"Content-Type: multipart/form-data{stated}{charset}"]


_PART_HEADERS: Final = [
    "Content-Type: multipart/mixed; boundary=x",
    "Content-Transfer-Encoding: base64",
    "Content-Type: " + "x" * 20_000,
    "Content-Disposition: form-data",
    ": empty",
]
_HEADERS: Final = [
    "Content-Encoding: gzip",
    "Transfer-Encoding: chunked",
    "Content-Type: application/json",
    "Content-Type: application/x-www-form-urlencoded",
    "Content-Type: \xff\xfe",
    "Accept: " + "a/b," * 2_000,
    "X-HTTP-Method-Override: DELETE",
    "X-Request-ID: " + "\xe9" * 40,
    "Authorization: Bearer " + "x" * 3_000,
    "Authorization: Basic ::::",
    "Cookie: a=b; " * 100,
    "Origin: null",
    "Host: [::1",
    "Range: bytes=0-,-1",
    "Expect: 100-continue",
    "Connection: close, keep-alive",
    "Upgrade: h2c",
    "traceparent: 00-ffffffffffffffffffffffffffffffff-0000000000000000-zz",
    "X-Forwarded-For: " + "1.1.1.1," * 200,
    'Forwarded: for="_a"; proto=%00',
    "bad header",
    "x" * 9_000 + ": y",
]
_PATHS: Final = [
    "/analyze", "/predict", "/metrics", "/readyz", "/openapi.json", "/live", "/",
    "/openapi/..%2f..%2fconfig", "/openapi/%00", "/analyze/", "//analyze", "/analyze%0d%0aX:1", "/%ff%fe",
    "/statistics/' OR 1=1", "/page/../../etc/passwd", "/page/%2e%2e/%2e%2e/etc/passwd", "*", "http://other/analyze",
    "/analyze?" + "a=b&" * 3_000, "/" + "a" * 6_000, "/analyze#x", "/../analyze", "/analyze;v=1", "\\analyze",
]  # fmt: skip
_METHODS: Final = [
    "GET",
    "POST",
    "HEAD",
    "PUT",
    "DELETE",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "PATCH",
    "PRI",
    "get",
    "X" * 300,
]

_Request = tuple[str, bytes]


@st.composite
def _files(draw: st.DrawFn) -> _Request:
    content = draw(st.one_of(_mutated(), _mutated(), _npy(), st.binary(max_size=60)))
    kind = draw(st.sampled_from(["image/png", "application/octet-stream", "text/plain", "x" * 200]))
    path = draw(st.sampled_from(["/analyze", "/predict"]))
    return "POST", head("POST", path, f"Content-Type: {kind}", length=len(content)) + content


@st.composite
def _forms(draw: st.DrawFn) -> _Request:
    content, lines = draw(_form())
    path = draw(st.sampled_from(["/analyze", "/predict"]))
    return "POST", head("POST", path, *lines, length=len(content)) + content


@st.composite
def _heads(draw: st.DrawFn) -> _Request:
    method = draw(st.one_of(st.just("POST"), st.sampled_from(_METHODS)))
    path = draw(st.one_of(st.sampled_from(_PATHS), st.text(st.characters(codec="latin-1"), max_size=20)))
    lines = draw(st.lists(st.sampled_from(_HEADERS), max_size=3))
    body = draw(st.one_of(st.just(b""), st.binary(max_size=20), _mutated()))
    if any("chunked" in line for line in lines) and draw(st.booleans()):
        body = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
        return method, head(method, path, *lines) + body
    return method, head(method, path, *lines, length=len(body)) + body


@pytest.mark.timeout(600)
def test_thousands_of_hostile_requests_are_refused_without_a_fault(watched: Served) -> None:
    # Answers keep their promise of time as well: a request that hangs would end this at the socket's timeout.
    wire, seen = Wire(watched.port), Counter[int | None]()

    @_settings
    @given(request=st.one_of(_files(), _files(), _forms(), _heads()))
    def ask(request: _Request) -> None:
        method, raw = request
        answer = wire.ask(raw, method=method)
        seen[None if answer is None else answer.status] += 1
        if answer is not None:
            _check(answer, method)

    try:
        ask()
    finally:
        wire.close()
    assert seen.total() >= 2_000
    assert {200, 400, 404, 405, 415, 422} <= seen.keys(), seen
    _answers_rightly(watched)
    assert not any("exception" in line for line in watched.lines())


@pytest.mark.parametrize("shape", [(10, 1_000_000), (65_000, 760)])
def test_a_thin_picture_has_no_face_and_takes_no_room_for_one(
    watched: Served, shape: tuple[int, int]
) -> None:
    content = cv2.imencode(".png", np.full((*shape, 3), 90, np.uint8))[1].tobytes()
    with watched.client() as client:
        answer = client.post("/analyze", content=content)
    assert answer.status_code == 200
    assert answer.json()["faces"] == []


def _check(answer: Answer, method: str) -> None:
    assert answer.status < 500 or answer.status == 503, answer
    text = answer.body.decode("utf-8", "replace")
    assert "Traceback" not in text
    assert ".py" not in text
    # What uvicorn itself cannot read as HTTP, it answers in text.
    ours = answer.headers.get("content-type") == "application/json"
    if answer.status >= 400 and method != "HEAD" and ours:
        assert set(json.loads(text)) == {"error", "message"}
    assert (
        ours
        or answer.status < 400
        or text in {"", "Invalid HTTP request received.", "Unsupported upgrade request."}
    )


def _answers_rightly(watched: Served) -> None:
    found = example("face.png")
    assert found is not None
    for _ in range(6):  # two processes: both
        with httpx.Client(base_url=watched.url, timeout=60) as client:
            answer = client.post("/analyze", content=found[0])
            assert answer.status_code == 200
            assert len(answer.json()["faces"]) == 1


_HELLO: Final = {
    "type": "hello",
    "protocol": 1,
    "session": "6f9619ff-8b86-4d01-b42d-00cf4fc964ff",
    "consent": False,
    "heatmap": True,
    "token": None,
}
_JSON: Final = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
_TEXTS: Final = st.one_of(
    st.builds(
        lambda name, value: json.dumps(_HELLO | {name: value}),
        st.sampled_from([*_HELLO, "extra", "\ud800"]),
        _JSON,
    ),
    st.builds(json.dumps, _JSON),
    st.text(max_size=60),
    st.sampled_from(["[" * 3_000, "{}", "null", "1e999", '{"type":"options","consent":1}', "x" * 200_000]),
)


@st.composite
def _frames(draw: st.DrawFn) -> bytes:
    """A frame whose header promises anything, with a picture, crops, or nothing of the sort behind it."""
    kind, flags = draw(st.sampled_from([1, 2, 1, 2, 0, 255])), draw(st.sampled_from([0, 0, 0, 7]))
    count, number = draw(st.sampled_from([0, 1, 2, 65_535])), draw(st.integers(0, 2**32 - 1))
    size = draw(st.sampled_from([0, 16, 16 + 96 * 96, 2 * (16 + 96 * 96), 100]))
    boxes = draw(st.sampled_from([b"\0", b"\xff", b"\x7f\xc0\0\0", b"A"])) * size
    content = draw(st.one_of(_mutated(), st.just(boxes[:size]), st.binary(max_size=40)))
    return struct.pack("<BBHI", kind, flags, count, number) + content


_MESSAGES: Final = st.one_of(_TEXTS, _frames(), _frames(), st.binary(max_size=12))
_CONNECTIONS: Final = 150
_CLOSED_AS: Final = {1000, 1001, 1002, 1003, 1007, 1008, 1009}


def test_hostile_messages_end_their_connection_and_nothing_else(watched: Served) -> None:
    codes, url = Counter[int](), f"ws://127.0.0.1:{watched.port}/live"

    @settings(_settings, max_examples=_CONNECTIONS)
    @given(
        hello=st.one_of(st.just(json.dumps(_HELLO)), st.just(json.dumps(_HELLO)), _MESSAGES),
        messages=st.lists(_MESSAGES, max_size=5),
    )
    def converse(hello: str | bytes, messages: list[str | bytes]) -> None:
        with connect(url, open_timeout=60, close_timeout=60) as socket:
            with contextlib.suppress(ConnectionClosed):
                for message in (hello, *messages):
                    socket.send(message)
            socket.close()
            with contextlib.suppress(ConnectionClosed):
                while True:
                    assert "Traceback" not in str(socket.recv(timeout=60))
        codes[socket.close_code or 0] += 1

    converse()
    assert codes.total() >= _CONNECTIONS
    assert codes.keys() <= _CLOSED_AS, codes
    with connect(url, open_timeout=60) as socket:
        socket.send(json.dumps(_HELLO))
        assert json.loads(socket.recv(timeout=60))["type"] == "ready"
        found = example("face.png")
        assert found is not None
        socket.send(struct.pack("<BBHI", 1, 0, 0, 7) + found[0])
        reading = json.loads(socket.recv(timeout=60))
    assert (reading["type"], reading["frame"], len(reading["faces"])) == ("reading", 7, 1)
    _answers_rightly(watched)
    assert not any("exception" in line for line in watched.lines())
    assert until(lambda: watched.total("maskfer_live_clients") == 0, lambda: time.sleep(0.1), tries=100)
    assert watched.total("maskfer_live_frames_total") >= 1
