"""`--trace`: a few updates of a training run, recorded task by task."""

from __future__ import annotations

from .. import _symlm
from ..errors import SymlmError
from ..ranks.engine import gather_traces
from .running import Running

WARM_UP = 3
"""Updates of a session that are not recorded: they touch fresh memory."""

MOST_UPDATES = 20
MOST_SPANS = 200_000
"""A recording has no more than this, but at least one update: about 30 MB of JSON."""


class Tracer:
    """Records the first updates of a session after the warm-up and writes them to a file."""

    def __init__(self, path: str, running: Running, end: int) -> None:
        """For a session that trains up to `end`."""
        self.path = path
        self._running = running
        step = running.progress.step
        updates = min(max(MOST_SPANS // len(running.engine.task_graph()), 1), MOST_UPDATES)
        self.first = max(min(step + WARM_UP, end - 1), step)
        self.last = min(self.first + updates, end)
        self._done = False

    def due(self, step: int) -> bool:
        """Whether the recording begins or ends at this step."""
        return not self._done and (step == self.first or step >= self.last)

    def next_after(self, step: int) -> int | None:
        """The step of the next beginning or end."""
        return None if self._done else min((bound for bound in (self.first, self.last) if bound > step), default=None)

    def run(self) -> None:
        """Begin or end the recording; the engine is idle."""
        if self._running.progress.step >= self.last:
            self.finish()
        else:
            self._running.engine.record(True)

    def finish(self) -> None:
        """Writes the recording, and says how the workers spent the time; a second call does nothing.

        A file that cannot be written is a warning: the training is worth more.
        """
        if self._done:
            return
        self._done = True
        engine, display = self._running.engine, self._running.display
        engine.record(False)
        trace = engine.take_trace()
        if not trace.updates:
            display.warning("--trace: the run ended before an update was recorded")
            return
        try:
            trace.write_chrome(self.path)
            gather_traces(engine, self.path, trace.origin_ns)
        except SymlmError as error:
            display.warning(error.message)
            return
        count = len(trace.updates)
        what = f"update {self.first + 1:,}" if count == 1 else f"updates {self.first + 1:,} to {self.first + count:,}"
        display.message(f"trace: {what} in {self.path} (open it at ui.perfetto.dev)")
        for line in summary(trace):
            display.message(line)


def summary(trace: _symlm.Trace) -> list[str]:
    """How each worker spent the recorded updates, as the lines of a table."""
    lines = ["worker      busy     steal      idle  prefetch wait     tasks    steals"]
    for index, of in enumerate(trace.workers):
        times = (of.busy_s, of.steal_s, of.idle_s, of.prefetch_wait_s)
        wall = sum(times) or 1.0
        busy, steal, idle, wait = (f"{100 * time / wall:.1f} %" for time in times)
        lines.append(f"{index:>6}{busy:>10}{steal:>10}{idle:>10}{wait:>15}{of.tasks:>10,}{of.steals:>10,}")
    return lines
