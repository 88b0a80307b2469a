"""Answers as HTTP has them: JSON, problems, and streams that end when the client leaves."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import traceback
from collections.abc import AsyncIterator, Callable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..errors import SymlmError
from . import sse
from .body import Gone, unless_gone
from .problems import Problem, of_error

Cut = Callable[[], bool]
"""Whether the server ends, so that a request that is cancelled still gets an answer."""


def json_response(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A small value as JSON."""
    return raw_response(sse.as_json(value), status, headers)


def raw_response(raw: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON that is written out."""
    return Response(raw, status, headers, "application/json")


def problem_response(problem: Problem) -> Response:
    """An error in OpenAI's form."""
    return json_response(problem.body(), problem.status, problem.headers)


async def refuse(problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with an error whatever was asked; the connection ends, since the body was not read."""
    problem.headers.setdefault("Connection", "close")
    await problem_response(problem)(scope, receive, send)


class EventStream(Response):
    """Server-sent events, each as JSON, that `parts` gives. `ended` is called in any case, with what went wrong."""

    def __init__(
        self, parts: AsyncIterator[bytes], seconds: float, ended: Callable[[BaseException | None], None], cut: Cut
    ) -> None:
        super().__init__(headers=sse.HEADERS)
        self._parts, self._seconds, self._ended, self._cut = parts, seconds, ended, cut
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
        try:
            async with asyncio.timeout(self._seconds), contextlib.aclosing(sse.with_beats(self._parts)) as events:
                async for event in events:
                    await write(event)
        except asyncio.CancelledError:
            if not self._cut():
                raise
            last = sse.error_event(server_ending())
        except Exception as error:  # told to the client: the answer has begun, and its status cannot be changed
            last = sse.error_event(too_slow(self._seconds) if isinstance(error, TimeoutError) else of_any(error))
        await write(last, more=False)


def of_any(error: Exception) -> Problem:
    """What a client is told about an error; one that nobody expected is printed here."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, SymlmError):
        return of_error(error)
    print_bug(error)
    return internal_error()


def print_bug(error: Exception) -> None:
    """Print where an error arose that nobody expected."""
    traceback.print_exception(error, file=sys.stderr)


def internal_error() -> Problem:
    """A bug."""
    return Problem("this is a bug in symlm; the server has printed where", status=500, code="internal_error")


def server_ending() -> Problem:
    """A request that is cut, since the server ends."""
    return Problem(
        "the server ends before it can answer", status=503, code="server_ending", headers={"Retry-After": "10"}
    )


def too_slow(seconds: float) -> Problem:
    """A request that has used up its time."""
    return Problem(
        f"the request did not end within {seconds:g} seconds (--timeout)", status=504, code="request_timeout"
    )
