"""Answers as HTTP has them: JSON, problems, and streams that end when the client leaves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..errors import SymlmError
from . import sse
from .body import Gone, unless_gone
from .problems import Problem, of_error


def json_response(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A value as JSON."""
    return Response(sse.as_json(value), status, headers, "application/json")


def problem_response(problem: Problem) -> Response:
    """An error in OpenAI's form."""
    return json_response(problem.body(), problem.status, problem.headers)


async def refuse(problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with an error whatever was asked; the connection ends, since the body was not read."""
    problem.headers.setdefault("Connection", "close")
    await problem_response(problem)(scope, receive, send)


class EventStream(Response):
    """Server-sent events of the objects that `parts` gives. `ended` is called in any case, with what went wrong."""

    def __init__(
        self, parts: AsyncIterator[dict[str, Any]], seconds: float, ended: Callable[[BaseException | None], None]
    ) -> None:
        super().__init__(headers=sse.HEADERS)
        self._parts, self._seconds, self._ended = parts, seconds, ended
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        failure: BaseException | None = None
        try:
            await unless_gone(receive, self._send(send))
        except Gone as gone:
            failure = gone
        except BaseException as error:
            failure = error
            raise
        finally:
            self._ended(failure)

    async def _send(self, send: Send) -> None:
        async def write(data: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": more})

        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        last = sse.END
        # A client that does not read is left too when its time is over.
        async with asyncio.timeout(2 * self._seconds):
            try:
                async with asyncio.timeout(self._seconds), contextlib.aclosing(sse.with_beats(self._parts)) as events:
                    async for event in events:
                        await write(event)
            except TimeoutError:
                last = sse.event(too_slow(self._seconds).body())
            except Problem as problem:
                last = sse.event(problem.body())
            except SymlmError as error:
                last = sse.event(of_error(error).body())
            await write(last, more=False)


def too_slow(seconds: float) -> Problem:
    """A request that has used up its time."""
    return Problem(
        f"the request did not end within {seconds:g} seconds (--timeout)", status=504, code="request_timeout"
    )
