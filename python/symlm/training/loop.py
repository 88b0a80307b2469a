"""The loop of a training run: hands the engine a few steps at a time and does what is due between them.

The state is in `progress`, what is due in `due`, what can be done to a running session in `running`. Here is the order.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from .. import _symlm
from ..callbacks import CallbackList
from ..config.engine import engine_settings
from ..display import Display
from ..errors import DataError, Interrupted
from ..ranks.opening import engine_of
from ..system.names import command_line
from ..system.peak import Peaks
from ..system.signals import StopSignals
from ..system.version import version
from .due import final_f32
from .due.cross_check import CrossCheck
from .due.evaluation import Evaluation
from .due.part import Part
from .due.sample import Sample
from .due.saves import Saves
from .due.train_log import TrainLog
from .due.weight_hash import WeightHash
from .nan_guard import NanGuard, RolledBack
from .opening import resume_command
from .running import Running
from .session import Session
from .trace import Tracer

CHUNK_S = 2.0
"""The engine gets steps for about this long at once, so a stop or a save by the clock is never far away."""

POLL_S = 0.1


@dataclass
class Outcome:
    """How the loop ended."""

    step: int
    finished: bool
    metrics: dict[str, Any]


def train_session(
    session: Session, display: Display, callbacks: CallbackList, signals: StopSignals, peaks: Peaks
) -> Outcome:
    """Train a session that has begun to its end or to a stop, and leave the folder complete."""
    with contextlib.ExitStack() as ending:
        ending.callback(callbacks.call, "on_end")
        ranks = 1 if session.world is None else session.world.size
        settings = engine_settings(session.config, session.threads, ranks=ranks)
        make = partial(engine_of, session.world, session.config, settings, session.text, signals)
        running = Running.with_engine(session, make, settings, display, callbacks, signals)
        ending.callback(running.close)
        if session.world is not None:
            session.world.guard(lambda: running.saver.under_way)
        running.load()
        if signals.received is not None:
            raise Interrupted(signals.received)
        try:
            outcome = Loop(running, peaks).run()
        finally:
            running.settle()
        if running.progress.trouble is not None:
            raise running.progress.trouble
        return outcome


class Loop:
    """The order of a running session: updates, what is due between them, the end. Runs on the main thread."""

    def __init__(self, running: Running, peaks: Peaks) -> None:
        self._running = running
        self._progress = running.progress
        self._peaks = peaks
        self._announced = False
        self._guard = NanGuard(running)
        self._log = TrainLog(running, peaks)
        self._evaluation = Evaluation(running, self._guard)
        self._measures: tuple[Part, ...] = (
            CrossCheck(running),
            WeightHash(running),
            self._evaluation,
            Sample(running, self._guard),
        )
        self._saves = Saves(running, self._guard)
        self._end = min(self._progress.max_steps, running.config.stop_at_step or self._progress.max_steps)
        trace = running.config.trace
        self._tracer = None if trace is None else Tracer(trace, running, self._end)

    def _parts(self) -> Iterator[Part]:
        """All for which the updates wait."""
        if self._tracer is not None:
            yield self._tracer
        yield from self._measures
        yield self._saves

    def run(self) -> Outcome:
        """Train and save."""
        running, progress = self._running, self._progress
        progress.begin()
        self._begin_event()
        running.display.begin(progress.view)
        while True:
            running.callbacks.call("on_start", progress.step, running.folder.path)
            try:
                reason = self._updates()
                if reason is None:
                    reason = self._finish()
                break
            except RolledBack:
                continue
        if reason is not None:
            self._stop(reason)
        return Outcome(progress.step, reason is None, progress.metrics())

    def _begin_event(self) -> None:
        running, session, engine = self._running, self._running.session, self._running.engine
        checkpoint, val = session.checkpoint, session.text.val
        record: dict[str, Any] = {
            "event": "start" if checkpoint is None else "resume",
            "step": self._progress.step,
            "tokens": self._progress.tokens,
            "max_steps": self._progress.max_steps,
            "version": version(),
            "parameters": engine.parameters,
            "threads": session.threads,
            "isa": engine.isa,
            "peak_gflops": self._peaks.fma,
            **({} if self._peaks.integer is None else {"integer_peak_gops": self._peaks.integer}),
            "train_tokens": session.text.train.tokens,
            "val_tokens": None if val is None else val.tokens,
        }
        if checkpoint is not None:
            record["checkpoint"] = str(checkpoint)
            running.display.message(f"resuming from step {self._progress.step:,} ({checkpoint})")
        running.journal.event(record)

    # --- updates --------------------------------------------------------------------------------------------------

    def _updates(self) -> str | None:
        """Run updates up to the end; gives the reason when something stops them before."""
        try:
            return self._updates_to_end()
        finally:
            if self._tracer is not None:
                self._tracer.finish()

    def _updates_to_end(self) -> str | None:
        running, progress = self._running, self._progress
        if progress.undone and progress.step < progress.max_steps:
            # A signal came before it, in the session that ended with this checkpoint.
            self._between()
            if (reason := running.stop_reason()) is not None:
                return reason
        while progress.step < self._end:
            if self._tracer is not None and self._tracer.due(progress.step):
                self._tracer.run()
            self._run_until(self._next_target())
            progress.undone = any(part.due(progress.step) for part in self._measures)
            if not running.must_stop and progress.step < progress.max_steps:
                self._between()
            reason = running.stop_reason()
            if reason is not None and (progress.step < progress.max_steps or running.must_stop):
                return reason
        return None if progress.step >= progress.max_steps else f"--stop-at-step {self._end}"

    def _next_target(self) -> int:
        """The step at which the updates have to wait next."""
        step, every_step = self._progress.step, self._running.callbacks.every_step
        step_s = self._progress.step_s
        chunk = 1 if step_s is None or every_step else max(int(CHUNK_S / step_s), 1)
        stops = (part.next_after(step) for part in self._parts())
        return min([self._end, step + chunk, *(stop for stop in stops if stop is not None)])

    def _run_until(self, target: int) -> None:
        """Updates up to `target`, or to one that is left out."""
        running, progress = self._running, self._progress
        if running.policy.leaves_out(progress.step + 1):
            running.engine.pass_over()
            progress.step = progress.view.step = progress.step + 1
            return
        target = running.policy.bound(progress.step, target)
        running.engine.run_until(target)
        running.saver.poll()
        while progress.step < target:
            try:
                report = running.engine.poll(POLL_S)
            except DataError as error:
                # The tokens cannot be read any more; the weights are those of the update before.
                progress.trouble = error
                break
            if report is None or report.step < target:
                # Not at the end of a chunk: there the engine waits for its next steps.
                self._refresh()
                running.saver.poll()
            if report is not None and not self._take(report):
                # The engine waits: the update was skipped, and so were those requested after it.
                break

    def _take(self, report: _symlm.StepReport) -> bool:
        """Account for one finished update; False when it was skipped because its numbers are not finite."""
        running, progress, view = self._running, self._progress, self._progress.view
        progress.step = report.step
        if not (math.isfinite(report.loss) and math.isfinite(report.grad_norm)):
            if math.isfinite(report.loss):
                progress.finite_step = report.step - 1
            self._guard.after_update(report)
            view.step = progress.step
            return False
        running.policy.skips = 0
        progress.add(report)
        if running.callbacks.every_step:
            running.callbacks.call("on_step", {
                "step": report.step, "loss": report.loss, "lr": report.lr, "grad_norm": report.grad_norm,
                "tokens": progress.tokens, "seconds": report.seconds,
            })  # fmt: skip
        if self._log.due(progress.step):
            self._log.run()
        return True

    def _refresh(self) -> None:
        running, progress = self._running, self._progress
        queue = running.engine.queue_fill
        progress.view.queue = queue.batches, queue.capacity
        progress.estimate()
        if running.signals.received is not None and not self._announced:
            self._announced = True
            running.display.message("stopping: saving after the updates under way; once more to stop at once")
        running.display.tick(progress.view)

    # --- between updates, and the end -----------------------------------------------------------------------------

    def _between(self) -> None:
        """What is due at this step; saving comes last, as it keeps what an evaluation finds."""
        progress = self._progress
        for part in self._measures:
            if part.due(progress.step):
                part.run()
        # The session that resumes does what a signal cut short.
        progress.undone &= self._running.must_stop
        if self._saves.due(progress.step):
            self._saves.run()

    def _finish(self) -> str | None:
        """The last hash, evaluation, sample and checkpoint; gives the reason when a signal comes in between."""
        running, progress = self._running, self._progress
        for part in (*self._measures, self._saves):
            part.finish()
        if running.must_stop:
            return running.stop_reason()
        stats, windows = running.engine.worker_stats(), self._evaluation.last_windows
        in_f32: dict[str, Any] = {}
        if final_f32.wanted(running, windows):
            # Its memory is for the engine that computes in f32.
            running.release_engine()
            in_f32 = final_f32.evaluate_in_f32(running, windows)
        running.journal.event({
            "event": "end",
            "step": progress.step,
            "tokens": progress.tokens,
            **progress.metrics(),
            **in_f32,
            "worker_busy_frac": progress.total.busy_frac,
            "tasks_per_worker": [worker.tasks for worker in stats],
            "steals_per_worker": [worker.steals for worker in stats],
            "elapsed_s": progress.elapsed(),
        })  # fmt: skip
        return None

    def _stop(self, reason: str) -> None:
        """Save where the updates ended. After a signal this raises `Interrupted`, after trouble its error."""
        running, progress = self._running, self._progress
        # Whatever is found now, the run ends here.
        running.policy.on_nan = "stop"
        if not running.must_stop and progress.evaluated_step != progress.step:
            self._evaluation.run_at_stop()
        self._saves.finish()
        running.journal.event({"event": "stop", "step": progress.step, "tokens": progress.tokens, "reason": reason})
        running.display.message(f"to resume: {command_line(resume_command(running.folder.path))}")
        if progress.trouble is not None:
            raise progress.trouble
        if running.signals.received is not None:
            raise Interrupted(running.signals.received, str(running.folder.path), progress.step)
