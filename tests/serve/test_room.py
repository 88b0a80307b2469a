"""Room in the context for a text behind white space, which the first tokens repeat."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from served import CONTEXT, Served, serving, train


@pytest.fixture(scope="module")
def indented(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server whose tokens hold up to many blanks."""
    with serving(train(tmp_path_factory.mktemp("indented"), indent=6)) as server:
        yield server


@pytest.mark.parametrize("prompt", ["x" + " " * 48, " " * 48, "x" + " " * 200, "the quick "])
def test_a_text_gets_all_tokens_that_were_asked_for(indented: Served, prompt: str) -> None:
    count = indented.post("/tokenize", {"prompt": prompt}).json()["count"]
    assert count < CONTEXT - 20
    body = {"prompt": prompt, "n": 16, "temperature": 2, "top_k": 0, "top_p": 1, "min_p": 0, "logprobs": 0, "seed": 1}
    for asked in (CONTEXT - count, 2):
        choices = indented.complete(**body, max_tokens=asked)["choices"]
        lengths = [len(one["logprobs"]["tokens"]) for one in choices if one["finish_reason"] == "length"]
        assert set(lengths) == {asked}


def test_beyond_the_context_is_an_error(indented: Served) -> None:
    prompt = "x" + " " * 48
    count = indented.post("/tokenize", {"prompt": prompt}).json()["count"]
    answer = indented.post("/v1/completions", {"prompt": prompt, "max_tokens": CONTEXT - count + 1})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
