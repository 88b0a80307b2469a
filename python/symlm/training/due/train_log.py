"""`--log-interval`: a line of metrics about the updates since the line before."""

from __future__ import annotations

from typing import Any

from ...ranks.engine import take_spent
from ...system.peak import Peaks
from ..running import Running
from .part import is_multiple


class TrainLog:
    """Writes the numbers of the newest update down, and the speed of those since the last line.

    The updates need not wait for it: it is asked after each that has been reported.
    """

    def __init__(self, running: Running, peaks: Peaks) -> None:
        self._running = running
        self._peaks = peaks
        self._interval = running.config.log_interval

    def due(self, step: int) -> bool:
        return is_multiple(step, self._interval) or step in (1, self._running.progress.max_steps)

    def next_after(self, step: int) -> int | None:
        return None

    def run(self) -> None:
        running, progress = self._running, self._running.progress
        report, recent, view = progress.report, progress.recent, progress.view
        if report is None:
            return
        view.tok_s = recent.tok_s
        flops, peaks = view.tok_s * running.engine.flops_per_token, self._peaks
        view.peak_frac = _share(flops, peaks.of_run)
        view.peak_name = peaks.name
        progress.estimate()
        record: dict[str, Any] = {
            "event": "train",
            "step": progress.step,
            "tokens": progress.tokens,
            "loss": report.loss,
            "lr": report.lr,
            "grad_norm": report.grad_norm,
            "tok_s": view.tok_s,
            "peak_frac": _share(flops, peaks.fma),
            **({} if peaks.integer is None else {"integer_peak_frac": _share(flops, peaks.integer)}),
            "worker_busy_frac": recent.busy_frac,
            "elapsed_s": view.elapsed_s,
            "eta_s": view.eta_s,
        }
        record.update(take_spent(running.engine))
        view.ranks = record.get("ranks", view.ranks)
        view.slowest_rank = record.get("slowest_rank", view.slowest_rank)
        running.journal.event(record)
        running.callbacks.call("on_log", record)

    def finish(self) -> None:
        """The last update has its line already."""


def _share(operations: float, peak: float) -> float | None:
    """Of a peak in billions; None where it could not be measured."""
    return operations / (peak * 1e9) if peak > 0 else None
