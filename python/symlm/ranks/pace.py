"""`Pace`: how long the thread sleeps between two looks at what MPI has done. Knows nothing of MPI.

A look takes about a tenth of a millisecond from a worker, as the code of the thread has left the caches meanwhile.
So the thread looks seldom while the workers have sectors to compute, and often when they wait for other ranks.
"""

from __future__ import annotations

from collections.abc import Sequence

from .hello import Hello

_FIRST_S, _GROWTH = 1e-4, 1.25
"""Sleep after something has moved, and what each following one is times the one before, where the workers wait."""

_LONGEST_S, _CROWDED_S = 1e-3, 4e-3
"""Longest sleep there: the second one where a look takes the processor from another rank."""

_SHARING_S, _SENDING_S = 4e-2, 2e-3
"""Sleep while the workers compute: where all ranks share memory, and a message is copied at once when the other side
looks for it (measured with MPICH); and where some do not, so that MPI moves a part of the bytes with each look."""


class Pace:
    """What the thread knows of the update under way. `hellos` are those of all ranks, this one's at `rank`; `sharing`
    ranks share memory as MPI sees it."""

    def __init__(self, hellos: Sequence[Hello], rank: int, sharing: int) -> None:
        own = hellos[rank]
        here = sum(hello.machine == own.machine for hello in hellos)
        self._longest = _CROWDED_S if here > len(own.cpus) else _LONGEST_S
        self._working = _SHARING_S if sharing == len(hellos) else _SENDING_S
        self._open = self._sums = 0
        self._sleep = _FIRST_S
        self.flying = 0
        """Messages of the engine that are on their way from here."""

    def begin(self, arriving: int, sums: int) -> None:
        """An update: so many messages are going to arrive, so many with partial sums are going to leave."""
        self._open += arriving
        self._sums = sums

    def leave(self, *, sums: bool) -> None:
        """A message leaves, with partial sums or something else."""
        self._open += 1
        self.flying += 1
        self._sums -= sums

    def left(self) -> None:
        """One has left."""
        self.flying -= 1
        self._open -= 1

    def arrived(self) -> None:
        """One has arrived."""
        self._open -= 1

    def sleep(self, *, moved: bool) -> float:
        """Seconds until the next look, after one that has found something, or nothing. What leaves cuts them short."""
        if self._open and self._sums:
            self._sleep = _FIRST_S
            return self._working
        found = self._sleep = _FIRST_S if moved else min(self._sleep * _GROWTH, self._longest)
        return found
