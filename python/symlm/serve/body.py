"""Reading what a client sends, and noticing that it has left."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.types import Receive

from .problems import Problem

T = TypeVar("T")

SECONDS = 30.0
"""For a client to send its request."""


class Gone(Exception):
    """The client has left."""


async def read_body(request: Request, most: int) -> bytes:
    """The body of a request of at most `most` bytes."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > most:
        raise _too_large(most)
    found = bytearray()
    try:
        async with asyncio.timeout(SECONDS):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise Gone
                found += message.get("body", b"")
                if len(found) > most:
                    raise _too_large(most)
                if not message.get("more_body", False):
                    return bytes(found)
    except TimeoutError:
        raise Problem(
            f"the body did not arrive within {SECONDS:g} seconds", status=408, headers={"Connection": "close"}
        ) from None


def _too_large(most: int) -> Problem:
    return Problem(
        f"the body is larger than {most:,} bytes, the most that this server takes (--max-body)",
        status=413,
        headers={"Connection": "close"},
    )


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of some work; Gone, and the work cancelled, when the client leaves before it is done."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_leaves(receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Gone
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _leaves(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
