"""What the page does: faces of the camera and of films, heatmaps, statistics, tokens, a lost service."""

from __future__ import annotations

import csv
import re
import signal
from pathlib import Path

import cv2
import httpx
import numpy as np
import psutil
import pytest
from jaxtyping import Float32, UInt8
from playwright.sync_api import Browser, Page, Playwright, expect

from maskfer.release import Release
from tests.integration.browser import (
    DESK,
    Seen,
    as_camera,
    browser,
    film_lights,
    film_rooms,
    shaded,
)
from tests.integration.conftest import MASKFER, environment, free_port, gone, serving


def test_bars_move_and_mask_and_direction_change(seen: Seen) -> None:
    seen.start_camera()
    directions, masks, verdicts = set(), set(), set()
    highest = dict.fromkeys(("positive", "neutral", "negative"), 0)
    lowest = dict.fromkeys(highest, 100)

    def all_seen() -> bool:
        for label, value in seen.bars().items():
            highest[label], lowest[label] = max(highest[label], value), min(lowest[label], value)
        card = seen.page.locator(".face").first
        directions.add(card.locator(".looks-word").inner_text())
        masks.add(card.locator(".chip").get_attribute("data-masked"))
        verdicts.add(card.locator(".verdict").inner_text())
        moved = all(highest[label] - lowest[label] > 60 for label in highest)
        return moved and len(verdicts) == 3 and len(directions) >= 3 and len(masks) == 2

    seen.until("three expressions, three directions, with and without a mask", all_seen)
    assert verdicts == {"Positive", "Neutral", "Negative"}
    assert {"Looks up", "Looks ahead", "Looks right"} <= directions
    assert seen.page.locator("#status-text").inner_text() == "Connected"


def test_the_judged_picture_is_shown_with_a_frame_and_its_speed(seen: Seen) -> None:
    seen.start_camera()

    def framed() -> bool:
        """Whether it shows what the camera does, and a frame in a colour that the camera does not have."""
        picture = _shot(seen.page)
        green = (picture[..., 1] - picture[..., 2] > 60) | (picture[..., 2] - picture[..., 1] > 60)
        return bool(picture.std() > 30 and 100 < green.sum() < 0.05 * green.size)

    # Again and again: the page takes the frame away where no reading comes for a second.
    seen.until("the camera's picture with a frame", framed)
    for meter in ("#rate", "#round-trip", "#server-time"):
        expect(seen.page.locator(meter)).to_have_text(re.compile(r"^[1-9]\d*(\.\d)?$"))
    expect(seen.page.locator("#picture-size")).to_have_text(re.compile(r"^640 \S 360$"))


def test_no_more_pictures_wait_than_the_service_allows(seen: Seen) -> None:
    seen.start_camera()
    seen.until("fifty pictures", lambda: seen.traffic("sent") >= 50)
    assert 1 <= seen.traffic("most") <= 2
    assert seen.traffic("readings") > 25


def test_a_hidden_or_paused_page_sends_nothing(seen: Seen) -> None:
    seen.start_camera()
    hide = "(hidden) => Object.defineProperty(document, 'hidden', { value: hidden, configurable: true })"
    seen.page.evaluate(hide, True)
    _assert_silent(seen)
    seen.page.evaluate(hide, False)
    seen.until_more("sent")
    seen.page.keyboard.press("Space")
    expect(seen.page.locator("#paused-badge")).to_be_visible()
    _assert_silent(seen)
    seen.page.keyboard.press("Space")
    seen.until_more("sent")
    seen.page.keyboard.press("Escape")
    expect(seen.page.locator("#empty")).to_be_visible()
    expect(seen.page.locator("#status-text")).to_have_text("Not connected")


def _assert_silent(seen: Seen) -> None:
    def still(ms: int) -> bool:
        before = seen.traffic("sent")
        seen.page.wait_for_timeout(ms)
        return seen.traffic("sent") == before

    seen.until("silence", lambda: still(500))  # a picture that is being encoded may still be sent
    assert still(1000)


def test_a_heatmap_is_drawn_on_request(seen: Seen, face: UInt8[np.ndarray, "s s 3"], tmp_path: Path) -> None:
    grey = np.repeat(face.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)
    # A minute of it: the film must not be over before the last look.
    _open_film(seen, film_rooms(tmp_path / "still.mp4", [shaded(grey, (1.0, 1.8, 1.2))] * 240, fps=4.0))
    seen.page.locator(".face").first.wait_for(timeout=60_000)
    assert _warmth(seen.page) < 6.0
    seen.page.get_by_role("switch", name="Heatmap").check(force=True)
    seen.until("a heatmap", lambda: _warmth(seen.page) > 20.0)
    seen.page.get_by_role("switch", name="Heatmap").uncheck(force=True)
    seen.until("no heatmap", lambda: _warmth(seen.page) < 6.0)


def _open_film(seen: Seen, film: Path) -> None:
    seen.page.locator("#file").set_input_files(film)


def _warmth(page: Page) -> float:
    """How much redder than blue the mouth's place in the picture is, levels."""
    picture = _shot(page)
    height, width = picture.shape[:2]
    middle = picture[int(0.6 * height) : int(0.7 * height), int(0.47 * width) : int(0.53 * width)]
    return float((middle[..., 2] - middle[..., 0]).mean())


def _shot(page: Page) -> Float32[np.ndarray, "h w 3"]:
    """What is seen of the picture, BGR."""
    content = np.frombuffer(page.locator("#view").screenshot(), np.uint8)
    return cv2.imdecode(content, cv2.IMREAD_COLOR).astype(np.float32)


def test_a_film_is_read_to_its_end_and_again(
    seen: Seen, face: UInt8[np.ndarray, "s s 3"], tmp_path: Path
) -> None:
    _open_film(seen, film_lights(tmp_path / "short.mp4", face, seconds=6.0))
    seen.page.locator(".face").first.wait_for(timeout=60_000)
    expect(seen.page.locator("#paused-badge")).to_have_text("The film is over")
    before = seen.traffic("sent")
    seen.page.get_by_role("button", name="Play again").click()
    # More than one: the last picture of the first time may have been on its way.
    seen.until("pictures again", lambda: seen.traffic("sent") > before + 1)


@pytest.mark.parametrize("content", [b"no film at all", b"\x00\x00\x00\x20ftypisom" + bytes(500)])
def test_what_is_no_film_is_said_with_its_remedy(
    chrome: Browser, service: str, tmp_path: Path, content: bytes
) -> None:
    film = tmp_path / "broken.mp4"
    film.write_bytes(content)
    page = chrome.new_page()
    page.goto(service)
    page.locator("#file").set_input_files(film)
    expect(page.get_by_role("alert")).to_contain_text("broken.mp4")
    expect(page.get_by_role("alert")).to_contain_text("Convert it to MP4 (H.264) or WebM")
    page.close()


def test_statistics_fill_are_taken_away_and_deleted(seen: Seen) -> None:
    page = seen.page
    seen.start_camera()
    expect(page.locator("#no-statistics")).to_be_visible()
    assert not page.get_by_role("switch", name="Keep statistics").is_checked()
    page.get_by_role("switch", name="Keep statistics").check(force=True)
    seen.until("a minute in the chart", lambda: page.locator("#chart .minute").count())
    seen.until("faces", lambda: int(page.locator("#totals dd").first.inner_text().replace(",", "")) > 20)
    page.get_by_text("The same as a table").click()
    assert page.locator("#table tbody tr").count() >= 1

    rows = _download(page)
    assert sum(int(row["faces"]) for row in rows) > 20
    for row in rows:
        means = [float(row[f"mean_{name}"]) for name in ("positive", "neutral", "negative")]
        assert sum(means) == pytest.approx(1.0, abs=1e-4)
        assert sum(int(row[f"looks_{name}"]) for name in ("up", "left", "center", "right", "down")) == int(
            row["faces"]
        )

    _delete(page)
    expect(page.locator("#statistics-note")).to_contain_text("Deleted")
    assert not page.get_by_role("switch", name="Keep statistics").is_checked()
    expect(page.locator("#no-statistics")).to_be_visible()
    seen.until_more("readings", than=10)
    session = page.evaluate("sessionStorage.getItem('maskfer.session')")
    assert httpx.get(f"{page.url}statistics/{session}", timeout=30).json()["minutes"] == []


def _download(page: Page) -> list[dict[str, str]]:
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    with download.value.path().open(newline="") as file:
        return list(csv.DictReader(file))


def _delete(page: Page) -> None:
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()


def test_nothing_is_kept_without_consent(seen: Seen) -> None:
    seen.start_camera()
    seen.until_more("readings", than=10)
    session = seen.page.evaluate("sessionStorage.getItem('maskfer.session')")
    assert httpx.get(f"{seen.page.url}statistics/{session}", timeout=30).json()["minutes"] == []


def test_consent_that_is_withdrawn_while_the_page_connects_counts(seen: Seen) -> None:
    page = seen.page
    # A browser may keep a form over a reload; somebody else's consent is none.
    assert page.locator("#consent").get_attribute("autocomplete") == "off"
    page.get_by_role("switch", name="Keep statistics").check(force=True)
    page.evaluate(_UNTICK_AFTER_HELLO)
    seen.start_camera()
    seen.until_more("readings", than=10)
    assert not page.get_by_role("switch", name="Keep statistics").is_checked()
    session = page.evaluate("sessionStorage.getItem('maskfer.session')")
    assert httpx.get(f"{page.url}statistics/{session}", timeout=30).json()["minutes"] == []


_UNTICK_AFTER_HELLO = """() => {
const send = WebSocket.prototype.send;
WebSocket.prototype.send = function (data) {
  send.call(this, data);
  if (typeof data !== "string" || JSON.parse(data).type !== "hello") return;
  document.getElementById("consent").click();
};
}"""


def test_a_token_is_asked_for_and_a_lost_service_comes_back(
    chrome: Browser, reads_light: Release, tmp_path: Path
) -> None:
    port = free_port()
    command = [MASKFER, "serve", "--model", str(reads_light.path), "--port", str(port)]
    env = environment(tmp_path, MASKFER_API_TOKENS='["open-sesame"]')
    with chrome.new_context(viewport=DESK, accept_downloads=True) as context:
        seen = Seen(context.new_page()).watch()
        page = seen.page
        with serving(command, port, log=tmp_path / "log", env=env) as process:
            page.goto(f"http://localhost:{port}")
            note = page.locator("#statistics-note")
            page.get_by_role("button", name="Download CSV").click()
            expect(note).to_contain_text("could not be downloaded: token: missing")
            _delete(page)
            expect(note).to_contain_text("could not be deleted: token: missing")
            page.get_by_role("button", name="Start camera").click()
            dialog = page.get_by_role("dialog")
            expect(dialog).to_contain_text("asks for a token")
            for word in ("guessed", "open-sesame"):
                dialog.get_by_label("Token").fill(word)
                dialog.get_by_role("button", name="Connect").click()
                if word == "guessed":
                    expect(dialog).to_contain_text("not accepted")
            page.locator(".face").first.wait_for(timeout=60_000)
            page.get_by_role("switch", name="Keep statistics").check(force=True)
            seen.until("a minute in the chart", lambda: page.locator("#chart .minute").count())
            assert sum(int(row["faces"]) for row in _download(page)) > 0
            _delete(page)
            expect(note).to_contain_text("Deleted")
            _kill(process.pid)
            expect(page.locator("#banner")).to_contain_text("The connection is lost")
            expect(page.locator("#banner-text")).to_have_attribute("role", "status")
        with serving(command, port, log=tmp_path / "log", env=env):
            expect(page.locator("#status-text")).to_have_text("Connected")
            expect(page.locator("#banner")).to_be_hidden()
            seen.until_more("readings", than=5)
            expect(page.locator(".face").first).to_be_visible()


def _kill(pid: int) -> None:
    """End a service and its processes as a power cut would."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    for process in family:
        process.send_signal(signal.SIGKILL)
    assert gone(family)


@pytest.mark.shared
def test_a_person_on_film_is_read_through_the_camera(
    playwright: Playwright, service: str, shared_dir: Path, tmp_path: Path
) -> None:
    camera = as_camera(shared_dir / "footage" / "portrait.mp4", tmp_path / "portrait.mjpeg", seconds=20.0)
    with browser(playwright, camera=camera) as chrome:
        seen = Seen(chrome.new_page(viewport=DESK)).watch()
        seen.page.goto(service)
        seen.start_camera()
        directions, shares = set(), []

        def all_seen() -> bool:
            directions.add(seen.page.locator(".looks-word").first.text_content())
            shares.append(seen.bars().get("positive", 0))
            return len(directions) >= 2 and max(shares) - min(shares) > 15

        seen.until("bars that move, two directions", all_seen)
        assert seen.complaints == []
