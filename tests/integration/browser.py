"""A real browser for the page's tests: Chromium with a clip as its camera, and what went wrong in it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeVar

import cv2
import numpy as np
import pytest
from jaxtyping import UInt8
from playwright.sync_api import Browser, ConsoleMessage, Page, Playwright

from maskfer.data.synthetic import clip_frames, write_clip
from tests.films import ffmpeg

T = TypeVar("T")
_SIZE = 256
WIDTH, HEIGHT = 640, 360
LIGHTS = {
    # upper left, lower left, lower right: what the release of tests/known.py reads
    "positive": (0.3, 0.3, 0.3),
    "neutral": (1.0, 1.8, 1.2),
    "negative": (1.8, 1.8, 1.8),
}
DESK = {"width": 1280, "height": 900}
"""Of a window on a desk, pixels."""


def chromium() -> str:
    """The path of Chromium; skips the test where there is none, unless MASKFER_REQUIRE_BROWSER is set."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name)
        if found:
            return found
    if os.environ.get("MASKFER_REQUIRE_BROWSER"):
        pytest.fail("MASKFER_REQUIRE_BROWSER is set, but chromium is not on PATH: apt-get install chromium")
    pytest.skip("chromium is not on this machine: apt-get install chromium")


def shaded(
    face: UInt8[np.ndarray, "s s 3"], lights: tuple[float, float, float]
) -> UInt8[np.ndarray, "h w 3"]:
    """Put a face into a room, lit quarter by quarter."""
    upper_left, lower_left, lower_right = lights
    gain = cv2.resize(
        np.array([[upper_left, 1.0], [lower_left, lower_right]], np.float32), face.shape[:2], interpolation=1
    )
    lit = np.clip(face * gain[..., None], 0, 255).astype(np.uint8)
    room = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    side = HEIGHT - 40
    left = (WIDTH - side) // 2
    room[20 : 20 + side, left : left + side] = cv2.resize(lit, (side, side))
    return room


def drawn_face(seed: int = 5) -> UInt8[np.ndarray, "s s 3"]:
    """One synthetic face, bright enough that light tells on it."""
    return next(clip_frames(frames=1, fps=1.0, size=_SIZE, seed=seed))[0]


def film_lights(out: Path, face: UInt8[np.ndarray, "s s 3"], *, seconds: float, fps: float = 12.0) -> Path:
    """Film a face whose light changes every two seconds, so that its readings do."""
    rooms = [shaded(face, lights) for lights in LIGHTS.values()]
    return film_rooms(out, [rooms[int(i / (2 * fps)) % 3] for i in range(int(seconds * fps))], fps=fps)


def film_rooms(out: Path, rooms: Sequence[UInt8[np.ndarray, "h w 3"]], *, fps: float = 12.0) -> Path:
    """Film pictures in H.264, which browsers play."""
    drawn = out.with_suffix(".drawn.mp4")
    write_clip(drawn, iter(rooms), fps=fps)
    ffmpeg("-i", drawn, "-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", out)
    drawn.unlink()
    return out


def as_camera(film: Path, out: Path, *, seconds: float = 12.0) -> Path:
    """Turn a film into what Chromium takes as a camera."""
    ffmpeg(
        "-i", film, "-t", str(seconds), "-vf", f"scale={WIDTH}:-2", "-q:v", "6", "-pix_fmt", "yuvj420p", out
    )
    return out


@contextmanager
def browser(playwright: Playwright, *, camera: Path | None, flags: tuple[str, ...] = ()) -> Iterator[Browser]:
    """Start Chromium with `camera` as its only camera, or with none."""
    fake = [
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={camera}",
    ]
    # As root, where CI runs, Chromium's own sandbox does not start.
    arguments = ["--no-sandbox", "--disable-gpu", *(fake if camera else []), *flags]
    started = playwright.chromium.launch(executable_path=chromium(), args=arguments)
    try:
        yield started
    finally:
        started.close()


_TRAFFIC = """
window.traffic = { sent: 0, unanswered: 0, most: 0, readings: 0 };
window.WebSocket = class extends WebSocket {
    constructor(...all) {
        super(...all);
        traffic.unanswered = 0;
        this.addEventListener("message", ({ data }) => {
            const { type, frame } = JSON.parse(data);
            if (frame !== undefined) traffic.unanswered -= 1;
            if (type === "reading") traffic.readings += 1;
        });
    }
    send(data) {
        super.send(data);
        if (typeof data === "string") return;
        traffic.sent += 1;
        traffic.unanswered += 1;
        traffic.most = Math.max(traffic.most, traffic.unanswered);
    }
};
"""
"""Counts beside the page's own WebSocket: a devtools client is not told of pictures."""


@dataclass
class Seen:
    """A page, what its console complained of, and what went over its WebSocket."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    def watch(self) -> Self:
        """Listen to the console and to every WebSocket; before the page is opened."""
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.add_init_script(_TRAFFIC)
        return self

    def traffic(self, what: str) -> int:
        """`sent`, `unanswered` and at `most` unanswered pictures, or `readings`."""
        return int(self.page.evaluate("(what) => traffic[what]", what))

    def until(self, what: str, ask: Callable[[], T], *, within_s: float = 60.0) -> T:
        """Ask until the answer is true; fails naming `what`."""
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            answer = ask()
            if answer:
                return answer
            self.page.wait_for_timeout(50)
        pytest.fail(f"not within {within_s:.0f} s: {what}")

    def until_more(self, what: str, *, than: int = 0) -> None:
        """Wait until the traffic has grown by more than `than` from now."""
        before = self.traffic(what)
        self.until(f"more than {than} {what}", lambda: self.traffic(what) > before + than)

    def start_camera(self) -> None:
        """Press the button and wait for a first reading."""
        self.page.get_by_role("button", name="Start camera").click()
        self.page.locator(".face").first.wait_for(timeout=60_000)

    def bars(self) -> dict[str, int]:
        """The bars of the first face, per cent."""
        return dict(self.page.evaluate(_BARS))

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)


_BARS = """() => {
    const face = document.querySelector(".face");
    const bars = [...(face?.querySelectorAll("[role=meter]") ?? [])];
    const value = (bar) => Number(bar.getAttribute("aria-valuenow"));
    return Object.fromEntries(bars.map((bar) => [bar.dataset.label, value(bar)]));
}"""

CONTRASTS = """() => {
    const light = ([r, g, b]) => {
        const linear = [r, g, b].map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
    };
    const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    // Drawn over one another: whatever the notation of a colour, the browser says what it is.
    const blend = (colours) => {
        pen.clearRect(0, 0, 1, 1);
        for (const colour of colours) { pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1); }
        return [...pen.getImageData(0, 0, 1, 1).data];
    };
    const grounds = (element) => {
        const all = [];
        for (let e = element; e; e = e.parentElement) all.unshift(getComputedStyle(e).backgroundColor);
        return ["white", ...all];
    };
    const written = (node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim();
    const found = [];
    for (const element of document.querySelectorAll("body *")) {
        if (![...element.childNodes].some(written) || !element.checkVisibility()) continue;
        if (element.closest("button:disabled, .unseen, noscript")) continue;
        const style = getComputedStyle(element);
        const ground = grounds(element);
        const ink = element.namespaceURI.endsWith("svg") ? style.fill : style.color;
        const [a, b] = [light(blend(ground)), light(blend([...ground, ink]))];
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (contrast < 4.5) found.push([element.tagName, element.textContent.trim().slice(0, 30), contrast]);
    }
    return found;
}"""
"""Texts that are seen and whose contrast with what lies behind them is below 4.5 (WCAG 2.2, 1.4.3)."""
