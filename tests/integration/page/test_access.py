"""Who can use the page: read, reached, heard, on a phone, without a camera; and what it may not load."""

from __future__ import annotations

import time

import pytest
from playwright.sync_api import Browser, Page, Playwright, expect

from tests.integration.browser import CONTRASTS, DESK, Seen, browser

_PHONE = {"width": 360, "height": 740}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(chrome: Browser, service: str, scheme: str) -> None:
    with chrome.new_context(viewport=DESK, color_scheme=scheme) as context:
        seen = Seen(context.new_page()).watch()
        seen.page.goto(service)
        assert seen.page.evaluate(CONTRASTS) == []
        seen.page.get_by_role("switch", name="Keep statistics").check(force=True)
        seen.start_camera()
        seen.until("a chart", lambda: seen.page.locator("#chart .minute").count())
        assert seen.page.evaluate(CONTRASTS) == []
        # The switch overrules the system.
        ground = "getComputedStyle(document.body).backgroundColor"
        before = seen.page.evaluate(ground)
        other = "Dark" if scheme == "light" else "Light"
        seen.page.get_by_role("radio", name=other).check(force=True)
        assert seen.page.evaluate(ground) != before
        seen.page.reload()
        assert seen.page.evaluate(ground) != before
        assert seen.page.get_by_role("radio", name=other).is_checked()


def test_every_control_has_a_name_and_the_keyboard_reaches_it(seen: Seen) -> None:
    page = seen.page
    controls = page.locator(
        "button:visible, input:visible:not([type=radio]), select:visible, summary:visible"
    )
    _assert_named_and_reached(page, controls.evaluate_all(_NAMES))
    seen.start_camera()
    page.get_by_role("switch", name="Keep statistics").focus()
    page.keyboard.press("Space")  # of a switch, not of the picture
    expect(page.locator("#paused-badge")).to_be_hidden()
    assert page.get_by_role("switch", name="Keep statistics").is_checked()
    seen.until("a chart", lambda: page.locator("#chart .minute").count())
    _assert_named_and_reached(page, controls.evaluate_all(_NAMES))


_NAMES = """(all) => all.filter((e) => !e.disabled).map((e) =>
    [e.id || e.textContent.trim(), (e.ariaLabel ?? e.labels?.[0]?.textContent ?? e.textContent).trim()])"""


def _assert_named_and_reached(page: Page, controls: list[list[str]]) -> None:
    assert controls
    assert [control for control, name in controls if not name] == []
    reached = set()
    page.evaluate("document.activeElement.blur()")
    for _ in range(40):
        page.keyboard.press("Tab")
        focused = page.evaluate(
            """() => {
                const e = document.activeElement;
                const mark = e.matches(".switch input, .segments input") ? e.nextElementSibling : e;
                return [e.id || e.textContent.trim(), e.tagName, getComputedStyle(mark).outlineStyle];
            }"""
        )
        if focused[1] != "BODY":
            assert focused[2] != "none", f"focus is not seen on {focused}"
        reached.add(focused[0])
    assert {control for control, _ in controls} - reached == set()


def test_readings_are_told_to_a_screen_reader_but_not_without_end(seen: Seen) -> None:
    said = "() => { window.said = []; new MutationObserver(() => window.said.push(announcer.textContent))" + (
        ".observe(announcer, { childList: true }) }"
    )
    seen.page.evaluate(said)
    began = time.monotonic()
    seen.start_camera()
    seen.until("a sentence", lambda: "percent" in (seen.page.locator("#announcer").text_content() or ""))
    seen.page.wait_for_timeout(1500)
    sentences = [text for text in seen.page.evaluate("window.said") if text]
    assert len(sentences) <= 1 + (time.monotonic() - began) / 4, "one in four seconds"
    assert seen.page.locator("#announcer").get_attribute("aria-live") == "polite"
    view = seen.page.locator("#view")
    seen.until("a label of the picture", lambda: "percent" in (view.get_attribute("aria-label") or ""))


def test_a_phone_need_not_scroll_sideways(chrome: Browser, service: str) -> None:
    with chrome.new_context(viewport=_PHONE, has_touch=True) as context:
        seen = Seen(context.new_page()).watch()
        seen.page.goto(service)
        seen.page.get_by_role("switch", name="Keep statistics").check(force=True)
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= 360
        seen.start_camera()
        seen.until("a chart", lambda: seen.page.locator("#chart .minute").count())
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "No camera was found"),
        (
            ("--use-fake-device-for-media-stream", "--deny-permission-prompts"),
            "The camera is not allowed",
        ),
    ],
    ids=["none", "denied"],
)
def test_a_camera_that_cannot_be_had_is_said_with_its_remedy(
    playwright: Playwright, service: str, flags: tuple[str, ...], said: str
) -> None:
    with browser(playwright, camera=None, flags=flags) as chrome:
        page = chrome.new_page()
        if said == "No camera was found":
            page.context.grant_permissions(["camera"])
        page.goto(service)
        _assert_no_camera(page, said)


def test_an_address_without_https_that_is_not_this_machine_has_no_camera(
    chrome: Browser, service: str
) -> None:
    with chrome.new_context() as context:
        page = context.new_page()
        page.goto(service.replace("localhost", "faces.test"))
        _assert_no_camera(page, "This address may not use the camera")


def _assert_no_camera(page: Page, said: str) -> None:
    page.get_by_role("button", name="Start camera").click()
    expect(page.get_by_role("alert")).to_contain_text(said)
    expect(page.get_by_role("alert")).to_contain_text("open a film", ignore_case=True)
    expect(page.locator("#empty")).to_be_visible()


def test_the_page_may_load_nothing_from_elsewhere(seen: Seen) -> None:
    stopped = seen.page.evaluate(
        """async () => {
            const stopped = [];
            addEventListener("securitypolicyviolation", (event) => stopped.push(event.effectiveDirective));
            const script = document.createElement("script");
            script.textContent = "window.injected = true";
            document.body.append(script);
            await fetch("https://example.invalid/").catch(() => {});
            await new Promise((done) => setTimeout(done, 200));
            return [window.injected ?? null, ...stopped.sort()];
        }"""
    )
    assert stopped[0] is None
    assert {"connect-src", "script-src-elem"} <= set(stopped[1:])
    seen.complaints.clear()  # the browser says what it stopped
