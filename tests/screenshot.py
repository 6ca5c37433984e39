"""Makes the picture of the page in docs/: `python -m tests.screenshot --model RELEASE [--out docs/live.png]`.

Two synthetic people, one with a drawn mask, before the real service. The hour of the chart is made of the
model's readings of such faces, set back in time: nobody waits an hour for a picture.
"""

from __future__ import annotations

import argparse
import tempfile
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image as PillowImage
from playwright.sync_api import sync_playwright

from maskfer.data.synthetic import Person, Pose, Scene, draw_face
from maskfer.faces.detect import default_detector
from maskfer.inference import Analyzer, FaceReading
from maskfer.labels import EXPRESSIONS, Orientation
from maskfer.masking.templates import MaskStyle
from maskfer.masking.wear import wear_mask
from maskfer.release import read
from services.scoring.statistics import Statistics
from tests.integration.browser import as_camera, browser, film_rooms
from tests.integration.conftest import MASKFER, environment, free_port, serving

_FACE = 336
_HEIGHT, _WIDTH = 360, 640
_FLAT = 56
"""Colours of the palette that are kept for the page's own; the other 200 are the faces'."""

Picture = UInt8[np.ndarray, "h w 3"]


def main() -> None:
    """Draw, serve, look, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a trained release folder")
    parser.add_argument("--out", type=Path, default=Path("docs/live.png"))
    given = parser.parse_args()
    out = given.out.absolute()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        people = [
            _draw("positive", Orientation.LEFT, seed=5, masked=False),
            _draw("negative", Orientation.RIGHT, seed=12, masked=True),
        ]
        film = film_rooms(home / "two.mp4", [_room(people)] * 24)
        camera = as_camera(film, home / "two.mjpeg", seconds=2.0)
        session = str(uuid.uuid4())
        _fill_hour(home, given.model, session)
        _look(home, given.model.absolute(), camera, session, out)
    _shrink(out)
    print(f"{out}: {out.stat().st_size / 1000:.0f} kB")  # noqa: T201 - a command says what it made


def _shrink(file: Path) -> None:
    """Give the picture a palette: its commonest colours, the flat ones of the page, and 200 others."""
    whole = PillowImage.open(file).convert("RGB")
    colours, counts = np.unique(np.asarray(whole).reshape(-1, 3), axis=0, return_counts=True)
    flat = colours[np.argsort(-counts)[:_FLAT]].ravel().tolist()
    rest = whole.quantize(256 - _FLAT).getpalette() or []
    palette = PillowImage.new("P", (1, 1))
    palette.putpalette(flat + rest[: 3 * (256 - _FLAT)])
    whole.quantize(palette=palette, dither=PillowImage.Dither.NONE).save(file, optimize=True)


def _draw(expression: str, orientation: Orientation, *, seed: int, masked: bool) -> Picture:
    rng = np.random.default_rng(seed)
    person, pose, scene = Person.random(rng), Pose.random(expression, orientation, rng), Scene.random(rng)
    image, landmarks = draw_face(person, pose, scene, size=_FACE, rng=rng)
    if masked:
        style = MaskStyle(type="surgical", color="#a9d4ea")
        image, _ = wear_mask(image, landmarks, orientation, style=style, rng=rng)
    return image


def _room(people: list[Picture]) -> Picture:
    """Two portraits side by side, as a call shows them."""
    room = np.full((_HEIGHT, _WIDTH, 3), (44, 38, 34), np.uint8)
    width = 308
    cut = (_FACE - width) // 2
    for place, person in enumerate(people):
        left = 8 + place * (_WIDTH - width - 16)
        room[12 : 12 + _FACE, left : left + width] = person[:, cut : cut + width]
    return room


def _fill_hour(home: Path, model: Path, session: str) -> None:
    """Keep readings of drawn faces as if they had been seen over the last hour."""
    rng = np.random.default_rng(11)
    analyzer = Analyzer(read(model), default_detector())
    moods: list[list[FaceReading]] = []
    for number, expression in enumerate(EXPRESSIONS):
        turns = (Orientation.CENTER, Orientation.LEFT, Orientation.CENTER, Orientation.RIGHT)
        drawn = [
            _draw(expression, turn, seed=20 + 10 * number + place, masked=place % 2 == 1)
            for place, turn in enumerate(turns)
        ]
        moods.append([reading for image in drawn for reading in analyzer.analyze(image)])
    now = datetime.now(UTC)
    with Statistics(f"sqlite:///{home}/statistics.db", days=30) as statistics:
        for ago in range(54, 0, -1):
            if 24 < ago < 29:
                continue  # nobody was there
            # A meeting that went well in the end.
            weights = np.array([0.25 + 0.01 * (54 - ago), 0.5, 0.1 + 0.25 * (ago > 36)])
            for _ in range(int(rng.integers(40, 120))):
                mood = moods[int(rng.choice(3, p=weights / weights.sum()))]
                statistics.record(session, [mood[int(rng.integers(len(mood)))]], now - timedelta(minutes=ago))


def _look(home: Path, model: Path, camera: Path, session: str, out: Path) -> None:
    port = free_port()
    command = [MASKFER, "serve", "--model", str(model), "--port", str(port)]
    with (
        serving(command, port, log=home / "log", env=environment(home)),
        sync_playwright() as playwright,
        browser(playwright, camera=camera) as chrome,
    ):
        page = chrome.new_page(viewport={"width": 1180, "height": 880}, color_scheme="light")
        page.add_init_script(f"sessionStorage.setItem('maskfer.session', '{session}')")
        page.goto(f"http://localhost:{port}")
        page.get_by_role("switch", name="Keep statistics").check(force=True)
        page.get_by_role("button", name="Start camera").click()
        page.locator(".face").nth(1).wait_for()
        page.wait_for_timeout(4000)
        page.screenshot(path=out, full_page=True)


if __name__ == "__main__":
    main()
