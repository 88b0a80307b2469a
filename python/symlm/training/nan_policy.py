"""`--on-nan`: what happens after an update whose loss or gradient norm is not finite.

The engine never applies such an update: weights and moments are those before it. `stop` ends the run, `skip` continues
with the next update, `rollback` goes back to a checkpoint and leaves out the updates that led there. Which updates are
left out is a function of the step numbers of the failures alone, never of where checkpoints lie or where a run was
stopped, so that the weights are the same bits either way. What the policy remembers is part of every checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config.train_config import OnNan
from ..errors import DataError
from ..run.metrics import read_lines, rewrite

MOST_SKIPS = 10
"""So many updates in a row that cannot be applied end the run: it is not the text of one batch."""

WINDOWS = (8, 32, 128)
"""Updates that the first, second and third rollback near one place leave out, up to the one that failed. To leave out
that one alone no way back is needed (`skip`): weights that are about to fail were led there by the updates before."""

NEAR = 256
"""A failure within so many steps of the one before counts as the same place."""

MOST_REPEATED = 1000
"""Without a checkpoint that is old enough the run begins again, but only when no more updates than this are lost."""


@dataclass
class NanPolicy:
    """What to do next, and what the run has to remember for it."""

    on_nan: OnNan = "stop"
    left_out: list[tuple[int, int]] = field(default_factory=list)
    """Updates that are not computed: first and last step of each range, ascending."""
    skips: int = 0
    """Updates in a row that were skipped, up to now."""
    failed: int | None = None
    """The step that caused the last rollback."""
    rollbacks: int = 0
    """Rollbacks near that step."""

    @classmethod
    def restore(cls, on_nan: OnNan, trainer: dict[str, Any], where: Path) -> NanPolicy:
        """The policy as a checkpoint has it; DataError when that is damaged."""
        stored = trainer.get("nan")
        if stored is None:
            return cls(on_nan)
        try:
            ranges = [(int(first), int(last)) for first, last in stored["left_out"]]
            failed = None if stored["failed"] is None else int(stored["failed"])
            skips, rollbacks = int(stored["skips"]), int(stored["rollbacks"])
            if min(skips, rollbacks) < 0:
                raise ValueError("a count below 0")
            return cls(on_nan, ranges, skips, failed, rollbacks)
        except (KeyError, TypeError, ValueError, OverflowError):
            raise DataError(f"{where}: damaged trainer state: nan", "use an older checkpoint") from None

    def to_json(self) -> dict[str, Any]:
        """What `restore` reads."""
        return {
            "left_out": [list(pair) for pair in self.left_out],
            "skips": self.skips,
            "failed": self.failed,
            "rollbacks": self.rollbacks,
        }

    def leaves_out(self, step: int) -> bool:
        """Whether the update after which `step` are done is left out."""
        return any(first <= step <= last for first, last in self.left_out)

    def bound(self, step: int, target: int) -> int:
        """The last step up to `target` before the next update after `step` that is left out."""
        return min([target, *(first - 1 for first, _ in self.left_out if first > step)])

    def may_skip(self) -> bool:
        """Count an update that cannot be applied; whether to continue without it."""
        self.skips += 1
        return self.skips < MOST_SKIPS

    def next_window(self, step: int) -> tuple[int, int] | None:
        """The updates that a rollback after the failure of `step` leaves out; None when there were enough."""
        number = self.rollbacks if self.failed is not None and step - self.failed <= NEAR else 0
        return (max(step - WINDOWS[number] + 1, 1), step) if number < len(WINDOWS) else None

    def leave_out(self, window: tuple[int, int]) -> None:
        """Note a rollback that leaves out `window`."""
        step = window[1]
        near = self.failed is not None and step - self.failed <= NEAR
        self.rollbacks = self.rollbacks + 1 if near else 1
        self.failed, self.skips = step, 0
        self.left_out = merged([*self.left_out, window])


def merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same steps as ascending ranges that neither touch nor overlap."""
    joined: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], last))
        else:
            joined.append((first, last))
    return joined


def computed(left_out: list[tuple[int, int]], known: list[tuple[int, int]], step: int) -> bool:
    """Whether a state after `step` updates, which knew that `known` were left out, holds one of `left_out`."""
    spans = merged(known)
    parts = [(first, min(last, step)) for first, last in left_out if first <= step]
    return not all(any(low <= first and last <= high for low, high in spans) for first, last in parts)


def ranges_of(record: dict[str, Any]) -> list[tuple[int, int]]:
    """The updates that a line of metrics about a rollback says are left out; none when it is damaged."""
    try:
        return [(int(first), int(last)) for first, last in record["left_out"]]
    except (KeyError, TypeError, ValueError, OverflowError):
        return []


def drop_undone(path: Path, left_out: list[tuple[int, int]]) -> None:
    """Drop the rollbacks that are newer than the checkpoint being resumed: they happen again."""

    def known(record: dict[str, Any]) -> bool:
        return all(any(first <= low and high <= last for first, last in left_out) for low, high in ranges_of(record))

    records = list(read_lines(path))
    kept = [record for record in records if record.get("event") != "rollback" or known(record)]
    if len(kept) < len(records):
        rewrite(path, kept)
