"""Logprobs of prompts and texts, and the endpoints of the tokenizer: what lm-evaluation-harness reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from served import CONTEXT, Served
from symlm import Generator


@pytest.fixture(scope="module")
def generator(served_model: Path) -> Generator:
    return Generator.from_pretrained(served_model)


def log_softmax(generator: Generator, ids: list[int]) -> npt.NDArray[np.float64]:
    """Logarithms of the probabilities after each token, in float64, from the logits."""
    logits = generator.logits(ids).astype(np.float64)
    logits -= logits.max(1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(1, keepdims=True))
    return logits


def test_logprobs_of_a_prompt_are_those_of_the_model(server: Served, generator: Generator) -> None:
    ids = generator.prompt_ids("the quick brown fox. café")
    choice = server.complete(prompt=ids, max_tokens=1, echo=True, logprobs=1, temperature=0)["choices"][0]
    found, rows = choice["logprobs"], log_softmax(generator, ids)
    assert len(found["tokens"]) == len(ids) + 1
    assert (found["token_logprobs"][0], found["top_logprobs"][0]) == (None, None)
    for at, id_ in enumerate(ids[1:]):
        assert found["token_logprobs"][at + 1] == pytest.approx(rows[at][id_], abs=1e-9)
        # Whether a token is the likeliest is read off here, by equality.
        assert max(found["top_logprobs"][at + 1].values()) == pytest.approx(rows[at].max(), abs=1e-9)
        likeliest = found["token_logprobs"][at + 1] == max(found["top_logprobs"][at + 1].values())
        assert likeliest == (rows[at].argmax() == id_)
    assert found["token_logprobs"][-1] == pytest.approx(rows[-1].max(), abs=1e-9)


def test_offsets_are_places_in_the_text(server: Served, generator: Generator) -> None:
    choice = server.complete(prompt="a café", max_tokens=20, echo=True, logprobs=0, seed=5)["choices"][0]
    text, found = choice["text"], choice["logprobs"]
    assert text.startswith("a café")
    for token, offset in zip(found["tokens"], found["text_offset"], strict=True):
        if not token.startswith("bytes:"):
            assert text[offset : offset + len(token)] == token
    alone = server.complete(prompt="a café", max_tokens=20, logprobs=0, seed=5)["choices"][0]["logprobs"]
    assert found["text_offset"][-len(alone["text_offset"]) :] == alone["text_offset"]


def test_a_part_of_a_character_is_named_by_its_bytes(server: Served, generator: Generator) -> None:
    ids = [
        id_ for byte in "∑".encode() for id_ in range(300) if generator.tokenizer.decode_bytes([id_]) == bytes([byte])
    ]
    found = server.complete(prompt=ids, max_tokens=0, echo=True, logprobs=0)["choices"][0]
    assert found["text"] == "∑"
    assert found["logprobs"]["tokens"] == ["bytes:\\xe2", "bytes:\\x88", "bytes:\\x91"]
    assert found["logprobs"]["text_offset"] == [0, 0, 0]


def test_tokenize_and_back(server: Served, generator: Generator) -> None:
    for path in ("/tokenize", "/v1/tokenize"):
        answer = server.post(path, {"prompt": "the quick café", "add_special_tokens": False}).json()
        assert answer["tokens"] == generator.tokenizer.encode("the quick café")
        assert (answer["count"], answer["max_model_len"]) == (len(answer["tokens"]), CONTEXT)
    back = server.post("/detokenize", {"tokens": answer["tokens"]}).json()
    assert back == {"prompt": "the quick café"}
    assert server.post("/detokenize", {"tokens": []}).json() == {"prompt": ""}


def test_special_tokens_that_are_written_out_are_their_ids(server: Served, generator: Generator) -> None:
    end = generator.tokenizer.eot_id
    encode = generator.tokenizer.encode
    text = "a<|endoftext|>b<|endoftext|>"
    assert server.post("/tokenize", {"prompt": text}).json()["tokens"] == [*encode("a"), end, *encode("b"), end]
    assert server.post("/detokenize", {"tokens": [end]}).json() == {"prompt": "<|endoftext|>"}


def test_tokenizer_info(server: Served) -> None:
    for path in ("/tokenizer_info", "/v1/tokenizer_info"):
        info = server.client.get(path).json()
        assert (info["eos_token"], info["model_max_length"]) == ("<|endoftext|>", CONTEXT)
        assert {"bos_token", "pad_token", "chat_template"} <= info.keys()
