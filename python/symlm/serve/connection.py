"""Limits of one connection: a client has little time for the head of a request, and there are only so many."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 15.0
"""For a client to send the head of a request, from its first byte or from the beginning of the connection."""

MOST = 512
"""Connections at the same time."""


class Connection(H11Protocol):
    """A connection of uvicorn that ends when the head of a request takes too long."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As asyncio has it."""
        super().connection_made(transport)
        if len(self.connections) > MOST:
            transport.abort()
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        """As asyncio has it."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """As asyncio has it."""
        self._forget()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """As uvicorn has it."""
        super().on_response_complete()
        # From here the connection is idle, which uvicorn ends by itself.
        self._forget()

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget()
        elif self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
