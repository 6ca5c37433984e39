"""Statistics and page files of a started service, without a browser."""

from __future__ import annotations

import csv
import io
import json
import re
import struct
import uuid
from collections.abc import Iterator
from pathlib import Path
from socket import IPPROTO_TCP, TCP_CORK

import cv2
import httpx
import pytest
from websockets.sync.client import connect

from maskfer.data.synthetic import clip_frames
from maskfer.release import Release
from services.scoring.statistics import Statistics
from tests.integration.conftest import free_port
from tests.integration.watched import Served, served

_SESSION = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"


@pytest.fixture(scope="module")
def photo() -> bytes:
    image = next(clip_frames(frames=1, fps=1.0, size=192, seed=7))[0]
    return bytes(cv2.imencode(".jpg", image)[1])


@pytest.fixture(scope="module")
def service(plain: Served) -> Iterator[httpx.Client]:
    with plain.client() as client:
        yield client


def _show(client: httpx.Client, photo: bytes, *, session: str, consent: bool, frames: int = 3) -> list[dict]:
    """Send a picture some times, as the page does, and return the readings' faces."""
    address = f"ws://{client.base_url.host}:{client.base_url.port}/live"
    hello = {"type": "hello", "protocol": 1, "session": session, "consent": consent}
    faces = []
    with connect(address) as socket:
        socket.send(json.dumps(hello))
        assert json.loads(socket.recv())["type"] == "ready"
        for frame in range(frames):
            socket.send(struct.pack("<BBHI", 1, 0, 0, frame) + photo)
            faces += json.loads(socket.recv())["faces"]
    return faces


def test_what_was_shown_is_what_is_kept(service: httpx.Client, photo: bytes) -> None:
    session = str(uuid.uuid4())
    faces = _show(service, photo, session=session, consent=True)
    answer = service.get(f"/statistics/{session}")
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert (body["session"], body["days_kept"]) == (session, 30)
    minutes = body["minutes"]
    assert sum(minute["frames"] for minute in minutes) == 3
    assert sum(minute["faces"] for minute in minutes) == len(faces) == 3
    assert sum(minute["masked"] for minute in minutes) == sum(face["masked"] for face in faces)
    for name in ("positive", "neutral", "negative"):
        kept = sum(minute["probabilities"][name] * minute["faces"] for minute in minutes)
        assert kept == pytest.approx(sum(face["probabilities"][name] for face in faces), abs=1e-9)
        shown = sum(face["expression"] == name for face in faces)
        assert sum(minute["expressions"][name] for minute in minutes) == shown
    for name in ("up", "left", "center", "right", "down"):
        looks = sum(face["orientation"] == name for face in faces)
        assert sum(minute["orientations"][name] for minute in minutes) == looks

    table = service.get(f"/statistics/{session}.csv")
    assert table.headers["content-type"].startswith("text/csv")
    assert "attachment" in table.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(table.text)))
    assert [row["minute"] for row in rows] == [minute["minute"] for minute in minutes]
    assert [float(row["mean_positive"]) for row in rows] == [m["probabilities"]["positive"] for m in minutes]

    assert service.delete(f"/statistics/{session}").json()["deleted_minutes"] == len(minutes)
    assert service.get(f"/statistics/{session}").json()["minutes"] == []


def test_without_consent_nothing_is_kept(service: httpx.Client, photo: bytes) -> None:
    session = str(uuid.uuid4())
    assert _show(service, photo, session=session, consent=False)
    assert service.get(f"/statistics/{session}").json()["minutes"] == []


def test_options_count_from_the_next_frame_on(service: httpx.Client, photo: bytes) -> None:
    session = str(uuid.uuid4())
    frames = [struct.pack("<BBHI", 1, 0, 0, number) + photo for number in range(3)]
    with connect(f"ws://{service.base_url.host}:{service.base_url.port}/live") as socket:
        socket.send(json.dumps({"type": "hello", "protocol": 1, "session": session}))
        assert json.loads(socket.recv())["type"] == "ready"
        # One at work and one that waits when the options arrive.
        socket.socket.setsockopt(IPPROTO_TCP, TCP_CORK, 1)
        for frame in frames[:2]:
            socket.send(frame)
        socket.send(json.dumps({"type": "options", "consent": True, "heatmap": True}))
        socket.socket.setsockopt(IPPROTO_TCP, TCP_CORK, 0)
        before = [json.loads(socket.recv()) for _ in range(2)]
        socket.send(frames[2])
        after = json.loads(socket.recv())
    assert [answer["faces"][0]["heatmap"] for answer in before] == [None, None]
    assert after["faces"][0]["heatmap"] is not None
    minutes = service.get(f"/statistics/{session}").json()["minutes"]
    assert sum(minute["frames"] for minute in minutes) == 1


@pytest.mark.parametrize("path", ["anybody", "anybody.csv", "%27%20OR%201=1", f"{_SESSION}?minutes=all"])
def test_what_is_no_session_is_refused(service: httpx.Client, path: str) -> None:
    answer = service.get(f"/statistics/{path}")
    assert answer.status_code == 422
    assert answer.json()["error"] == "InputError"


def test_the_last_minutes_alone_can_be_asked_for(service: httpx.Client, photo: bytes) -> None:
    session = str(uuid.uuid4())
    _show(service, photo, session=session, consent=True, frames=1)
    assert len(service.get(f"/statistics/{session}?minutes=60").json()["minutes"]) == 1


def test_a_service_that_is_stopped_writes_what_it_holds(
    reads_light: Release, photo: bytes, tmp_path: Path
) -> None:
    session = str(uuid.uuid4())
    with served(tmp_path, reads_light) as running, running.client() as client:
        _show(client, photo, session=session, consent=True, frames=4)
    with Statistics(f"sqlite:///{tmp_path}/statistics.db", days=30) as statistics:
        assert sum(minute.faces for minute in statistics.read(session)) == 4


def test_without_its_database_the_service_scores_on(
    reads_light: Release, photo: bytes, tmp_path: Path
) -> None:
    # Nobody listens there.
    away = f"postgresql://nobody:secret@127.0.0.1:{free_port()}/statistics"
    session = str(uuid.uuid4())
    settings = {"MASKFER_STATISTICS_URL": away}
    with served(tmp_path, reads_light, **settings) as running, running.client() as client:
        assert len(_show(client, photo, session=session, consent=True)) == 3
        assert client.post("/analyze", content=photo).status_code == 200
        answer = client.get(f"/statistics/{session}")
        assert answer.status_code == 503
        assert "127.0.0.1" not in answer.text
        assert client.get("/readyz").status_code == 200
        assert running.total("maskfer_statistics_failures_total") >= 1
    log = (tmp_path / "log").read_text()
    assert log.count("does not answer") == 1
    assert "secret" not in log


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/page/main.js", "text/javascript; charset=utf-8"),
        ("/page/style.css", "text/css; charset=utf-8"),
        ("/page/icon.svg", "image/svg+xml"),
    ],
)
def test_the_page_s_files_are_served(service: httpx.Client, path: str, media_type: str) -> None:
    answer = service.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == media_type
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    again = service.get(path, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path", ["/page/none.js", "/page/../service.py", "/page/%2e%2e%2fservice.py", "/page/"]
)
def test_nothing_else_is(service: httpx.Client, path: str) -> None:
    assert service.get(path).status_code == 404


def test_the_page_names_only_files_that_are_there(service: httpx.Client) -> None:
    html = service.get("/").text
    names = set(re.findall(r'(?:src|href)="(page/[^"]+)"', html))
    assert {"page/main.js", "page/style.css", "page/theme.js", "page/icon.svg"} <= names
    seen: set[str] = set()
    while names - seen:
        name = (names - seen).pop()
        seen.add(name)
        answer = service.get(f"/{name}")
        assert answer.status_code == 200, name
        if name.endswith(".js"):
            names |= {f"page/{found}" for found in re.findall(r'from "\./([^"]+)"', answer.text)}
    assert "http" not in re.sub(r"http://www\.w3\.org/2000/svg", "", html)
