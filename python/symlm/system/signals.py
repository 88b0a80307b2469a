"""Signals that ask a command to end: the first ends it cleanly, the second at once.

SIGINT (Ctrl-C), SIGTERM, SIGHUP (the terminal was closed) and SIGBREAK of Windows ask for the same. Where `nohup` has
SIGHUP ignored it stays so. A terminal that goes away may send SIGHUP twice, so that one is never the second.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

from ..errors import Interrupted
from .calls import HANGUP, STOP_SIGNALS

_SHOW_CURSOR = b"\x1b[?25h\n"


class Stopped(Exception):
    """Raised out of a long call of the extension when a signal has arrived; never leaves the trainer."""


class StopSignals:
    """While active, remembers the first signal in `received` and lets the second take its usual deadly course.

    Work that may end anywhere stands inside `raising`: there the first signal raises `Interrupted`. Python can only set
    handlers in the main thread; elsewhere this does nothing.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._raising = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for signum in STOP_SIGNALS:
                if signum != HANGUP or signal.getsignal(signum) is not signal.SIG_IGN:
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
            if self._raising:
                raise Interrupted(signum)
            return
        if signum == HANGUP:
            return
        if os.isatty(2):
            os.write(2, _SHOW_CURSOR)
        signal.signal(signum, signal.SIG_DFL)
        signal.raise_signal(signum)

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """Around work that leaves nothing half done when it ends in the middle: a signal raises `Interrupted` at once,
        as does one that came before."""
        self._raising = True
        try:
            if self.received is not None:
                raise Interrupted(self.received)
            yield
        finally:
            self._raising = False

    @property
    def name(self) -> str:
        """Name of the signal that was received."""
        return "no signal" if self.received is None else signal.Signals(self.received).name

    def check(self) -> None:
        """Raise `Stopped` when a signal has arrived."""
        if self.received is not None:
            raise Stopped
