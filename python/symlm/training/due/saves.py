"""`--save-interval`: when a checkpoint is due, and `best/` after an evaluation that is the best so far."""

from __future__ import annotations

import time

from ..nan_guard import NanGuard
from ..running import Running
from .part import next_multiple


class Saves:
    """Begins to write checkpoints; `saving.Saver` completes them while the updates continue."""

    def __init__(self, running: Running, guard: NanGuard) -> None:
        self._running = running
        self._guard = guard
        self._by_steps, self._by_time = running.config.save_every_steps, running.config.save_every_seconds
        self._saved_at = time.monotonic()

    def due(self, step: int) -> bool:
        return self._checkpoint_due(step) or self._running.progress.improved

    def _checkpoint_due(self, step: int) -> bool:
        if step == self._running.pre_decay:
            return True
        if self._by_time is not None:
            wanted = time.monotonic() - self._saved_at >= self._by_time
        else:
            wanted = self._by_steps > 0 and step // self._by_steps > (
                self._running.progress.checkpoint_step // self._by_steps
            )
        # After an update that was skipped nobody knows yet whether the weights are good: a save waits for one that
        # is not, so that it pushes out no older checkpoint in vain.
        return wanted and not self._running.policy.skips

    def next_after(self, step: int) -> int | None:
        pre_decay = self._running.pre_decay
        stops = [next_multiple(step, self._by_steps), pre_decay if pre_decay is not None and pre_decay > step else None]
        return min((stop for stop in stops if stop is not None), default=None)

    def run(self) -> None:
        self.save(only_best=not self._checkpoint_due(self._running.progress.step))

    def finish(self) -> None:
        self.save()
        self._running.saver.wait()

    def save(self, *, only_best: bool = False) -> None:
        """Begin to write the checkpoint of this step, or only `best/`."""
        self._guard.check_state()
        progress = self._running.progress
        if not only_best:
            self._saved_at, progress.checkpoint_step = time.monotonic(), progress.step
        self._running.saver.begin(progress.step, self._running.start(), best=progress.improved, only_best=only_best)
        progress.improved = False
