"""MPI in this process: one thread loads it, starts it, makes every call, and ends it when the process ends.

A process can start MPI only once, and only the thread that started it may end it. So that thread outlives a training
run, and the program's next run uses it again. If the program started MPI itself, it also has to end it.
"""

from __future__ import annotations

import atexit
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any

from ..errors import UserError

_AGAIN = "leave MPI running until the last training run of the program has ended"


class _Library:
    """The thread `symlm-mpi`."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._mpi: Any = None
        self._own = self._stuck = False
        self._thread = threading.Thread(target=self._main, name="symlm-mpi", daemon=True)
        self._thread.start()
        atexit.register(self._end)

    def run(self, work: Callable[[], None]) -> None:
        """Have the thread do something, after what it does now."""
        self._work.put(work)

    def give_up(self) -> None:
        """The thread may be in a call that never ends: the end of the process does not wait for it."""
        self._stuck = True

    def start(self) -> Any:
        """The module `MPI`, started. Only for what runs on the thread. UserError where it cannot be used."""
        try:
            if "mpi4py.MPI" not in sys.modules:
                import mpi4py

                mpi4py.rc.initialize = mpi4py.rc.finalize = False
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            raise UserError(
                f"mpi4py cannot be used: {error}", "pip install 'symlm[mpi]' and an MPI: see docs/guide.md"
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
        if not self._stuck:
            self._thread.join()


_found: _Library | None = None


def library() -> _Library:
    """The thread of this process; made by the first call."""
    global _found  # noqa: PLW0603 - MPI itself is one for each process
    if _found is None:
        _found = _Library()
    return _found
