"""The end of the server: what it has in hand is answered first, for a while; a second signal ends it at once."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

from .connection import Connection

if TYPE_CHECKING:
    import uvicorn

    from .app import Service

GRACE_SECONDS = 2.0
"""At the very end, for the clients of requests that are cut to be told."""


class Ending:
    """What the signals do. All methods belong to the event loop."""

    def __init__(self, server: uvicorn.Server, service: Service, say: Callable[[str], None]) -> None:
        self._server, self._service, self._say = server, service, say
        self._received: list[int] = []
        self._over: asyncio.TimerHandle | None = None
        self._cutting: asyncio.Task[None] | None = None
        self._unanswered = 0

    def receive(self, signum: int) -> None:
        """A signal."""
        self._received.append(signum)
        self._service.ending = self._server.should_exit = True
        if self._over is None:
            name, busy = signal.Signals(signum).name, len(self._busy())
            verb = "is" if busy == 1 else "are"
            self._say(f"{name}: ends when {_requests(busy)} {verb} answered" if busy else f"{name}: ends")
            self._over = asyncio.get_running_loop().call_later(self._service.settings.drain, self._cut)
        elif signum != signal.SIGHUP:
            self._cut()

    async def end(self) -> None:
        """Wait until the last clients are told; uvicorn has ended."""
        if self._over is not None:
            self._over.cancel()
        if self._cutting is not None:
            await self._cutting

    def exit_code(self) -> int:
        """0 when all requests were answered, else 128 and the last signal. Says how many were not."""
        if not self._unanswered:
            return 0
        self._say(f"stopped with {_requests(self._unanswered)} unanswered")
        return 128 + self._received[-1]

    def _busy(self) -> list[Connection]:
        return [one for one in self._server.server_state.connections if isinstance(one, Connection) and one.is_busy]

    def _cut(self) -> None:
        if self._cutting is None:
            # Counted first: those that are cut are told so, and then have an answer.
            self._unanswered = len(self._busy())
            self._server.force_exit = True
            self._cutting = asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self) -> None:
        """Cancel all requests, which tells their clients, and end the connections."""
        loop = asyncio.get_running_loop()
        over = loop.time() + GRACE_SECONDS
        for task in list(self._server.server_state.tasks):
            task.cancel()
        while self._busy() and loop.time() < over:
            await asyncio.sleep(0.02)
        for connection in list(self._server.server_state.connections):
            if isinstance(connection, Connection):
                connection.end()


def _requests(count: int) -> str:
    return "1 request" if count == 1 else f"{count} requests"
