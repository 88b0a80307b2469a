"""MPI in this process: one thread loads it, starts it, makes every call, and ends it when the process ends.

A process can start MPI only once, and only the thread that started it may end it. So the thread stays when a training
run has ended, and serves the program's next run. If the program started MPI itself, it also has to end it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any

from ..errors import RankError, UserError
from .launch import is_command

_AGAIN = "leave MPI running until the last training run of the program has ended"


class _Library:
    """The thread `symlm-mpi`."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._mpi: Any = None
        self._own = False
        self._given_up: str | None = None
        self.limit = 60.0
        """Most seconds that ending MPI may take."""
        self._thread = threading.Thread(target=self._main, name="symlm-mpi", daemon=True)
        self._thread.start()
        atexit.register(self._end)

    def run(self, work: Callable[[], None]) -> None:
        """Have the thread do something, after what it does now."""
        self._work.put(work)

    def give_up(self, why: str) -> None:
        """The thread stays with a run that has failed, perhaps in a call that never ends: the end of the process does
        not wait for it."""
        self._given_up = why

    def check(self) -> None:
        """RankError unless the thread is there for another run."""
        if self._given_up is not None:
            raise RankError(
                f"an earlier run of this process failed: {self._given_up}", "start the program again on all hosts"
            )

    def start(self) -> Any:
        """The module `MPI`, started. Only for what runs on the thread. UserError where it cannot be used."""
        try:
            if "mpi4py.MPI" not in sys.modules:
                import mpi4py

                mpi4py.rc.initialize = mpi4py.rc.finalize = False
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            raise UserError(
                f"mpi4py cannot be used: {error}",
                "pip install 'symlm[mpi]' and an MPI, as docs/guide.md says, or train with --mpi off",
            ) from None
        if MPI.Is_finalized():
            raise UserError("the MPI of this process has been ended, and cannot be started again", _AGAIN)
        if not MPI.Is_initialized():
            MPI.Init_thread(MPI.THREAD_SERIALIZED)
            self._own = True
        elif MPI.Query_thread() < MPI.THREAD_SERIALIZED:
            raise UserError(
                "the program has started MPI for one thread, and training needs another",
                "start it with MPI.Init_thread(MPI.THREAD_SERIALIZED), as mpi4py does by default",
            )
        self._mpi = MPI
        return MPI

    def _main(self) -> None:
        while (work := self._work.get()) is not None:
            work()
        if self._own and not self._mpi.Is_finalized():
            self._mpi.Finalize()

    def _end(self) -> None:
        self._work.put(None)
        if self._given_up is not None:
            return
        self._thread.join(self.limit)
        if not self._thread.is_alive():
            return
        # MPI ends when all ranks end it.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.write(
                f"error: MPI does not end within {self.limit:g} s: another rank hangs or has gone\n"
                "hint: the run has ended before that, and what it has saved is whole\n"
            )
            sys.stderr.flush()
        if is_command():
            # Nothing else is left to do here; the end of the process would wait for MPI as well.
            os._exit(RankError.exit_code)


_found: _Library | None = None


def library() -> _Library:
    """The thread of this process; made by the first call."""
    global _found  # noqa: PLW0603 - MPI itself is one for each process
    if _found is None:
        _found = _Library()
    return _found
