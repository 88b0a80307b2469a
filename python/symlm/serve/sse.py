"""JSON, and server-sent events as clients of OpenAI read them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator

from .problems import Problem

END = b"data: [DONE]\n\n"
BEAT = b": waiting\n\n"
"""A comment, which says that the connection lives."""

BEAT_SECONDS = 15.0
HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

_TOGETHER = 64
"""Values of a list that are written out at a time."""

_LEVELS = 4
"""Objects and lists within each other down to the lists of an answer that can be long."""


def as_json(value: object) -> bytes:
    """A value as JSON on one line, in ASCII."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def long_json(value: object) -> bytes:
    """As `as_json`, for a thread: the interpreter lets the event loop run in between, which it does not do while it
    writes out one value, however large."""
    return b"".join(_parts(value, _LEVELS))


def _parts(value: object, levels: int) -> Iterator[bytes]:
    if isinstance(value, dict) and levels:
        for number, (name, one) in enumerate(value.items()):
            yield b"," if number else b"{"
            yield as_json(name) + b":"
            yield from _parts(one, levels - 1)
        yield b"}" if value else b"{}"
    elif isinstance(value, list) and levels and any(isinstance(one, (dict, list)) for one in value[:1]):
        for number, one in enumerate(value):
            yield b"," if number else b"["
            yield from _parts(one, levels - 1)
        yield b"]"
    elif isinstance(value, list):
        for at in range(0, len(value), _TOGETHER):
            yield b"," if at else b"["
            yield as_json(value[at : at + _TOGETHER])[1:-1]
        yield b"]" if value else b"[]"
    else:
        yield as_json(value)


def event(raw: bytes) -> bytes:
    """One event, of JSON."""
    return b"data: " + raw + b"\n\n"


def error_event(problem: Problem) -> bytes:
    """The event that ends a stream that cannot continue."""
    return event(as_json(problem.body()))


async def with_beats(parts: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """The events of some objects in JSON, and a beat whenever none has come for a while."""
    waiting = asyncio.ensure_future(anext(parts, None))
    try:
        while True:
            done, _ = await asyncio.wait((waiting,), timeout=BEAT_SECONDS)
            if not done:
                yield BEAT
                continue
            part = waiting.result()
            if part is None:
                return
            yield event(part)
            waiting = asyncio.ensure_future(anext(parts, None))
    finally:
        waiting.cancel()
