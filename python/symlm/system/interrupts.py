"""Ctrl-C as an exception that ends what the main thread waits for, and nothing else."""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import threading
from pathlib import Path
from types import FrameType
from typing import Any

_FIRST_S, _LAST_S = 0.05, 30.0
"""How long after a Ctrl-C the first reminder comes; each waits twice as long as the one before, up to this."""


class Interrupts:
    """While active, Ctrl-C raises a KeyboardInterrupt in the main thread, at once. What it interrupts is cleaned up
    undisturbed: a Ctrl-C that follows raises nothing until `ready`.

    Python calls a handler between two of its own instructions, or when the signal breaks off the call of the system
    that waits for a key. A signal that comes between the last instruction and that call would go unnoticed until the
    next key. So a thread hears of each Ctrl-C, and reminds the main thread by another signal, which breaks off the
    call. Its handler must not be one in Python: `input` would call it while the KeyboardInterrupt is on its way, and
    lose that. The one of `faulthandler` is in C; what it writes goes nowhere.
    """

    def __init__(self) -> None:
        self._quiet = False
        self._before: Any = None
        self._told_before = -1
        self._hears, self._tells = socket.socketpair()
        self._tells.setblocking(False)
        self._nowhere = Path(os.devnull).open("wb")  # noqa: SIM115 - closed by `__exit__`
        self._reminds = threading.Thread(target=self._remind, name="symlm-ctrlc", daemon=True)

    def __enter__(self) -> Interrupts:
        faulthandler.register(signal.SIGURG, self._nowhere, all_threads=False)
        self._reminds.start()
        self._told_before = signal.set_wakeup_fd(self._tells.fileno(), warn_on_full_buffer=False)
        self._before = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)
        signal.set_wakeup_fd(self._told_before)
        self._tells.close()
        self._reminds.join()
        self._hears.close()
        faulthandler.unregister(signal.SIGURG)
        self._nowhere.close()

    def ready(self) -> None:
        """Let the next Ctrl-C interrupt again."""
        self._quiet = False

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        if not self._quiet:
            self._quiet = True
            raise KeyboardInterrupt

    def _remind(self) -> None:
        main = threading.main_thread().ident
        assert main is not None
        while True:
            try:
                signums = self._hears.recv(64)
            except TimeoutError:
                signal.pthread_kill(main, signal.SIGURG)
                seconds = self._hears.gettimeout() or _LAST_S
                self._hears.settimeout(2 * seconds if seconds < _LAST_S else None)
                continue
            if not signums:
                return
            if signal.SIGINT in signums:
                self._hears.settimeout(_FIRST_S)
