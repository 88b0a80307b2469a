"""Server-sent events, as clients of OpenAI read them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

END = b"data: [DONE]\n\n"
BEAT = b": waiting\n\n"
"""A comment, which says that the connection lives."""

BEAT_SECONDS = 15.0
HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def as_json(value: object) -> bytes:
    """A value as JSON on one line, in ASCII."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def event(value: object) -> bytes:
    """One event."""
    return b"data: " + as_json(value) + b"\n\n"


async def with_beats(parts: AsyncIterator[dict[str, Any]]) -> AsyncGenerator[bytes]:
    """The events of some objects, and a beat whenever none has come for a while."""
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
