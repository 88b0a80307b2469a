"""Signs of life: which ranks have been heard when, and what follows from silence. Knows nothing of MPI."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection

from ..errors import RankError

_BEAT_S = 1.0
GRACE_S = 10.0
"""Time that the main thread has to end by itself after a failure, not counting a save under way."""


class Watch:
    """What the thread of a rank knows of the others. `now` is a time of one clock that only goes forward."""

    def __init__(self, rank: int, size: int, timeout: float, now: float) -> None:
        self._rank, self._timeout = rank, timeout
        self._every = min(_BEAT_S, timeout / 5)
        self._heard = [now] * size
        self._beat = self._looked = now
        self._ending: float | None = None
        self.may_end = threading.Event()
        """After a failure: rank 0 has nothing more to save or to say, so that this rank may end all."""

    def look(self, now: float) -> float:
        """Begin to look; gives the time since the last look. Whoever was stopped has heard nothing because it did not
        listen: it begins to wait again."""
        gone, self._looked = now - self._looked, now
        if gone > self._timeout / 2:
            self._heard = [now] * len(self._heard)
        return gone

    def beat(self, now: float) -> bool:
        """Whether it is time to say that this rank lives."""
        due = now - self._beat >= self._every
        if due:
            self._beat = now
        return due

    def hear(self, rank: int, now: float) -> None:
        """A sign of life of a rank."""
        self._heard[rank] = now

    def silence(self, now: float, gone: Collection[int], name: Callable[[int], str]) -> RankError | None:
        """The error for ranks that have been silent for too long; `gone` are those that have said goodbye."""
        silent = {r: now - heard for r, heard in enumerate(self._heard) if r != self._rank and r not in gone}
        if all(seconds <= self._timeout for seconds in silent.values()):
            return None
        # Those that are cut off together were not heard at the same instant for the last time.
        late = [rank for rank, seconds in silent.items() if seconds > self._timeout - 2 * self._every]
        if len(late) == len(silent) > 1:
            who = f"{name(self._rank)} hears none of the other ranks: its own network, or all of theirs"
            return RankError(who, "look at that host first, then resume with --resume auto, on any number of ranks")
        have = "has" if len(late) == 1 else "have"
        return RankError(
            f"{', '.join(map(name, late))} {have} been silent for {self._timeout:g} s",
            "look at that host, then resume with --resume auto, on any number of ranks",
        )

    def overdue(self, now: float, *, saving: bool, leaving: bool) -> bool:
        """After a failure: whether this rank has to end all at once, because its main thread does not end. It has a
        while for that from the failure, and from a save under way, which counts as alive."""
        if self._ending is None or saving:
            self._ending = now
        if self._rank == 0 or now - self._heard[0] > self._timeout:
            self.may_end.set()
        return self.may_end.is_set() and not leaving and now - self._ending > GRACE_S
