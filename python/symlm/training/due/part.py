"""`Part`: what everything that is due at some steps has in common."""

from __future__ import annotations

from typing import Protocol


class Part(Protocol):
    """Something that is done at some steps while the updates wait."""

    def due(self, step: int) -> bool:
        """Whether there is something to do now that `step` updates are done."""
        ...

    def next_after(self, step: int) -> int | None:
        """The next step after `step` at which the updates have to wait; None when they need not."""
        ...

    def run(self) -> None:
        """Do it."""
        ...

    def finish(self) -> None:
        """Do what is due at the end of the run, whatever its last step is."""
        ...


def is_multiple(step: int, interval: int) -> bool:
    """Whether `step` is one of every `interval`; never with 0."""
    return interval > 0 and step % interval == 0


def next_multiple(step: int, interval: int) -> int | None:
    """The next multiple of `interval` after `step`; None with 0."""
    return (step // interval + 1) * interval if interval else None
