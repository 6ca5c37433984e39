"""The live endpoint over a real WebSocket."""

from __future__ import annotations

import contextlib
import io
import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from socket import IPPROTO_TCP, TCP_CORK
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from maskfer.data.synthetic import clip_frames
from maskfer.faces.detect import default_detector
from maskfer.footage.track import MAX_GAP_S
from maskfer.release import Release
from services.scoring.application.run import cut
from services.scoring.application.source import Shot
from services.scoring.protocol import (
    HEADER,
    CropsFrame,
    Dropped,
    Failure,
    Hello,
    Options,
    PictureFrame,
    Reading,
    Ready,
    encode_frame,
    encode_hello,
    encode_options,
    parse_answer,
    parse_ready,
)
from tests.integration.conftest import MASKFER, environment, free_port, serving

_IDLE_S = 6
_TOKEN = "s3cret"  # noqa: S105
_MAX_BYTES = 500_000
_SESSION = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"


@pytest.fixture(scope="module")
def service(tiny_release: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service that wants a token, is soon tired of idle clients, and takes four of them."""
    home = tmp_path_factory.mktemp("live")
    env = environment(
        home,
        MASKFER_SCORING_MODEL=str(tiny_release.path),
        MASKFER_API_TOKENS=json.dumps([_TOKEN]),
        MASKFER_CORS_ORIGINS=json.dumps(["https://faces.example.org"]),
        MASKFER_LIVE_IDLE_S=str(_IDLE_S),
        MASKFER_LIVE_MAX_CLIENTS="4",
        MASKFER_LIVE_MAX_MESSAGE_BYTES=str(_MAX_BYTES),
    )
    port = free_port()
    with serving([MASKFER, "serve", "--port", str(port)], port, log=home / "log", env=env):
        yield f"127.0.0.1:{port}"


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return next(clip_frames(frames=1, fps=1.0, size=320, seed=7))[0]


@pytest.fixture(scope="module")
def picture(image: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", image)[1])


def _greet(socket: ClientConnection, **changes: Any) -> Ready:
    hello = Hello(**{"session": str(uuid.uuid4()), "token": _TOKEN} | changes)
    socket.send(encode_hello(hello))
    ready = parse_ready(_text(socket))
    assert isinstance(ready, Ready), ready
    return ready


def _text(socket: ClientConnection) -> str:
    message = socket.recv(timeout=30)
    assert isinstance(message, str)
    return message


def _ask(socket: ClientConnection, frame: PictureFrame | CropsFrame) -> Reading | Dropped | Failure:
    socket.send(encode_frame(frame))
    return parse_answer(_text(socket))


def _read(socket: ClientConnection, frame: PictureFrame | CropsFrame) -> Reading:
    answer = _ask(socket, frame)
    assert isinstance(answer, Reading), answer
    return answer


def _end(socket: ClientConnection) -> tuple[int, list[dict[str, Any]]]:
    """The close code, and what was said before."""
    said = []
    try:
        while True:
            said.append(json.loads(_text(socket)))
    except ConnectionClosed as closed:
        code = closed.rcvd.code if closed.rcvd else 1006
    return code, said


def test_a_picture_is_read_as_analyze_reads_it(service: str, picture: bytes, tiny_release: Release) -> None:
    headers = {"Authorization": f"Bearer {_TOKEN}"}
    body = httpx.post(f"http://{service}/analyze", content=picture, headers=headers, timeout=30).json()
    [expected] = body["faces"]
    with connect(f"ws://{service}/live") as socket:
        ready = _greet(socket)
        reading = _read(socket, PictureFrame(7, picture))
    assert ready.model == body["model"]
    assert ready.classes == tiny_release.classes
    assert (ready.crop_size, ready.max_message_bytes) == (96, _MAX_BYTES)
    assert (reading.frame, reading.model) == (7, ready.model["version"])
    [face] = reading.faces
    assert dict(zip(("left", "top", "width", "height"), face.box, strict=True)) == expected["box"]
    assert face.confidence == expected["confidence"]
    assert face.probabilities == face.raw == pytest.approx(expected["probabilities"])
    for key in ("expression", "masked", "orientation"):
        assert getattr(face, key) == expected[key]


def test_crops_are_read_as_predict_reads_them(service: str, image: np.ndarray) -> None:
    with connect(f"ws://{service}/live") as socket:
        frame = cut(Shot(3, 0.0, image), default_detector(), _greet(socket))
        [face] = _read(socket, frame).faces
    file = io.BytesIO()
    np.save(file, frame.crops)
    headers = {"Authorization": f"Bearer {_TOKEN}"}
    answer = httpx.post(f"http://{service}/predict", content=file.getvalue(), headers=headers, timeout=30)
    [expected] = answer.json()["predictions"]
    assert face.confidence is None
    assert face.box == tuple(frame.boxes[0].tolist())
    assert face.probabilities == face.raw == pytest.approx(expected["probabilities"])
    assert face.masked_probability == pytest.approx(expected["masked_probability"])
    for key in ("expression", "masked", "orientation"):
        assert getattr(face, key) == expected[key]


def _of_two_people_and_nobody(service: str) -> list[Reading]:
    rng = np.random.default_rng(0)
    with connect(f"ws://{service}/live") as socket:
        _greet(socket)
        readings = []
        for number in range(6):
            crops = rng.integers(0, 256, (2, 96, 96), np.uint8)
            boxes = np.array([[0, 0, 80, 80], [300, 0, 80, 80]], np.float32) + np.float32(number)
            order = [0, 1] if number % 2 else [1, 0]
            readings.append(_read(socket, CropsFrame(number, boxes[order], crops)))
        readings.append(_read(socket, CropsFrame(6, np.empty((0, 4), np.float32), crops[:0])))
    return readings


def test_faces_keep_their_tracks_and_are_smoothed(service: str) -> None:
    for _ in range(10):
        began = time.monotonic()
        *readings, nobody = _of_two_people_and_nobody(service)
        if time.monotonic() - began < MAX_GAP_S:  # who is not seen for so long gets a new track
            break
    assert nobody.faces == ()
    for number, reading in enumerate(readings):
        tracks = {face.box[0] > 150: face.track for face in reading.faces}
        assert tracks == ({False: 1, True: 0}), number
    last = {face.track: face for face in readings[-1].faces}
    assert all(face.probabilities != face.raw for face in last.values())


def test_a_flood_is_answered_frame_by_frame_in_order_and_the_newest_is_read(
    service: str, picture: bytes
) -> None:
    frames = [encode_frame(PictureFrame(number, picture)) for number in range(20)]
    with connect(f"ws://{service}/live") as socket:
        # It would be offered: deflating a picture takes as long as reading one.
        assert socket.protocol.extensions == []
        _greet(socket)
        socket.socket.setsockopt(IPPROTO_TCP, TCP_CORK, 1)
        for frame in frames:
            socket.send(frame)
        socket.socket.setsockopt(IPPROTO_TCP, TCP_CORK, 0)
        answers = [parse_answer(_text(socket)) for _ in range(20)]
    assert [answer.frame for answer in answers] == list(range(20))
    assert {type(answer) for answer in answers} == {Reading, Dropped}
    assert isinstance(answers[-1], Reading)


def test_a_client_within_its_window_loses_no_frame(service: str, picture: bytes) -> None:
    with connect(f"ws://{service}/live") as socket:
        window = _greet(socket).window
        for number in range(30):
            socket.send(encode_frame(PictureFrame(number, picture)))
            if number >= window - 1:
                assert isinstance(parse_answer(_text(socket)), Reading)


def test_frames_of_a_window_that_arrive_together_are_all_read(service: str) -> None:
    nobody = CropsFrame(0, np.empty((0, 4), np.float32), np.empty((0, 96, 96), np.uint8))
    with connect(f"ws://{service}/live") as socket:
        window = _greet(socket).window
        for _ in range(20):
            socket.socket.setsockopt(IPPROTO_TCP, TCP_CORK, 1)
            for number in range(window):
                socket.send(encode_frame(replace(nobody, frame=number)))
            socket.socket.setsockopt(IPPROTO_TCP, TCP_CORK, 0)
            answers = [parse_answer(_text(socket)) for _ in range(window)]
            assert [(type(answer), answer.frame) for answer in answers] == [(Reading, 0), (Reading, 1)]


def test_the_heatmap_comes_on_request_and_goes(service: str, picture: bytes) -> None:
    def heatmap(number: int) -> np.ndarray | None:
        [face] = _read(socket, PictureFrame(number, picture)).faces
        return face.heatmap

    with connect(f"ws://{service}/live") as socket:
        _greet(socket)
        assert heatmap(0) is None
        socket.send(encode_options(Options(heatmap=True)))
        shown = heatmap(1)
        assert shown is not None
        assert shown.shape[0] == shown.shape[1]
        socket.send(encode_options(Options(consent=False)))
        kept = heatmap(2)
        assert kept is not None
        # The same picture again: averaging over the frames changes nothing but the rounding.
        assert np.abs(kept.astype(int) - shown.astype(int)).max() <= 1
        socket.send(encode_options(Options(heatmap=False)))
        assert heatmap(3) is None


@pytest.mark.parametrize(
    ("content", "error"),
    [(b"", "EmptyRequest"), (b"no picture", "UnsupportedMedia"), (b"\x89PNG\r\n\x1a\n", "ImageError")],
)
def test_a_bad_picture_is_an_error_of_its_frame_and_the_connection_stays(
    service: str, picture: bytes, content: bytes, error: str
) -> None:
    with connect(f"ws://{service}/live") as socket:
        _greet(socket)
        answer = _ask(socket, PictureFrame(1, content))
        assert isinstance(answer, Failure)
        assert (answer.frame, answer.error) == (1, error)
        assert _read(socket, PictureFrame(2, picture)).frame == 2


def test_a_picture_over_the_pixel_limit_is_an_error_of_its_frame(service: str) -> None:
    bomb = bytes(cv2.imencode(".png", np.zeros((4000, 4000), np.uint8))[1])
    assert len(bomb) < _MAX_BYTES
    with connect(f"ws://{service}/live") as socket:
        _greet(socket)
        answer = _ask(socket, PictureFrame(1, bomb))
    assert isinstance(answer, Failure)
    assert answer.error == "RequestTooLarge"


@pytest.mark.parametrize(
    ("hello", "code", "error"),
    [
        ("hello", 1008, "ProtocolError"),
        (b"hello", 1008, "ProtocolError"),
        ('{"type":"hello","protocol":2,"session":"x"}', 1008, "UnsupportedProtocol"),
        (encode_hello(Hello("me", token=_TOKEN)), 1008, "ProtocolError"),
        (encode_hello(Hello(_SESSION)), 4401, "Unauthorized"),
        (encode_hello(Hello(_SESSION, token=_TOKEN[:-1] + "\ud800")), 4401, "Unauthorized"),
        ("x" * 5000, 1009, "MessageTooLarge"),
    ],
)
def test_a_bad_hello_ends_the_connection(service: str, hello: str | bytes, code: int, error: str) -> None:
    with connect(f"ws://{service}/live") as socket:
        socket.send(hello)
        ended, [said] = _end(socket)
    assert (ended, said["type"], said["error"]) == (code, "error", error)


@pytest.mark.parametrize(
    ("message", "code", "error"),
    [
        (b"", 1003, "ProtocolError"),
        (HEADER.pack(9, 0, 0, 1), 1003, "ProtocolError"),
        (HEADER.pack(2, 0, 1, 1) + b"\0" * 100, 1003, "ProtocolError"),
        ('{"type":"options","heatmap":1}', 1003, "ProtocolError"),
        (b"\1" * (_MAX_BYTES + 1), 1009, "MessageTooLarge"),
    ],
)
def test_a_malformed_message_ends_the_connection(
    service: str, message: str | bytes, code: int, error: str
) -> None:
    with connect(f"ws://{service}/live") as socket:
        _greet(socket)
        socket.send(message)
        ended, [said] = _end(socket)
    assert (ended, said["error"]) == (code, error)


def test_who_says_nothing_is_sent_away(service: str) -> None:
    with connect(f"ws://{service}/live") as silent, connect(f"ws://{service}/live") as idle:
        _greet(idle)
        code, [said] = _end(silent)
        assert (code, said["error"]) == (1008, "ProtocolError")
        assert _end(idle) == (1001, [])


@pytest.mark.parametrize(
    ("origin", "welcome"),
    [
        (None, True),
        ("http://{service}", True),
        ("https://faces.example.org", True),
        ("https://evil.example.org", False),
        ("null", False),
        ("http://[", False),
    ],
)
def test_only_pages_of_this_service_or_of_a_named_origin_get_in(
    service: str, origin: str | None, welcome: bool
) -> None:
    refused = contextlib.nullcontext() if welcome else pytest.raises(InvalidStatus, match="403")
    origin = origin.format(service=service) if origin else None
    with refused, connect(f"ws://{service}/live", origin=origin) as socket:  # type: ignore[arg-type]
        _greet(socket)


def test_a_client_too_many_is_asked_to_come_later(service: str, picture: bytes) -> None:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(connect(f"ws://{service}/live")) for _ in range(4)]
        for socket in sockets:
            _greet(socket)
        with connect(f"ws://{service}/live") as late:
            code, [said] = _end(late)
        assert (code, said["error"]) == (1013, "ServiceUnavailable")
        assert _read(sockets[0], PictureFrame(1, picture)).frame == 1
