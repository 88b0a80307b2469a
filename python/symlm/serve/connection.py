"""Limits of one connection: a client has little time for the head of a request, and has to read its answers; and there
are only so many."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 15.0
"""For a client to send the head of a request, from its first byte or from the beginning of the connection."""

READ_SECONDS = 30.0
"""For a client to read something of what waits for it."""

MOST = 512
"""Connections at the same time, if the requests that may wait do not need more."""


class Connection(H11Protocol):
    """A connection of uvicorn that ends when the head of a request takes too long, or when its client does not read."""

    most = MOST
    _deadline: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _left = 0

    @property
    def is_busy(self) -> bool:
        """Whether a request is not answered yet, or its answer not sent."""
        answering = self.cycle is not None and not self.cycle.response_complete
        return answering or self.transport.get_write_buffer_size() > 0

    def end(self) -> None:
        """End the connection at once; what has not been sent by now is lost."""
        self.transport.abort()

    # --- as asyncio and uvicorn have it ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As asyncio has it."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
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
        self._forget_unread()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """As asyncio has it."""
        super().pause_writing()
        self._watch_unread()

    def resume_writing(self) -> None:
        """As asyncio has it."""
        super().resume_writing()
        self._watch_unread()

    def on_response_complete(self) -> None:
        """As uvicorn has it."""
        super().on_response_complete()
        # From here the connection is idle, which uvicorn ends by itself, though not before all is read.
        self._forget()
        self._watch_unread()

    # --- the head of a request --------------------------------------------------------------------------------------

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget()
        elif self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    # --- what is left to be read ------------------------------------------------------------------------------------

    def _watch_unread(self) -> None:
        """Look again in a while, until nothing is left."""
        self._forget_unread()
        self._left = self.transport.get_write_buffer_size()
        if self._left:
            self._unread = self.loop.call_later(READ_SECONDS, self._check_unread)

    def _check_unread(self) -> None:
        # More may have been written since, but not while writing is paused, nor behind a whole answer.
        grows = self.cycle is not None and not self.cycle.response_complete and not self.flow.write_paused
        if self.transport.get_write_buffer_size() >= self._left and not grows:
            self.transport.abort()
        else:
            self._watch_unread()

    def _forget_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
