"""Errors that nobody expected, and those of one request: each is told in OpenAI's form, and the server lives."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from served import Served, export, serving

BROKEN = """
import symlm.serve.answers as answers, symlm.serve.tokens as tokens
def raised(*_):
    raise RuntimeError('raised on purpose')
answers.Answers._choice = tokens.tokenizer_info = raised
"""


@pytest.fixture(scope="module")
def broken(served_model: Path) -> Iterator[Served]:
    with serving(served_model, patch=BROKEN) as server:
        yield server


def printed(server: Served, what: str) -> int:
    """How often the server has printed something, once it has."""
    while not any(what in line for line in server.said):
        time.sleep(0.01)
    return sum(what in line for line in server.said)


def test_an_error_that_nobody_expected_is_printed_and_told(broken: Served) -> None:
    for number, (method, path) in enumerate((("POST", "/v1/completions"), ("GET", "/tokenizer_info"))):
        answer = broken.client.request(method, path, content=b'{"prompt": "the", "max_tokens": 2}')
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
        assert answer.json()["error"]["type"] == "server_error"
        assert "default-src" in answer.headers["content-security-policy"]
        while printed(broken, "RuntimeError: raised on purpose") <= number:
            time.sleep(0.01)
    assert broken.client.get("/health").status_code == 200
    assert broken.metric("requests_active") == 0


def test_a_stream_ends_with_the_error(broken: Served) -> None:
    before = sum("raised on purpose" in line for line in broken.said)
    answer = broken.post("/v1/completions", {"prompt": "the", "max_tokens": 2, "stream": True})
    assert last_event(answer.text)["error"]["code"] == "internal_error"
    while printed(broken, "RuntimeError: raised on purpose") <= before:
        time.sleep(0.01)
    # The answer has ended before the server has forgotten it.
    while broken.metric("requests_active") > 0:
        time.sleep(0.01)


def last_event(text: str) -> dict[str, Any]:
    """The object at the end of a stream."""
    found: dict[str, Any] = json.loads(text.strip().rpartition("data: ")[2])
    return found


@pytest.fixture(scope="module")
def damaged(served_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of a model whose logits are not numbers."""
    folder = export(served_model, tmp_path_factory.mktemp("damaged") / "model")
    file = folder / "model.safetensors"
    raw = bytearray(file.read_bytes())
    size = struct.unpack("<Q", raw[:8])[0]
    begin = 8 + size + json.loads(raw[8 : 8 + size])["model.norm.weight"]["data_offsets"][0]
    raw[begin : begin + 4] = struct.pack("<f", float("nan"))
    file.write_bytes(raw)
    with serving(folder) as server:
        yield server


@pytest.mark.parametrize("asked", [{"max_tokens": 0, "echo": True, "logprobs": 1}, {"max_tokens": 2}])
def test_logits_that_are_no_numbers_are_an_error_of_the_request(damaged: Served, asked: dict[str, Any]) -> None:
    body = {"prompt": "the quick", **asked}
    error = damaged.post("/v1/completions", body)
    told = "the logits are not finite numbers (the weights of the model are damaged)"
    assert (error.status_code, error.json()["error"]["type"]) == (500, "server_error")
    assert error.json()["error"]["message"] == told
    streamed = damaged.post("/v1/completions", {**body, "stream": True})
    assert last_event(streamed.text) == error.json()
    assert not any("Traceback" in line for line in damaged.said)
