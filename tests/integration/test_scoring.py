"""A real BentoML service over HTTP, with a model that the registry calls champion."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import psutil
import pytest

from maskfer.config import Settings
from maskfer.data.synthetic import clip_frames
from maskfer.registry import Registry
from maskfer.release import Release
from tests.integration.conftest import MASKFER, environment, free_port, gone, serving

_LIMIT_BYTES = 1_000_000
_LIMIT_PIXELS = 500_000


@pytest.fixture(scope="session")
def service(tiny_release: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service on a registry's champion."""
    home = tmp_path_factory.mktemp("serve")
    registry = Registry(Settings(home=home))
    registry.promote(registry.register(tiny_release), reason="the only one", forced=True)
    port = free_port()
    env = environment(home, MASKFER_MAX_BODY_BYTES=str(_LIMIT_BYTES), MASKFER_MAX_PIXELS=str(_LIMIT_PIXELS))
    with serving([MASKFER, "serve", "--port", str(port)], port, log=home / "log", env=env):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def client(service: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service, timeout=30) as client:
        yield client


@pytest.fixture(scope="session")
def photo() -> bytes:
    image = next(clip_frames(frames=1, fps=1.0, size=320, seed=7))[0]
    return _encoded(image)


def _encoded(image: np.ndarray, suffix: str = ".png") -> bytes:
    return bytes(cv2.imencode(suffix, image)[1])


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _assert_verdict(verdict: dict) -> None:
    assert set(verdict["probabilities"]) == {"positive", "neutral", "negative"}
    assert sum(verdict["probabilities"].values()) == pytest.approx(1.0, abs=1e-5)
    assert verdict["expression"] == max(verdict["probabilities"], key=verdict["probabilities"].__getitem__)
    assert verdict["masked"] == (verdict["masked_probability"] >= 0.5)
    assert verdict["orientation"] in {"up", "left", "center", "right", "down"}


def _assert_problem(answer: httpx.Response, status: int, error: str) -> None:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error", "message"}
    assert body["error"] == error
    assert "Traceback" not in answer.text


def test_a_picture_is_answered_with_its_faces(
    client: httpx.Client, photo: bytes, tiny_release: Release
) -> None:
    answer = client.post("/analyze", content=photo, headers={"Content-Type": "image/png"})
    assert answer.status_code == 200
    body = answer.json()
    assert body["model"] == {"name": "maskfer", "version": "1", "sha256": tiny_release.sha256}
    assert body["image"] == {"width": 320, "height": 320}
    [face] = body["faces"]
    assert set(face["box"]) == {"left", "top", "width", "height"}
    assert 0.5 <= face["confidence"] <= 1.0
    _assert_verdict(face)


@pytest.mark.parametrize("content_type", ["image/jpeg", "application/octet-stream", "text/plain", None])
def test_the_picture_counts_and_not_what_the_request_calls_it(
    client: httpx.Client, photo: bytes, content_type: str | None
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    assert client.post("/analyze", content=photo, headers=headers).status_code == 200


def test_a_form_with_a_file_is_answered_as_well(client: httpx.Client, photo: bytes) -> None:
    raw = client.post("/analyze", content=photo).json()
    assert client.post("/analyze", files={"image": ("photo.png", photo)}).json() == raw


def test_a_picture_without_a_face_has_an_empty_list(client: httpx.Client) -> None:
    wall = _encoded(np.full((200, 300, 3), 90, np.uint8), ".jpg")
    assert client.post("/analyze", content=wall).json()["faces"] == []


@pytest.mark.parametrize("shape", [(3, 96, 96), (3, 96, 96, 3)])
def test_a_batch_of_crops_is_judged_in_order(client: httpx.Client, shape: tuple[int, ...]) -> None:
    crops = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    together = client.post("/predict", content=_npy(crops)).json()["predictions"]
    assert len(together) == 3
    for verdict, crop in zip(together, crops, strict=True):
        _assert_verdict(verdict)
        [alone] = client.post("/predict", content=_npy(crop[None])).json()["predictions"]
        assert alone["probabilities"] == pytest.approx(verdict["probabilities"], abs=1e-5)


def test_sixteen_clients_at_once_have_the_answers_of_each_alone(
    service: str, client: httpx.Client, photo: bytes
) -> None:
    rng = np.random.default_rng(2)
    sizes = [1, 2, 30, 1, 3, 1, 17, 1]  # more than a batch, and more than what is read at once
    bodies = [_npy(rng.integers(0, 256, (size, 96, 96, 3), np.uint8)) for size in sizes]
    asked = [("/predict", body) for body in bodies] + [("/analyze", photo), ("/predict", _npy(np.zeros(3)))]
    alone = [client.post(path, content=body) for path, body in asked]
    assert [answer.status_code for answer in alone] == [200] * 9 + [422]

    def at_once(number: int) -> None:
        with httpx.Client(base_url=service, timeout=30) as own:
            for turn in range(len(asked)):
                which = (number + turn) % len(asked)
                path, body = asked[which]
                answer = own.post(path, content=body)
                assert answer.status_code == alone[which].status_code
                _assert_same(answer.json(), alone[which].json())

    with ThreadPoolExecutor(16) as clients:
        assert list(clients.map(at_once, range(16))) == [None] * 16


def _assert_same(answer: Any, alone: Any) -> None:
    """Equal in all but the last digits of the probabilities."""
    match alone:
        case dict():
            assert answer.keys() == alone.keys()
            for key, value in alone.items():
                _assert_same(answer[key], value)
        case list():
            assert len(answer) == len(alone)
            for one, other in zip(answer, alone, strict=True):
                _assert_same(one, other)
        case float():
            assert answer == pytest.approx(alone, abs=1e-5)
        case _:
            assert answer == alone


def test_crops_may_come_as_pictures(client: httpx.Client) -> None:
    crops = np.random.default_rng(1).integers(0, 256, (2, 96, 96, 3), np.uint8)
    files = [("crops", (f"{i}.png", _encoded(crop))) for i, crop in enumerate(crops)]
    as_pictures = client.post("/predict", files=files).json()
    assert as_pictures == client.post("/predict", content=_npy(crops)).json()


def test_every_answer_names_the_model_version(client: httpx.Client, photo: bytes) -> None:
    answers = [
        client.post("/analyze", content=photo),
        client.post("/analyze", content=b"no picture"),
        client.get("/readyz"),
        client.get("/nothing-here"),
    ]
    assert [answer.status_code for answer in answers] == [200, 415, 200, 404]
    assert {answer.headers["X-Model-Version"] for answer in answers} == {"1"}


@pytest.mark.parametrize("path", ["/analyze", "/predict"])
def test_what_is_no_picture_is_refused(client: httpx.Client, path: str) -> None:
    _assert_problem(client.post(path, content=b"hello"), 415, "UnsupportedMedia")
    _assert_problem(client.post(path, json={"image": "http://127.0.0.1/secret"}), 415, "UnsupportedMedia")
    _assert_problem(client.post(path, content=b""), 400, "EmptyRequest")
    _assert_problem(client.post(path, data={"image": "http://127.0.0.1/secret"}), 415, "UnsupportedMedia")
    _assert_problem(client.post(path, files={"image": ("x.png", b"\x89PNG\r\n\x1a\n")}), 400, "ImageError")
    _assert_problem(client.get(path), 405, "HTTPError")


def test_a_form_of_addresses_is_not_followed(client: httpx.Client) -> None:
    boundary = "x"
    form = f'--{boundary}\r\nContent-Disposition: form-data; name="image"\r\n\r\nhttp://127.0.0.1\r\n--{boundary}--\r\n'
    answer = client.post(
        "/analyze",
        content=form.encode(),
        headers={"Content-Type": f"multipart/form-data; boundary={boundary}"},
    )
    _assert_problem(answer, 400, "EmptyRequest")


def test_a_form_that_is_none_is_refused(client: httpx.Client) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert client.post("/analyze", content=b"--y garbage", headers=headers).status_code == 400
    headers = {"Content-Type": "multipart/form-data"}
    assert client.post("/analyze", content=b"garbage", headers=headers).status_code == 400


def test_a_truncated_picture_is_refused_or_answered_but_never_a_fault(
    client: httpx.Client, photo: bytes
) -> None:
    for length in range(1, len(photo), len(photo) // 20):
        assert client.post("/analyze", content=photo[:length]).status_code in {200, 400, 415}


def test_a_body_over_the_limit_is_refused_announced_or_not(client: httpx.Client) -> None:
    body = b"\0" * (_LIMIT_BYTES + 1)
    _assert_problem(client.post("/analyze", content=body), 413, "RequestTooLarge")
    chunks = (body[start : start + 65_536] for start in range(0, len(body), 65_536))
    _assert_problem(client.post("/analyze", content=chunks), 413, "RequestTooLarge")


def test_a_picture_over_the_pixel_limit_is_refused(client: httpx.Client) -> None:
    large = _encoded(np.zeros((1000, 1000, 3), np.uint8))
    assert len(large) < _LIMIT_BYTES
    _assert_problem(client.post("/analyze", content=large), 413, "RequestTooLarge")


def test_wrong_crops_are_unprocessable(client: httpx.Client, photo: bytes) -> None:
    _assert_problem(client.post("/predict", content=photo), 422, "InputError")
    _assert_problem(client.post("/predict", content=_npy(np.zeros((1, 48, 48), np.uint8))), 422, "InputError")
    _assert_problem(client.post("/predict", content=_npy(np.zeros((1, 96, 96)))), 422, "InputError")


def test_an_unlucky_client_does_not_stop_the_service(
    service: str, client: httpx.Client, photo: bytes
) -> None:
    port = int(service.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as half:
        half.sendall(b"POST /analyze HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nonly a part")
    assert client.post("/analyze", content=photo).status_code == 200


def test_the_service_holds_no_torch(service: str) -> None:
    port = int(service.rpartition(":")[2])
    listeners = [
        connection.pid
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid
    ]
    maps = [Path(f"/proc/{pid}/maps") for pid in listeners]
    assert maps
    assert all("libtorch" not in file.read_text() for file in maps if file.exists())


def test_bentoml_serves_it_too_and_its_worker_ends_when_it_is_killed(
    tiny_release: Release, tmp_path: Path
) -> None:
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "bentoml",
        "serve",
        "services.scoring.service:Scoring",
        "--port",
        str(port),
    ]
    env = environment(
        tmp_path, MASKFER_SCORING_MODEL=str(tiny_release.path), BENTOML_HOME=str(tmp_path / "bentoml")
    )
    with serving(command, port, log=tmp_path / "log", env=env) as process:
        ready = httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=10)
        assert ready.headers["X-Model-Version"] == tiny_release.sha256[:12]
        children = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGKILL)
        assert gone(children)


def _serve_and_fail(home: Path, *arguments: str, **settings: str) -> str:
    answer = subprocess.run(
        [MASKFER, "serve", *arguments],
        env=environment(home, **settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert answer.returncode == 2, answer.stderr
    assert answer.stderr.startswith("maskfer: error: ")
    assert answer.stderr.count("\n") == 1
    return answer.stderr


def test_a_port_in_use_is_one_line(service: str, tiny_release: Release, tmp_path: Path) -> None:
    port = service.rpartition(":")[2]
    assert "in use" in _serve_and_fail(tmp_path, "--port", port, "--model", str(tiny_release.path))


def test_a_missing_registry_is_one_line(tmp_path: Path) -> None:
    assert "registry" in _serve_and_fail(tmp_path, "--port", str(free_port()))


@pytest.mark.parametrize("address", ["mysql://root@localhost/x", "postgresql://u:secret@host:port/db"])
def test_statistics_without_an_address_are_one_line(
    tiny_release: Release, tmp_path: Path, address: str
) -> None:
    arguments = ("--port", str(free_port()), "--model", str(tiny_release.path))
    line = _serve_and_fail(tmp_path, *arguments, MASKFER_STATISTICS_URL=address)
    assert "MASKFER_STATISTICS_URL" in line
    assert "expected sqlite:///FILE or postgresql://" in line
    assert "secret" not in line


def test_a_damaged_release_is_one_line(tiny_release: Release, tmp_path: Path) -> None:
    damaged = tmp_path / "release"
    for file in tiny_release.path.rglob("*"):
        if file.is_file():
            target = damaged / file.relative_to(tiny_release.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes() + (b"x" if file.name == "model.onnx" else b""))
    assert "sha256" in _serve_and_fail(tmp_path, "--port", str(free_port()), "--model", str(damaged))
