"""`--hash-interval`: the hash of the weights, which tells whether two runs are the same."""

from __future__ import annotations

from ..running import Running
from .part import is_multiple, next_multiple


class WeightHash:
    """Writes the hash of the weights down."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._interval = running.config.hash_interval

    def due(self, step: int) -> bool:
        return is_multiple(step, self._interval)

    def next_after(self, step: int) -> int | None:
        return next_multiple(step, self._interval)

    def run(self) -> None:
        running, progress = self._running, self._running.progress
        digest = running.engine.weights_sha256()
        running.journal.event(
            {"event": "hash", "step": progress.step, "tokens": progress.tokens, "weights_sha256": digest}
        )

    def finish(self) -> None:
        if self._interval:
            self.run()
