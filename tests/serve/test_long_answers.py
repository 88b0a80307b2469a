"""Answers with many logprobs: written out beside the event loop, in small steps, and limited."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from served import CONTEXT, Served
from symlm.serve import sse
from symlm.serve.answers import Answers
from symlm.serve.jobs import Shown
from symlm.serve.logprobs import TokenLogprobs
from symlm.serve.writing import Piece, Placed

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
)


@given(st.dictionaries(st.text(), values))
def test_steps_give_the_same_json(value: dict[str, Any]) -> None:
    assert sse.long_json(value) == sse.as_json(value)


def test_no_step_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []

    def as_json(value: object, of: Any = sse.as_json) -> bytes:
        raw: bytes = of(value)
        written.append(len(raw))
        return raw

    monkeypatch.setattr(sse, "as_json", as_json)
    of_token = {f"token {number}": -1.25 for number in range(21)}
    value = {"choices": [{"text": "", "logprobs": {"top_logprobs": [of_token] * 2000}}] * 3, "tokens": [123] * 10_000}
    assert json.loads(sse.long_json(value)) == value
    assert max(written) < 64 * 2 * len(str(of_token))


def of_many_tokens() -> tuple[Answers, set[str]]:
    """An answer with a thousand tokens, and the threads that read them."""
    threads: set[str] = set()

    def token_bytes(_: int) -> bytes:
        threads.add(threading.current_thread().name)
        return b"a"

    async def pieces() -> AsyncIterator[Shown]:
        token = Placed(1, b"a", 0, TokenLogprobs(-1.0, [(2, -0.5)]))
        yield Shown(0, Piece("a" * 1000, [token] * 1000), "length")

    wanted = SimpleNamespace(is_chat=False, top=1, prompts=[1], n=1, include_usage=False, prompt_tokens=1)
    job = SimpleNamespace(wanted=wanted, pieces=pieces, tokens=1000)
    return Answers(job, SimpleNamespace(name="m", token_bytes=token_bytes)), threads  # type: ignore[arg-type]


def test_the_event_loop_does_not_write_them() -> None:
    async def whole(answers: Answers) -> bytes:
        return await answers.whole()

    async def parts(answers: Answers) -> bytes:
        return b"".join([part async for part in answers.parts()])

    for way in (whole, parts):
        answers, threads = of_many_tokens()
        found = json.loads(asyncio.run(way(answers)))
        assert len(found["choices"][0]["logprobs"]["tokens"]) == 1000
        assert threading.main_thread().name not in threads


def test_alternatives_count_like_tokens(server: Served) -> None:
    body: dict[str, Any] = {"prompt": [[5] * (CONTEXT - 1)] * 256, "max_tokens": 1}
    for changes, refused in (
        ({"echo": True, "logprobs": 20}, True),
        ({"prompt": [[5]] * 256, "max_tokens": CONTEXT - 1, "logprobs": 20}, True),
        ({"echo": True, "logprobs": 1}, False),
        ({"logprobs": 20}, False),
    ):
        answer = server.post("/v1/completions", {**body, **changes})
        assert answer.status_code == (400 if refused else 200), answer.text[:300]
        assert not refused or "tokens and alternatives in all prompts and texts" in answer.json()["error"]["message"]
