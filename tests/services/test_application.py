"""What `maskfer live` shows: the picture, the window, the terminal."""

from __future__ import annotations

import io
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from maskfer.errors import InputError
from services.scoring.application.display import Terminal
from services.scoring.application.link import live_address
from services.scoring.application.source import VideoSource
from services.scoring.application.view import MAX_WIDTH, View, draw
from services.scoring.application.window import open_window, portable_pixmap
from services.scoring.protocol import LiveFace
from tests.films import film

_GREEN = (120, 200, 120)


def _face(*, positive: float = 0.8, box: tuple[float, float, float, float] = (60, 40, 100, 120)) -> LiveFace:
    shares = {"positive": positive, "neutral": 0.9 - positive, "negative": 0.1}
    return LiveFace(
        track=3,
        box=box,
        confidence=None,
        probabilities=shares,
        raw=shares,
        expression="positive",
        masked=True,
        masked_probability=0.9,
        orientation="left",
    )


def _view(*faces: LiveFace, width: int = 480) -> View:
    return View(np.full((300, width, 3), 90, np.uint8), faces, "maskfer 3  12 ms  20 frames/s")


def _count(picture: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((picture == np.array(color, np.uint8)).all(axis=-1).sum())


def test_a_face_is_framed_and_its_bars_are_as_long_as_its_shares() -> None:
    assert _count(draw(_view()), _GREEN) == 0
    short, long = draw(_view(_face(positive=0.2))), draw(_view(_face(positive=0.8)))
    assert _count(short, _GREEN) > 300
    positive = (110, 190, 90)
    assert _count(long, positive) > 2 * _count(short, positive)


def test_a_face_at_the_edge_is_drawn_too_and_the_camera_s_picture_is_left_alone() -> None:
    view = _view(_face(box=(430, -20, 200, 400)))
    assert view.image is not None
    before = view.image.copy()
    assert _count(draw(view), _GREEN) > 0
    np.testing.assert_array_equal(view.image, before)


def test_a_wide_picture_is_reduced_and_no_picture_is_drawn_too() -> None:
    assert draw(_view(_face(), width=2 * MAX_WIDTH)).shape[1] == MAX_WIDTH
    assert draw(View(None, (), "connection lost")).ndim == 3


def test_a_pixmap_says_red_green_blue() -> None:
    assert portable_pixmap(np.array([[[1, 2, 3]]], np.uint8)) == b"P6 1 1 255\n\x03\x02\x01"


def test_a_terminal_names_every_face_with_its_bars() -> None:
    output = io.StringIO()
    terminal = Terminal("maskfer live", Console(file=output, force_terminal=True, width=100))
    terminal.show(_view(_face(positive=0.5)))
    terminal.close()
    shown = output.getvalue()
    for words in ("20 frames/s", "3: masked 90%, looks left", "positive", "50%", "█" * 12 + "░" * 12):
        assert words in shown


@pytest.fixture
def screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A screen without glass, as the file that its pixels are in."""
    if shutil.which("Xvfb") is None:
        pytest.skip("Xvfb is not installed; without it nothing can be shown here")
    pytest.importorskip("tkinter")
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "640x480x24", "-fbdir", str(tmp_path)]
    with subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL) as server:
        os.close(write)
        with os.fdopen(read) as told:
            number = told.readline().strip()
        try:
            assert number, "Xvfb did not start"
            monkeypatch.setenv("DISPLAY", f":{number}")
            yield tmp_path / "Xvfb_screen0"
        finally:
            server.terminate()


def _pixels(screen: Path) -> np.ndarray:
    """Read X's own picture of its screen (XWD, 32 bits a pixel), BGR."""
    content = screen.read_bytes()
    header = struct.unpack(">25I", content[:100])
    width, height, bytes_per_line, colors = header[4], header[5], header[12], header[19]
    start = header[0] + 12 * colors
    rows = np.frombuffer(content, np.uint8, height * bytes_per_line, start).reshape(height, bytes_per_line)
    return rows[:, : 4 * width].reshape(height, width, 4)[..., :3]


def test_a_window_shows_the_picture_and_escape_ends_it(screen: Path) -> None:
    window = open_window("maskfer live")
    assert window is not None
    try:
        window.show(_view(_face()))
        window.show(_view(_face()))
        assert _count(_pixels(screen), _GREEN) > 300
        assert not window.closed
        window._root.focus_force()
        window._root.update()
        window._root.event_generate("<Escape>")
        window._root.update()
        assert window.closed
    finally:
        window.close()


def test_without_a_screen_there_is_no_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    assert open_window("maskfer live") is None


@pytest.mark.parametrize(
    ("server", "address"),
    [
        ("http://127.0.0.1:3000", "ws://127.0.0.1:3000/live"),
        ("https://faces.example.org/scoring/", "wss://faces.example.org/scoring/live"),
        ("ws://[::1]:3000", "ws://[::1]:3000/live"),
    ],
)
def test_an_address_becomes_the_live_endpoint_s(server: str, address: str) -> None:
    assert live_address(server) == address


@pytest.mark.parametrize(
    "server", ["", "localhost:3000", "127.0.0.1", "ftp://x", "http://", "http://[x", "http://x:99999"]
)
def test_what_is_no_address_is_refused(server: str) -> None:
    with pytest.raises(InputError, match="is no address"):
        live_address(server)


def test_a_patient_video_gives_every_frame_and_an_impatient_one_the_newest(tmp_path: Path) -> None:
    clip = film(tmp_path / "clip.mp4", frames=12, fps=12.0)
    patient = VideoSource(clip, fast=True)
    frames = []
    while not patient.ended:
        shot = patient.newest()
        assert shot is not None
        frames.append(shot.index)
    assert frames == list(range(12))
    assert patient.skipped == 0

    player = VideoSource(clip, fast=False)
    seen = []
    while not player.ended:
        shot = player.newest()
        if shot is not None:
            seen.append(shot.index)
    assert seen[0] == 0
    assert seen[-1] == 11
    assert len(seen) + player.skipped == 12
