"""`/v1/completions`: the texts of `symlm generate`, in OpenAI's form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from served import CONTEXT, Served
from symlm import Generator


@pytest.fixture(scope="module")
def generator(served_model: Path) -> Generator:
    return Generator.from_pretrained(served_model)


def test_a_text_is_the_one_that_generate_writes(server: Served, generator: Generator) -> None:
    asked = {"temperature": 0.9, "seed": 7}
    answer = server.complete(prompt="the quick", max_tokens=20, **asked)
    wanted = generator.generate("the quick", max_new_tokens=20, **asked)  # type: ignore[arg-type]
    assert answer["choices"][0]["text"] == wanted
    assert answer["object"] == "text_completion"
    assert answer["model"] == "model"
    count = len(generator.prompt_ids("the quick"))
    assert answer["usage"] == {"prompt_tokens": count, "completion_tokens": 20, "total_tokens": count + 20}


def test_settings_left_open_are_those_of_generate(server: Served, generator: Generator) -> None:
    text = server.complete(prompt="the", max_tokens=30, seed=3)["choices"][0]["text"]
    assert text == generator.generate("the", max_new_tokens=30, seed=3)


def test_white_space_at_the_end_of_a_prompt_begins_what_follows(server: Served, generator: Generator) -> None:
    for prompt in ("the quick ", "fox\n", "the  "):
        answer = server.complete(prompt=prompt, max_tokens=12, seed=3, logprobs=0)
        assert answer["choices"][0]["text"] == generator.generate(prompt, max_new_tokens=12, seed=3)
        assert answer["usage"]["completion_tokens"] == 12 == len(answer["choices"][0]["logprobs"]["tokens"])
        assert answer["choices"][0]["logprobs"]["text_offset"][0] == len(prompt)


def test_a_list_of_prompts_gives_what_each_alone_gives(server: Served) -> None:
    asked: dict[str, Any] = {"max_tokens": 12, "seed": 5, "n": 2}
    together = server.complete(prompt=["the quick", "a lazy dog"], **asked)["choices"]
    alone = [server.complete(prompt=prompt, **asked)["choices"] for prompt in ("the quick", "a lazy dog")]
    assert [one["index"] for one in together] == [0, 1, 2, 3]
    assert [one["text"] for one in together] == [one["text"] for choices in alone for one in choices]
    assert together[0]["text"] != together[1]["text"]


def test_ids_are_a_prompt_too(server: Served, generator: Generator) -> None:
    ids = generator.prompt_ids("the quick")
    asked: dict[str, Any] = {"max_tokens": 8, "temperature": 0}
    of_text = server.complete(prompt="the quick", **asked)["choices"][0]["text"]
    assert server.complete(prompt=ids, **asked)["choices"][0]["text"] == of_text
    assert [one["text"] for one in server.complete(prompt=[ids, ids], **asked)["choices"]] == [of_text] * 2


@pytest.mark.parametrize("asked", [{}, {"logprobs": 2}, {"n": 3}, {"echo": True, "logprobs": 0}])
def test_a_stream_is_the_whole_in_parts(server: Served, asked: dict[str, Any]) -> None:
    body = {"prompt": ["the quick", "café"], "max_tokens": 15, "seed": 9, **asked}
    whole = server.complete(**body)
    texts: dict[int, str] = {}
    logprobs: dict[int, dict[str, list[Any]]] = {}
    ends: dict[int, str] = {}
    parts = server.events("/v1/completions", {**body, "stream_options": {"include_usage": True}})
    assert parts[-1]["usage"] == whole["usage"]
    assert parts[-1]["choices"] == []
    for part in parts[:-1]:
        assert part["usage"] is None
        (choice,) = part["choices"]
        index = choice["index"]
        assert index not in ends
        texts[index] = texts.get(index, "") + choice["text"]
        if choice["logprobs"] is not None:
            found = logprobs.setdefault(index, {name: [] for name in choice["logprobs"]})
            for name, values in choice["logprobs"].items():
                found[name] += values
        if choice["finish_reason"]:
            ends[index] = choice["finish_reason"]
    for choice in whole["choices"]:
        assert texts[choice["index"]] == choice["text"]
        assert ends[choice["index"]] == choice["finish_reason"]
        assert logprobs.get(choice["index"]) == choice["logprobs"]


def test_a_stop_text_ends_and_is_not_shown(server: Served) -> None:
    asked: dict[str, Any] = {"prompt": "the quick", "temperature": 0, "max_tokens": 30}
    whole = server.complete(**asked)["choices"][0]["text"]
    stop = whole[7:10]
    choice = server.complete(**asked, stop=["no such text", stop], logprobs=0)["choices"][0]
    assert choice["text"] == whole[: whole.index(stop)]
    assert choice["finish_reason"] == "stop"
    begins = len("the quick")
    assert all(begins <= offset < begins + len(choice["text"]) for offset in choice["logprobs"]["text_offset"])
    streamed = server.events("/v1/completions", {**asked, "stop": stop})
    assert "".join(part["choices"][0]["text"] for part in streamed) == choice["text"]


def test_max_tokens_0_writes_nothing(server: Served) -> None:
    choice = server.complete(prompt="the", max_tokens=0, echo=True, logprobs=1)["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("the", "length")
    assert server.complete(prompt="the", max_tokens=0)["usage"]["completion_tokens"] == 0


def test_without_max_tokens_there_are_16_or_what_there_is_room_for(server: Served) -> None:
    assert server.complete(prompt="the", temperature=0, stop=[])["usage"]["completion_tokens"] <= 16
    ids = [5] * (CONTEXT - 3)
    assert server.complete(prompt=ids)["usage"]["completion_tokens"] <= 3


@pytest.mark.parametrize("body", [{"prompt": [5] * (CONTEXT + 1)}, {"prompt": [5] * 10, "max_tokens": CONTEXT - 9}])
def test_beyond_the_context_is_an_error(server: Served, body: dict[str, Any]) -> None:
    answer = server.post("/v1/completions", body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "prompt")
    assert error["type"] == "invalid_request_error"
    assert f"at most {CONTEXT} tokens" in error["message"]


def test_the_context_can_be_filled(server: Served) -> None:
    usage = server.complete(prompt=[5] * 10, max_tokens=CONTEXT - 10, temperature=0)["usage"]
    assert usage["total_tokens"] <= CONTEXT
    assert server.complete(prompt=[5] * CONTEXT, max_tokens=0, echo=True)["usage"]["total_tokens"] == CONTEXT


@pytest.mark.parametrize(
    ("body", "parameter", "words"),
    [
        ({"suffix": "x"}, "suffix", "not supported"),
        ({"best_of": 3}, "best_of", "not supported"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "repetition_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "not supported"),
        ({"max_token": 5}, "max_token", "did you mean max_tokens?"),
        ({"max_tokens": -1}, "max_tokens", "a whole number from 0"),
        ({"max_tokens": "5"}, "max_tokens", "found '5'"),
        ({"max_tokens": True}, "max_tokens", "found True"),
        ({"temperature": "hot"}, "temperature", "a number"),
        ({"temperature": -1}, "temperature", "temperature: "),
        ({"top_p": 0}, "top_p", "top_p: "),
        ({"logprobs": 99}, "logprobs", "from 0 to 20"),
        ({"logprobs": True}, "logprobs", "found True"),
        ({"n": 0}, "n", "from 1"),
        ({"stop": [1]}, "stop", "a text or a list of texts"),
        ({"stream": 1}, "stream", "true or false"),
        ({"stream_options": {}}, "stream_options", "only a request with stream"),
        ({"prompt": []}, "prompt", "an empty list"),
        ({"prompt": [[]]}, "prompt", "no token"),
        ({"prompt": {"a": 1}}, "prompt", "a text, token ids"),
        ({"prompt": ["a", 1]}, "prompt", "a text, token ids"),
        ({"prompt": [300]}, "prompt", "from 0 to 299"),
        ({"prompt": [-1]}, "prompt", "from 0 to 299"),
        ({"prompt": [1.5]}, "prompt", "a text, token ids"),
        ({"prompt": "\ud800"}, "prompt", "lone surrogate"),
    ],
)
def test_what_is_wrong_is_named(server: Served, body: dict[str, Any], parameter: str, words: str) -> None:
    answer = server.post("/v1/completions", {"prompt": "the", **body})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, parameter)
    assert words in error["message"]


def test_another_model_is_not_found(server: Served) -> None:
    answer = server.post("/v1/completions", {"model": "gpt-4", "prompt": "a"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert server.complete(model="model", prompt="a")["model"] == "model"


def test_fields_that_change_nothing_are_taken(server: Served) -> None:
    neutral: dict[str, Any] = {
        "suffix": None,
        "best_of": 1,
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "logit_bias": {},
    }
    assert server.complete(prompt="the", max_tokens=1, user="me", **neutral)["choices"]


def test_a_request_of_too_much_work_is_refused(server: Served) -> None:
    answer = server.post("/v1/completions", {"prompt": ["a"] * 200, "n": 2})
    assert (answer.status_code, "at most 256" in answer.text) == (400, True)
