"""Ctrl-C and SIGTERM during training: the first asks for a save, the second ends the process at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_HANDLED = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR = b"\x1b[?25h\n"


class Stopped(Exception):
    """Raised out of a long call of the extension when a signal has arrived; never leaves the trainer."""


class StopSignals:
    """While active, remembers the first signal in `received` and lets the second take its usual deadly course.

    Python can only set handlers in the main thread; elsewhere this does nothing.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for signum in _HANDLED:
                self._previous[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler if handler is not None else signal.SIG_DFL)
        self._previous.clear()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = signum
            return
        if os.isatty(2):
            os.write(2, _SHOW_CURSOR)
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)

    def check(self) -> None:
        """Raise `Stopped` when a signal has arrived."""
        if self.received is not None:
            raise Stopped
