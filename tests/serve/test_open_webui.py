"""The requests of Open WebUI: it lists the models, sends a chat with its settings, and asks for titles and tags."""

from __future__ import annotations

from typing import Any

import pytest

from served import Served

HEADERS = {
    "Content-Type": "application/json", "Authorization": "Bearer none", "X-OpenWebUI-User-Name": "A%20B",
    "X-OpenWebUI-User-Id": "1", "X-OpenWebUI-User-Role": "admin", "X-OpenWebUI-Chat-Id": "2",
}  # fmt: skip


def test_a_connection_is_verified_by_the_list_of_models(server: Served) -> None:
    """With the head of a request that has a body, and without a key where none was entered."""
    for key in ("Bearer none", "Bearer"):
        answer = server.client.get("/v1/models", headers={**HEADERS, "Authorization": key})
        assert answer.status_code == 200
        assert [model["object"] for model in answer.json()["data"]] == ["model"]


def test_the_settings_of_a_chat_in_a_stream(server: Served) -> None:
    text = {"type": "text", "text": "fox", "cache_control": {"type": "ephemeral"}}
    body = {
        "stream": True, "model": "model", "stream_options": {"include_usage": True}, "temperature": 0.8, "top_p": 0.9,
        "min_p": 0.05, "max_tokens": 6, "seed": 3, "stop": ["zz"], "logit_bias": {}, "frequency_penalty": 0,
        "presence_penalty": 0, "messages": [
            {"role": "system", "content": "brief"}, {"role": "user", "content": "dog"},
            {"role": "assistant", "content": "a"}, {"role": "user", "content": [text]},
        ],
    }  # fmt: skip
    parts = server.events("/v1/chat/completions", body)
    assert parts[0]["choices"][0]["delta"]["role"] == "assistant"
    assert parts[-1]["usage"]["completion_tokens"] <= 6


def test_tags_come_as_a_whole(server: Served) -> None:
    body: dict[str, Any] = {
        "model": "model", "messages": [{"role": "user", "content": "tags"}], "stream": False, "max_tokens": 4,
    }  # fmt: skip
    answer = server.client.post("/v1/chat/completions", json=body, headers=HEADERS)
    assert answer.status_code == 200
    assert isinstance(answer.json()["choices"][0]["message"]["content"], str)


@pytest.mark.parametrize(
    ("field", "value"),
    [("frequency_penalty", 0.5), ("reasoning_effort", "low"), ("response_format", {"type": "json_object"})],
)
def test_what_the_model_cannot_do_is_named(server: Served, field: str, value: object) -> None:
    """Open WebUI shows the message in the chat."""
    body: dict[str, Any] = {"model": "model", "messages": [{"role": "user", "content": "fox"}], field: value}
    answer = server.post("/v1/chat/completions", body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)
    assert field in answer.json()["error"]["message"]
