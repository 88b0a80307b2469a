"""The page of a model with a chat template."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from patched import GATE
from served import Served, serving

from .test_page import DESK, PHONE, browser, opened, picture, write

__all__ = ["browser"]

pytestmark = pytest.mark.browser

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{{ '<assistant>' if add_generation_prompt }}"
)


@pytest.fixture(scope="module")
def model(served_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template") / "model"
    shutil.copytree(served_model, folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    return folder


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Served]:
    with serving(model) as server:
        yield server


def send(page: Page, text: str, **settings: str) -> list[dict[str, Any]]:
    """Send a message; gives all that the server gets."""
    with page.expect_request("**/v1/chat/completions") as asked:
        write(page, text, **settings)
    messages: list[dict[str, Any]] = asked.value.post_data_json["messages"]
    return messages


@pytest.mark.parametrize("size", [DESK, PHONE])
def test_a_conversation(browser: Browser, server: Served, size: tuple[int, int]) -> None:
    with opened(browser, server, size) as page:
        expect(page.locator("#tab-chat")).to_have_attribute("aria-selected", "true")
        first = [{"role": "user", "content": "fox"}]
        assert send(page, "fox", max_new_tokens="6", seed="1", temperature="0.9") == first
        expect(page.locator("#status")).to_contain_text("tokens/s, ")
        assert page.locator(".turn .who").all_inner_texts() == ["You", "Model"]
        answer = "".join(page.locator(".turn").nth(1).locator(".token").all_text_contents())
        body = {"messages": first, "max_tokens": 6, "seed": 1, "temperature": 0.9}
        wanted = server.post("/v1/chat/completions", body).json()["choices"][0]["message"]["content"]
        assert answer == wanted
        assert page.input_value("#prompt") == ""
        then = send(page, "dog")
        assert [one["content"] for one in then] == ["fox", answer, "dog"]
        expect(page.locator(".turn")).to_have_count(4)
        expect(page.locator("#status")).to_contain_text("tokens/s, ")
        page.locator(".turn").nth(3).locator(".token").nth(1).hover()
        expect(page.locator("#tip")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        picture(page, "chat" if size == DESK else "chat-phone")


def test_a_refused_message_can_be_changed(browser: Browser, server: Served) -> None:
    with opened(browser, server) as page:
        send(page, "fox " * 100)
        expect(page.locator("#status.bad")).to_contain_text("the context of this model")
        assert page.input_value("#prompt") == "fox " * 100
        expect(page.locator(".turn")).to_have_count(0)
        assert send(page, "fox", max_new_tokens="2") == [{"role": "user", "content": "fox"}]
        picture(page, "chat-refused")


@pytest.mark.parametrize("leave", ["#clear", "#tab-text"])
def test_an_answer_that_is_left_is_not_in_the_next_conversation(
    browser: Browser, model: Path, tmp_path: Path, leave: str
) -> None:
    with serving(model, patch=GATE, GATE=str(tmp_path / "gate")) as server, opened(browser, server) as page:
        send(page, "fox", max_new_tokens="30")
        expect(page.locator(".token").first).to_be_attached()
        page.click(leave)
        expect(page.locator("#status")).to_contain_text("stopped")
        expect(page.locator("#output")).to_be_empty()
        page.click("#tab-chat")
        assert send(page, "dog") == [{"role": "user", "content": "dog"}]
        expect(page.locator(".turn .who")).to_have_text(["You", "Model"])
