"""OpenAI's own client for Python."""

from __future__ import annotations

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from served import HANG_S, Served


@pytest.fixture(scope="module")
def client(server: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=HANG_S, max_retries=0)


def test_completions(client: openai.OpenAI) -> None:
    model = client.models.list().data[0].id
    assert client.models.retrieve(model).id == model
    whole = client.completions.create(model=model, prompt="the quick", max_tokens=9, seed=1, logprobs=3)
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 9
    assert whole.choices[0].logprobs is not None
    assert len(whole.choices[0].logprobs.tokens or []) == 9
    parts = client.completions.create(model=model, prompt="the quick", max_tokens=9, seed=1, stream=True)
    assert "".join(part.choices[0].text for part in parts) == whole.choices[0].text


def test_chat(client: openai.OpenAI) -> None:
    asked: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "fox"},
    ]
    whole = client.chat.completions.create(
        model="model",
        messages=asked,
        max_tokens=8,
        seed=1,
        logprobs=True,
        top_logprobs=2,
    )
    choice = whole.choices[0]
    assert choice.message.role == "assistant"
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert len(choice.logprobs.content) == 8
    assert len(choice.logprobs.content[0].top_logprobs) == 2
    stream = client.chat.completions.create(
        model="model",
        messages=asked,
        max_tokens=8,
        seed=1,
        stream=True,
        stream_options={"include_usage": True},
    )
    parts = list(stream)
    assert parts[0].choices[0].delta.role == "assistant"
    assert parts[-1].usage == whole.usage
    assert "".join(part.choices[0].delta.content or "" for part in parts[:-1]) == choice.message.content


def test_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="this server has model") as missing:
        client.completions.create(model="gpt-4", prompt="a")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model="model", prompt="fox " * 200, max_tokens=1)
    assert (long.value.code, long.value.param) == ("context_length_exceeded", "prompt")
