"""What is sent back for a job: objects of JSON, whole or piece by piece."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from . import sse
from .jobs import Job, Shown
from .prompts import Served, named
from .writing import Piece, Placed

_FEW = 64
"""Tokens with logprobs that are written out in the event loop; more are beside it."""


class Answers:
    """The objects of one request, in JSON."""

    def __init__(self, job: Job, served: Served) -> None:
        self._job, self._served = job, served
        self._chat = job.wanted.is_chat
        self._head = {
            "id": f"{'chatcmpl' if self._chat else 'cmpl'}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": served.name,
        }

    async def whole(self) -> bytes:
        """All texts at once."""
        wanted = self._job.wanted
        choices = [Piece() for _ in range(len(wanted.prompts) * wanted.n)]
        ends: dict[int, str | None] = {}
        async for shown in self._job.pieces():
            choices[shown.index].text += shown.piece.text
            choices[shown.index].tokens += shown.piece.tokens
            ends[shown.index] = shown.finish
        return await asyncio.to_thread(lambda: sse.long_json(self._whole(choices, ends)))

    def _whole(self, choices: list[Piece], ends: dict[int, str | None]) -> dict[str, Any]:
        return {
            **self._head,
            "object": "chat.completion" if self._chat else "text_completion",
            "choices": [self._choice(index, piece, ends.get(index)) for index, piece in enumerate(choices)],
            "usage": self._usage(),
        }

    async def parts(self) -> AsyncIterator[bytes]:
        """The texts piece by piece."""
        wanted = self._job.wanted
        kind = {"object": "chat.completion.chunk" if self._chat else "text_completion"}
        # With usage at the end, all others say that they have none.
        usage: dict[str, Any] = {"usage": None} if wanted.include_usage else {}
        if self._chat:
            for index in range(len(wanted.prompts) * wanted.n):
                delta = {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None}
                yield sse.as_json({**self._head, **kind, "choices": [{**delta, "finish_reason": None}], **usage})
        async for shown in self._job.pieces():
            if shown.piece.text or shown.piece.tokens or shown.finish:
                yield await _written(shown, partial(self._event, kind, usage))
        if wanted.include_usage:
            yield sse.as_json({**self._head, **kind, "choices": [], "usage": self._usage()})

    def _event(self, kind: dict[str, Any], usage: dict[str, Any], shown: Shown) -> dict[str, Any]:
        return {**self._head, **kind, "choices": [self._part(shown)], **usage}

    def _usage(self) -> dict[str, int]:
        prompt, written = self._job.wanted.prompt_tokens, self._job.tokens
        return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}

    def _choice(self, index: int, piece: Piece, finish: str | None) -> dict[str, Any]:
        if self._chat:
            text = {"message": {"role": "assistant", "content": piece.text, "refusal": None}}
            return {"index": index, **text, "logprobs": self._logprobs(piece), "finish_reason": finish}
        return {"index": index, "text": piece.text, "logprobs": self._logprobs(piece), "finish_reason": finish}

    def _part(self, shown: Shown) -> dict[str, Any]:
        if not self._chat:
            return self._choice(shown.index, shown.piece, shown.finish)
        return {
            "index": shown.index,
            "delta": {"content": shown.piece.text} if shown.piece.text or shown.piece.tokens else {},
            "logprobs": self._logprobs(shown.piece) if shown.piece.tokens else None,
            "finish_reason": shown.finish,
        }

    def _logprobs(self, piece: Piece) -> dict[str, Any] | None:
        if self._job.wanted.top is None:
            return None
        if self._chat:
            return {"content": [self._chat_token(token) for token in piece.tokens], "refusal": None}
        return {
            "tokens": [named(token.raw) for token in piece.tokens],
            "token_logprobs": [None if one.logprobs is None else one.logprobs.chosen for one in piece.tokens],
            "top_logprobs": [self._top(token) for token in piece.tokens],
            "text_offset": [token.offset for token in piece.tokens],
        }

    def _top(self, token: Placed) -> dict[str, float] | None:
        """The likeliest tokens and the one that was chosen, by their texts; of several with one text the likeliest.
        White space that the chosen one repeats is left out of all that begin with it."""
        if token.logprobs is None:
            return None
        found: dict[str, float] = {}
        for id_, value in [*token.logprobs.top, (token.id, token.logprobs.chosen)]:
            found.setdefault(named(self._served.token_bytes(id_).removeprefix(token.repeats)), value)
        return found

    def _chat_token(self, token: Placed) -> dict[str, Any]:
        assert token.logprobs is not None
        top = [self._one(id_, value) for id_, value in token.logprobs.top]
        return {**self._one(token.id, token.logprobs.chosen), "top_logprobs": top}

    def _one(self, id_: int, value: float) -> dict[str, Any]:
        raw = self._served.token_bytes(id_)
        return {"token": self._served.token_text(id_), "logprob": value, "bytes": list(raw)}


async def _written(shown: Shown, of: Callable[[Shown], dict[str, Any]]) -> bytes:
    """The object of a piece of text. A prompt that is echoed can have many tokens."""
    if len(shown.piece.tokens) <= _FEW:
        return sse.as_json(of(shown))
    return await asyncio.to_thread(lambda: sse.long_json(of(shown)))
