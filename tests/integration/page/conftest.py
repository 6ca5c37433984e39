"""A real Chromium with a film as its camera, before a started service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import UInt8
from playwright.sync_api import Browser, Playwright, expect, sync_playwright

from tests.integration.browser import DESK, Seen, as_camera, browser, drawn_face, film_lights
from tests.integration.watched import Served

_FAR = "--host-resolver-rules=MAP faces.test 127.0.0.1"
"""Gives the service an address that is not localhost."""


@pytest.fixture(scope="module")
def service(plain: Served) -> str:
    """Of a release that reads light, so that a film can change its mind."""
    return f"http://localhost:{plain.port}"


@pytest.fixture(scope="module")
def face() -> UInt8[np.ndarray, "s s 3"]:
    return drawn_face()


@pytest.fixture(scope="module")
def film(face: UInt8[np.ndarray, "s s 3"], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six seconds, a light every two."""
    return film_lights(tmp_path_factory.mktemp("film") / "lights.mp4", face, seconds=6.0)


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    expect.set_options(timeout=60_000)  # the default of 5 s is not enough for a busy machine
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="module")
def chrome(playwright: Playwright, film: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    camera = as_camera(film, tmp_path_factory.mktemp("camera") / "camera.mjpeg")
    with browser(playwright, camera=camera, flags=(_FAR,)) as started:
        yield started


@pytest.fixture
def seen(chrome: Browser, service: str) -> Iterator[Seen]:
    """A fresh page; it must not have complained by the end of the test."""
    with chrome.new_context(viewport=DESK, accept_downloads=True) as context:
        seen = Seen(context.new_page()).watch()
        seen.page.goto(service)
        yield seen
        assert seen.complaints == []
