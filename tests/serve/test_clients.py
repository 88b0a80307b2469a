"""What lm-evaluation-harness, Open WebUI and LangChain send, field by field, and what they read in the answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from served import CONTEXT, Served, export, serving
from symlm import Generator

END = "<|endoftext|>"


@pytest.fixture(scope="module")
def generator(served_model: Path) -> Generator:
    return Generator.from_pretrained(served_model)


# --- lm-eval: local-completions with the server's tokenizer -----------------------------------------------------------


def lm_eval_tokenizer(server: Served) -> tuple[str, int]:
    """The end-of-text token and its id, found as lm-eval finds them."""
    info = server.client.get("/tokenizer_info").json()
    assert isinstance(info["eos_token"], str)
    found = server.post("/tokenize", {"prompt": info["eos_token"], "add_special_tokens": False}).json()
    (end,) = found["tokens"]
    return info["eos_token"], end


def lm_eval_scores(server: Served, prompts: list[list[int]], contexts: list[int]) -> list[tuple[float, bool]]:
    """Log-likelihood behind each context, and whether all of it is the likeliest, read as lm-eval reads them."""
    payload = {
        "model": "model", "prompt": prompts, "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234,
        "echo": True,
    }  # fmt: skip
    answer = server.post("/v1/completions", payload)
    assert answer.status_code == 200, answer.text
    found = []
    for choice, begin in zip(sorted(answer.json()["choices"], key=lambda one: one["index"]), contexts, strict=True):
        chosen = choice["logprobs"]["token_logprobs"][begin:-1]
        top = choice["logprobs"]["top_logprobs"][begin:-1]
        found.append((sum(chosen), all(one == max(of.values()) for one, of in zip(chosen, top, strict=True))))
    return found


def scores(generator: Generator, ids: list[int], begin: int) -> tuple[float, bool]:
    """The same from the logits."""
    logits = generator.logits(ids[:-1]).astype(np.float64)
    rows = logits - logits.max(1, keepdims=True)
    rows -= np.log(np.exp(rows).sum(1, keepdims=True))
    picked = [rows[at - 1][ids[at]] for at in range(begin, len(ids))]
    return float(sum(picked)), all(rows[at - 1].argmax() == ids[at] for at in range(begin, len(ids)))


def check_scores(server: Served, generator: Generator, prompts: list[list[int]], contexts: list[int]) -> None:
    for found, ids, begin in zip(lm_eval_scores(server, prompts, contexts), prompts, contexts, strict=True):
        wanted = scores(generator, ids, begin)
        assert found[0] == pytest.approx(wanted[0], abs=1e-9)
        assert found[1] == wanted[1]


def test_lm_eval_loglikelihood(server: Served, generator: Generator) -> None:
    context = generator.prompt_ids("the quick brown")
    likeliest = int(generator.logits(context)[-1].argmax())
    choices = [generator.tokenizer.encode(text) for text in (" fox", " dog jumps", "café")] + [[likeliest]]
    prompts = [context + choice for choice in choices]
    check_scores(server, generator, prompts, [len(context)] * len(prompts))


def test_lm_eval_loglikelihood_rolling(server: Served, generator: Generator) -> None:
    _, end = lm_eval_tokenizer(server)
    ids = generator.tokenizer.encode("the quick brown fox jumps over a lazy dog. " * 8)
    # Windows of max_length - 1 tokens, each behind one token of the window before, or the end of a text.
    size = CONTEXT - 2
    windows = [[ids[at - 1] if at else end, *ids[at : at + size]] for at in range(0, len(ids), size)]
    check_scores(server, generator, windows, [1] * len(windows))


def test_lm_eval_where_the_text_ends(served_model: Path, tmp_path: Path, generator: Generator) -> None:
    """lm-eval leaves out the last token, the one that is drawn: it has to be there where it ends the text too."""
    ids = generator.prompt_ids("the quick brown fox")
    likeliest = int(generator.logits(ids)[-1].argmax())
    with serving(export(served_model, tmp_path / "model", end=likeliest)) as server:
        check_scores(server, generator, [ids, [likeliest, *ids]], [2, 1])


def test_lm_eval_generate_until(server: Served, generator: Generator) -> None:
    text, _ = lm_eval_tokenizer(server)
    prompts = [generator.prompt_ids("the quick"), generator.prompt_ids("a lazy dog")]
    for prompt in prompts:
        payload = {
            "prompt": [prompt], "model": "model", "max_tokens": 16, "temperature": 0, "stop": ["\n\n", ".", text],
            "seed": 1234,
        }  # fmt: skip
        answer = server.post("/v1/completions", payload).json()
        (choice,) = answer["choices"]
        wanted = generator.generate(
            generator.tokenizer.decode(prompt), max_new_tokens=16, temperature=0, stop=["\n\n", "."]
        )
        assert (choice["index"], choice["text"]) == (0, wanted)


# --- Open WebUI -------------------------------------------------------------------------------------------------------


def test_open_webui_chat(server: Served) -> None:
    models = server.client.get("/v1/models", headers={"Authorization": "Bearer none"}).json()
    body = {
        "stream": True, "model": models["data"][0]["id"], "messages": [{"role": "user", "content": "fox"}],
        "stream_options": {"include_usage": True}, "max_tokens": 8, "temperature": 0.7, "stop": None,
    }  # fmt: skip
    parts = server.events("/v1/chat/completions", body)
    assert parts[0]["choices"][0]["delta"]["role"] == "assistant"
    assert parts[-1]["usage"]["completion_tokens"] <= 8


def test_open_webui_title(server: Served) -> None:
    """Its prompts for titles are long: beyond a short context it gets the error that it shows."""
    task = "### Task:\nGenerate a concise, 3-5 word title with an emoji summarizing the chat history.\n" * 8
    body: dict[str, Any] = {"model": "model", "messages": [{"role": "user", "content": task}], "stream": False}
    answer = server.post("/v1/chat/completions", {**body, "max_completion_tokens": 1000})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert "detail" not in answer.json()


# --- LangChain --------------------------------------------------------------------------------------------------------


def test_langchain_openai(server: Served) -> None:
    body: dict[str, Any] = {
        "model": "model", "prompt": ["the quick"], "temperature": 0.7, "top_p": 1.0, "frequency_penalty": 0.0,
        "presence_penalty": 0.0, "n": 1, "logit_bias": {}, "max_tokens": 12, "seed": 4, "logprobs": None,
    }  # fmt: skip
    whole = server.complete(**body)
    assert {"completion_tokens", "prompt_tokens", "total_tokens"} <= whole["usage"].keys()
    parts = server.events("/v1/completions", {**body, "stream_options": {"include_usage": True}})
    texts = [part["choices"][0]["text"] for part in parts if part["choices"]]
    assert "".join(texts) == whole["choices"][0]["text"]


def test_langchain_chat(server: Served) -> None:
    body: dict[str, Any] = {
        "messages": [{"content": "be brief", "role": "system"}, {"content": "fox", "role": "user"}], "model": "model",
        "max_completion_tokens": 12, "temperature": 0.7, "n": 1, "seed": 4, "stream": False,
    }  # fmt: skip
    whole = server.post("/v1/chat/completions", body).json()
    message = whole["choices"][0]["message"]
    parts = server.events("/v1/chat/completions", {**body, "stream": True, "stream_options": {"include_usage": True}})
    said = [part["choices"][0]["delta"].get("content") or "" for part in parts if part["choices"]]
    assert "".join(said) == message["content"]
    assert parts[-1]["usage"] == whole["usage"]
