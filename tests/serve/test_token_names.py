"""Tokens of a text as logprobs tell them: their names and places are those of the text, and its end is one of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from served import Served, export, serving
from symlm import Generator

PROMPTS = ("the quick ", "fox\n", "the  ", "a lazy \n ", " ")


@pytest.fixture(scope="module")
def generator(served_model: Path) -> Generator:
    return Generator.from_pretrained(served_model)


def check_places(text: str, found: dict[str, Any], begin: int = 0) -> None:
    """The names of the tokens are the text, each at its place."""
    assert "".join(found["tokens"]) == text
    for token, offset in zip(found["tokens"], found["text_offset"], strict=True):
        assert text[offset - begin :].startswith(token)


def is_whole(choice: dict[str, Any]) -> bool:
    """Whether the text has no part of a character, which is named by its bytes, and no end."""
    return "\ufffd" not in choice["text"] and choice["finish_reason"] == "length"


@pytest.mark.parametrize("prompt", PROMPTS)
def test_white_space_that_a_token_repeats_is_not_in_its_name(server: Served, prompt: str) -> None:
    asked: dict[str, Any] = {"prompt": prompt, "max_tokens": 1, "logprobs": 3, "temperature": 2, "n": 64, "seed": 3}
    asked |= {"top_k": 0, "min_p": 0, "top_p": 1}
    choices = [one for one in server.complete(**asked)["choices"] if is_whole(one)]
    assert len(choices) > 8
    for choice in choices:
        check_places(choice["text"], choice["logprobs"], len(prompt))
        assert all(map(dict.__contains__, choice["logprobs"]["top_logprobs"], choice["logprobs"]["tokens"]))
    echoed = [one for one in server.complete(**asked, echo=True)["choices"] if is_whole(one)]
    assert [one["text"] for one in echoed] == [prompt + one["text"] for one in choices]
    for choice in echoed:
        check_places(choice["text"], choice["logprobs"])


@pytest.fixture(scope="module")
def ended(served_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, list[int]]]:
    """A server of a model that ends every text behind some ids at once, and these ids."""
    generator = Generator.from_pretrained(served_model)
    ids = generator.prompt_ids("the quick brown fox")
    likeliest = int(generator.logits(ids)[-1].argmax())
    folder = export(served_model, tmp_path_factory.mktemp("ended") / "model", end=likeliest)
    with serving(folder) as server:
        yield server, ids


def test_the_token_that_ends_a_text_has_its_logprobs(ended: tuple[Served, list[int]]) -> None:
    server, ids = ended
    body: dict[str, Any] = {"prompt": ids, "max_tokens": 1, "echo": True, "logprobs": 1, "temperature": 0}
    choice = server.complete(**body)["choices"][0]
    found = choice["logprobs"]
    assert {name: len(values) for name, values in found.items()} == dict.fromkeys(found, len(ids) + 1)
    check_places(choice["text"], found)
    assert (choice["finish_reason"], found["tokens"][-1], found["text_offset"][-1]) == ("stop", "", len(choice["text"]))
    assert found["token_logprobs"][-1] == max(found["top_logprobs"][-1].values())
    streamed = server.events("/v1/completions", body)
    tokens = [token for part in streamed for token in part["choices"][0]["logprobs"]["tokens"]]
    assert tokens == found["tokens"]
    assert server.complete(**body)["usage"]["completion_tokens"] == 0


def test_a_chat_tells_only_what_is_content(ended: tuple[Served, list[int]]) -> None:
    server, _ = ended
    body = {"messages": [{"role": "user", "content": "the"}], "logprobs": True, "temperature": 0, "max_tokens": 40}
    choice = server.post("/v1/chat/completions", body).json()["choices"][0]
    spelt = b"".join(bytes(token["bytes"]) for token in choice["logprobs"]["content"])
    assert spelt.decode("utf-8", "replace").strip() == choice["message"]["content"].strip()
