"""`--trace`: a few updates of a training, recorded task by task."""

from __future__ import annotations

from .. import _symlm
from ..display import Display
from ..errors import SymlmError

WARM_UP = 3
"""Updates of a session that are not recorded: they touch fresh memory."""

MOST_UPDATES = 20
MOST_SPANS = 200_000
"""A recording has no more than this, but at least one update: about 30 MB of JSON."""


class Tracer:
    """Records the first updates after the warm-up and writes them to a file."""

    def __init__(self, path: str, engine: _symlm.Engine, display: Display, *, step: int, end: int) -> None:
        """For a session that goes on from `step` updates done to `end`."""
        self.path = path
        self.engine = engine
        self.display = display
        updates = min(max(MOST_SPANS // len(engine.task_graph()), 1), MOST_UPDATES)
        self.first = max(min(step + WARM_UP, end - 1), step)
        self.last = min(self.first + updates, end)
        self._done = False

    def at(self, step: int) -> None:
        """Begins or ends the recording where it is due; `step` updates are done and the engine is idle."""
        if step >= self.last:
            self.close()
        elif step == self.first:
            self.engine.record(True)

    def close(self) -> None:
        """Writes what was recorded, and says how the workers spent the time; a second call does nothing.

        A file that cannot be written is a warning: the training is worth more.
        """
        if self._done:
            return
        self._done = True
        self.engine.record(False)
        trace = self.engine.take_trace()
        if not trace.updates:
            self.display.warning("--trace: the run ended before an update was recorded")
            return
        try:
            trace.write_chrome(self.path)
        except SymlmError as error:
            self.display.warning(error.message)
            return
        count = len(trace.updates)
        what = f"update {self.first + 1:,}" if count == 1 else f"updates {self.first + 1:,} to {self.first + count:,}"
        self.display.message(f"trace: {what} in {self.path} (open it at ui.perfetto.dev)")
        for line in summary(trace):
            self.display.message(line)


def summary(trace: _symlm.Trace) -> list[str]:
    """How each worker spent the recorded updates, as the lines of a table."""
    lines = ["worker      busy     steal      idle  prefetch wait     tasks    steals"]
    for index, (*times, tasks, steals) in enumerate(trace.workers):
        wall = sum(times) or 1.0
        busy, steal, idle, wait = (f"{100 * time / wall:.1f} %" for time in times)
        lines.append(f"{index:>6}{busy:>10}{steal:>10}{idle:>10}{wait:>15}{tasks:>10,}{steals:>10,}")
    return lines
