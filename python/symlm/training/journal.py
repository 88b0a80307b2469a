"""`Journal`: what a session writes down: lines of metrics and of samples, which the display gets too."""

from __future__ import annotations

from typing import Any

from ..display import Display
from ..display.view import Sums
from ..errors import UserError
from ..layout import METRICS, SAMPLES
from ..run.folder import RunFolder
from ..run.metrics import LineLog, truncate_past
from .progress import Progress


class Journal:
    """`metrics.jsonl` and `samples.jsonl` of a run. A line that cannot be written is trouble, but no error here."""

    def __init__(self, folder: RunFolder, display: Display, progress: Progress) -> None:
        self._folder = folder
        self._display = display
        self._progress = progress
        self._open()

    def _open(self) -> None:
        self._log = LineLog(self._folder.path / METRICS)
        try:
            self._samples = LineLog(self._folder.path / SAMPLES)
        except BaseException:
            self._log.close()
            raise

    def event(self, record: dict[str, Any]) -> None:
        """A line of metrics."""
        self._append(self._log, record)
        self._display.event(record, self._progress.view)
        if record["event"] != "save":
            # A save comes to its end in the middle of an update.
            self._progress.recent = Sums()

    def sample(self, line: dict[str, Any]) -> None:
        """A line of samples."""
        self._append(self._samples, line)

    def _append(self, log: LineLog, record: dict[str, Any]) -> None:
        """A line of a log. When it cannot be written the updates end and are saved: they count for more."""
        try:
            self._folder.check_held()
            log.write(record)
        except UserError as error:
            self._progress.trouble = self._progress.trouble or error

    def cut_back(self, step: int) -> None:
        """Drop the lines of steps after `step`: their updates are computed once more."""
        self.close()
        for name in (METRICS, SAMPLES):
            truncate_past(self._folder.path / name, step)
        self._open()

    def close(self) -> None:
        """Close the files."""
        self._samples.close()
        self._log.close()
