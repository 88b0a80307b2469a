"""The page in a browser: written on, stopped, coloured, read by keyboard, on a phone. SYMLM_SCREENSHOTS names a folder
for pictures of it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from patched import GATE, STEPS
from served import Served, serving

pytestmark = pytest.mark.browser

PICTURES = os.environ.get("SYMLM_SCREENSHOTS")
DESK, PHONE = (1200, 800), (390, 844)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(browser: Browser, server: Served, size: tuple[int, int] = DESK) -> Iterator[Page]:
    """The page, which may report no error."""
    width, height = size
    context = browser.new_context(viewport={"width": width, "height": height}, has_touch=width < 500)
    page = context.new_page()
    wrong: list[str] = []
    outside: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    # An answer that is an error is in the console too; all else there is the page's fault.
    page.on(
        "console",
        lambda told: wrong.append(told.text) if told.type == "error" and "resource" not in told.text else None,
    )
    page.on("request", lambda asked: None if asked.url.startswith(server.url) else outside.append(asked.url))
    page.goto(server.url)
    expect(page.locator("#status")).to_have_text("ready")
    yield page
    context.close()
    assert (wrong, outside) == ([], [])


@pytest.fixture
def page(browser: Browser, server: Served, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The page of a server with its defaults."""
    with opened(browser, server, getattr(request, "param", DESK)) as page:
        yield page


def picture(page: Page, name: str) -> None:
    if PICTURES:
        page.screenshot(path=Path(PICTURES) / f"{name}.png")


def until(what: Callable[[], bool]) -> None:
    while not what():
        time.sleep(0.02)


def write(page: Page, prompt: str, **settings: str) -> None:
    for name, value in settings.items():
        page.fill(f"#{name}", value)
    page.fill("#prompt", prompt)
    page.click("#go")


def test_text_streams_and_tokens_tell_their_probability(page: Page, server: Served) -> None:
    write(page, "the quick", max_new_tokens="20", seed="7", temperature="0.9")
    expect(page.locator("#status")).to_contain_text("as long as asked")
    expect(page.locator("#status")).to_contain_text("20 tokens, ")
    expect(page.locator("#status")).to_contain_text("tokens/s")
    wanted = server.complete(prompt="the quick", max_tokens=20, seed=7, temperature=0.9)["choices"][0]["text"]
    assert page.locator("#output").inner_text() == "the quick" + wanted
    assert page.locator(".token").count() == 20
    picture(page, "text")
    page.locator(".token").nth(3).hover()
    expect(page.locator("#tip")).to_be_visible()
    assert page.locator("#tip tr").count() >= 5
    expect(page.locator("#tip .chosen")).to_contain_text("%")
    picture(page, "alternatives")
    plain = "getComputedStyle(document.querySelector('.token.p0, .token.p1, .token.p2, .token.p3')).backgroundColor"
    assert page.evaluate(plain) != "rgba(0, 0, 0, 0)"
    page.uncheck("#colours")
    assert page.evaluate(plain) == "rgba(0, 0, 0, 0)"


def test_the_controls_have_the_names_of_the_flags(page: Page) -> None:
    flags = page.locator("#controls code").all_inner_texts()
    names = ["max-new-tokens", "temperature", "top-k", "top-p", "min-p", "repetition-penalty", "seed", "stop"]
    assert flags == [f"--{name}" for name in names]


def test_stop_ends_a_text_and_frees_the_slot(browser: Browser, served_model: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with serving(served_model, patch=GATE, GATE=str(gate)) as server, opened(browser, server) as page:
        write(page, "the", max_new_tokens="60")
        expect(page.locator(".token").first).to_be_attached()
        page.click("#stop")
        expect(page.locator("#status")).to_contain_text("stopped")
        expect(page.locator("#go")).to_be_enabled()
        until(lambda: server.metric("clients_left_total") == 1)
        gate.touch()
        until(lambda: server.metric("sequences_running") == 0)
        assert server.metric("written_tokens_total") <= STEPS
        write(page, "the", max_new_tokens="3")
        expect(page.locator("#status")).to_contain_text("3 tokens")


def test_alternatives_are_in_the_order_of_their_probability(page: Page) -> None:
    top = {"a": -0.5, "7": -4.0, "b": -1.5, "12": -5.0, "c": -2.0, "d": -3.0, "e": -3.5}
    logprobs = {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [top], "text_offset": [0]}
    choice = {"index": 0, "text": "a", "logprobs": logprobs, "finish_reason": "length"}
    body = f"data: {json.dumps({'choices': [choice]})}\n\ndata: [DONE]\n\n"
    page.route("**/v1/completions", lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    write(page, "the")
    page.locator(".token").first.hover()
    assert page.locator("#tip td:first-child").all_inner_texts() == ["a", "b", "c", "d", "e"]


def test_an_error_is_shown(page: Page) -> None:
    write(page, "the", top_p="7")
    expect(page.locator("#status.bad")).to_contain_text("top_p: ")


def test_the_keyboard_is_enough(page: Page) -> None:
    expect(page.locator("#prompt")).to_be_focused()
    page.keyboard.type("a lazy")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#status")).to_contain_text("tokens/s")
    expect(page.locator("#go")).to_be_enabled()
    page.keyboard.press("Shift+Tab")
    expect(page.locator("#output")).to_be_focused()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tip")).to_be_visible()
    expect(page.locator(".token.at")).to_have_count(1)
    picture(page, "keyboard")


@pytest.mark.parametrize("page", [PHONE], indirect=True)
def test_it_fits_a_phone(page: Page) -> None:
    page.fill("#prompt", "the quick brown fox")
    page.locator("#go").tap()
    expect(page.locator("#status")).to_contain_text("tokens/s")
    expect(page.locator("#go")).to_be_enabled()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator(".token").nth(2).tap()
    expect(page.locator("#tip")).to_be_visible()
    assert page.evaluate("document.querySelector('#tip').getBoundingClientRect().right <= innerWidth")
    picture(page, "phone")
    page.locator("#seed").scroll_into_view_if_needed()
    picture(page, "phone-controls")
