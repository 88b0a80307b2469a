"""`/v1/chat/completions`: with the model's template, and the plain form of a model without one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from served import Served, serving

USER = [{"role": "user", "content": "fox"}]
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no rules here') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def with_template(served_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("template") / "model"
    shutil.copytree(served_model, folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    with serving(folder) as server:
        yield server


def answer(server: Served, **body: Any) -> str:
    found = server.post("/v1/chat/completions", {"messages": USER, "temperature": 0, "max_tokens": 8, **body})
    assert found.status_code == 200, found.text
    content: str = found.json()["choices"][0]["message"]["content"]
    return content


def test_the_plain_form(server: Served) -> None:
    messages = [{"role": "system", "content": "be brief"}, *USER]
    prompt = "be brief\nUser: fox\nAssistant:"
    text = server.complete(prompt=prompt, temperature=0, max_tokens=8, stop=["\nUser:"])["choices"][0]["text"]
    assert answer(server, messages=messages) == text.lstrip()


def test_the_template_of_the_model(with_template: Served) -> None:
    text = with_template.complete(prompt="<user>fox<assistant>", temperature=0, max_tokens=8)["choices"][0]["text"]
    assert answer(with_template) == text
    parts = [{"type": "text", "text": "f"}, {"type": "text", "text": "ox"}]
    assert answer(with_template, messages=[{"role": "user", "content": parts}]) == text
    assert with_template.client.get("/tokenizer_info").json()["chat_template"] == TEMPLATE
    assert with_template.client.get("/page/settings").json()["chat"] is True


def test_what_the_template_refuses_is_an_error_of_the_request(with_template: Served) -> None:
    found = with_template.post("/v1/chat/completions", {"messages": [{"role": "system", "content": "x"}]})
    assert (found.status_code, found.json()["error"]["code"]) == (400, "chat_template")
    assert "no rules here" in found.text
    assert answer(with_template)


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({"messages": []}, "messages"), ({"messages": "hi"}, "messages"), ({"messages": [{"role": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
        ({"tools": [{"type": "function"}]}, "tools"), ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"top_logprobs": 3}, "top_logprobs"), ({"max_tokens": 0}, "max_tokens"), ({"max_tokens": 999}, "messages"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(server: Served, body: dict[str, Any], parameter: str) -> None:
    found = server.post("/v1/chat/completions", {"messages": USER, **body})
    assert (found.status_code, found.json()["error"]["param"]) == (400, parameter)
