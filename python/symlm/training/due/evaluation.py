"""`--eval-interval`: the loss on the held-out text, and which weights are the best."""

from __future__ import annotations

import math
from typing import Any

from ... import _symlm
from ...errors import DataError
from ...system.signals import Stopped
from ..nan_guard import NanGuard
from ..running import Running
from ..schedule import eval_windows, evaluation_windows, final_eval_windows
from .part import is_multiple, next_multiple


class Evaluation:
    """Evaluates on the first held-out windows; does nothing without any."""

    def __init__(self, running: Running, guard: NanGuard) -> None:
        self._running = running
        self._guard = guard
        self._interval = running.config.eval_interval
        available = evaluation_windows(running.session.text.val, running.model.seq_len)
        self._usual = eval_windows(running.config, available)
        self._last = final_eval_windows(running.config, running.progress.max_steps, available)

    def due(self, step: int) -> bool:
        return is_multiple(step, self._interval)

    def next_after(self, step: int) -> int | None:
        return next_multiple(step, self._interval)

    def run(self) -> None:
        report = self._evaluate(self._usual)
        if report is not None:
            progress = self._running.progress
            best = progress.view.best_bpb
            if best is None or report.bits_per_byte < best:
                progress.view.best_bpb, progress.best_step = report.bits_per_byte, progress.step
                progress.improved = True
            self._record(report)

    def finish(self) -> None:
        """As `run`, then over more windows where there are. These are not compared with fewer."""
        self.run()
        if self._last > self._usual and (report := self._evaluate(self._last)) is not None:
            self._record(report, final=True)

    @property
    def last_windows(self) -> int:
        """Windows of the last evaluation of a run that ends."""
        return max(self._usual, self._last)

    def run_at_stop(self) -> None:
        """As `run`, but not compared: which step is the best does not depend on where a run was stopped."""
        if (report := self._evaluate(self._usual)) is not None:
            self._record(report)

    def _evaluate(self, windows: int) -> _symlm.EvalReport | None:
        """The loss of so many windows; None without any, when a signal comes, or when they cannot be read."""
        running = self._running
        val = running.session.text.val
        if val is None:
            return None
        try:
            report = running.engine.evaluate(val, windows, running.progress_bar("evaluation"))
        except Stopped:
            return None
        except DataError as error:
            running.progress.trouble = error
            return None
        if not math.isfinite(report.loss):
            self._guard.after_check(f"the loss on the held-out text is {report.loss}", val_loss=report.loss)
        return report

    def _record(self, report: _symlm.EvalReport, *, final: bool = False) -> None:
        running, progress = self._running, self._running.progress
        view = progress.view
        progress.finite_step = progress.evaluated_step = progress.step
        view.val_loss, view.val_bpb = report.loss, report.bits_per_byte
        view.final_windows = report.windows if final else 0
        record: dict[str, Any] = {
            "event": "eval",
            "step": progress.step,
            "tokens": progress.tokens,
            "val_loss": report.loss,
            "val_bpb": report.bits_per_byte,
            "best_val_bpb": view.best_bpb,
            "windows": report.windows,
            "final": final,
        }
        running.journal.event(record)
        running.callbacks.call("on_eval", record)
