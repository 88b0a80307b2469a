"""What `symlm bench --decode` measures, and the turns so far."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Entry:
    """Something that takes turns."""

    name: str
    weights: str
    task: str
    """decode, batch or prefill."""
    threads: int
    run: Callable[[], float]
    """Does a turn and gives its seconds."""
    tokens: int
    bytes: int | None = None
    """That a token reads."""
    seconds: list[float] = field(default_factory=list)

    @property
    def tok_s(self) -> float | None:
        """Median over the turns."""
        return self.tokens / statistics.median(self.seconds) if self.seconds else None


@dataclass
class Decoding:
    """All that takes turns, and the read bandwidth for each kind of weights, in bytes a second."""

    entries: list[Entry] = field(default_factory=list)
    bandwidth: dict[str, float] = field(default_factory=dict)

    def best(self, name: str, weights: str, task: str) -> Entry | None:
        """The fastest of a program's numbers of threads; None without any turn."""
        found = [e for e in self.entries if (e.name, e.weights, e.task) == (name, weights, task) and e.seconds]
        return min(found, key=lambda entry: statistics.median(entry.seconds) / entry.tokens, default=None)
