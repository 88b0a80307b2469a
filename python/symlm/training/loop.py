"""The loop of a training: hands the engine a few steps at a time and does what is due between them.

A long file: whatever is due between two updates reads and changes the one state of the session, which is here. What can
be done from outside it is in `saving`, `nan_policy`, `bundle`, `extend` and `trace`.
"""

from __future__ import annotations

import contextlib
import json
import math
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import _symlm
from ..callbacks import CallbackList
from ..config.engine import engine_config, has_adapters
from ..display import Display
from ..display.view import View, Window
from ..errors import DataError, InternalError, Interrupted, MemoryPlanError, NanError, SymlmError, UserError
from ..generate.generator import Generator
from ..layout import METRICS, SAMPLES
from ..run import adapters
from ..run.checkpoint import State
from ..run.metrics import LineLog
from ..system.signals import Stopped, StopSignals
from ..system.version import version
from . import nan_policy
from .nan_policy import NanPolicy, RolledBack
from .opening import check_made_from, resume_command
from .saving import Saved, Saver, Start, start_saving
from .schedule import eval_windows, evaluation_windows, final_eval_windows, pre_decay_step
from .session import Session
from .trace import Tracer

CHUNK_S = 2.0
"""The engine gets steps for about this long at once, so a stop or a save by the clock is never far away."""

POLL_S = 0.1
SAMPLE_TOKENS = 64


@dataclass
class Outcome:
    """How the loop ended."""

    step: int
    finished: bool
    metrics: dict[str, Any]


class Loop:
    """One session of training: from a fresh start or a checkpoint to the end or a stop. Runs on the main thread."""

    def __init__(
        self,
        session: Session,
        display: Display,
        callbacks: CallbackList,
        signals: StopSignals,
        peak_gflops: float,
    ) -> None:
        config, folder, threads = session.config, session.folder, session.threads
        self.session = session
        self.config = config
        self.threads = threads
        self.folder = folder
        self.prepared = session.text
        self.display = display
        self.callbacks = callbacks
        self.peak = peak_gflops
        self.initial = session.initial
        self.model = config.model()
        self.max_steps = config.max_steps or 1
        self.engine_config = engine_config(config, threads)
        self.signals = signals
        self.trouble: SymlmError | None = None
        self.view = View(run=str(folder.path), origin=config.origin, threads=threads, max_steps=self.max_steps)
        self.step = self.start_step = 0
        self.tokens = 0
        self.best_step: int | None = None
        self.finite_step = -1
        self.evaluated_step = -1
        self.nan = NanPolicy(config.on_nan)
        self.pre_decay = pre_decay_step(config)
        self.saver = Saver(
            folder, self.model.to_hf(), config.keep_last, self.pre_decay, self._saved, lambda: display.tick(self.view)
        )
        self._announced = self._traced = self._postponed = False
        self._undone = False
        """Whether something is due at this step (`_between`) that has not been done."""
        self.elapsed_before = 0.0
        self.step_s: float | None = None
        self.total = Window()
        self.window = Window()

    # --- frame ----------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Train, save, and leave the folder complete."""
        checkpoint, state = self.session.checkpoint, self.session.state
        with contextlib.ExitStack() as ending:
            ending.callback(self.callbacks.call, "on_end")
            self.engine = _symlm.Engine(json.dumps(self.engine_config), self.prepared.train)
            ending.callback(self.engine.close)
            self.log = LineLog(self.folder.path / METRICS)
            ending.callback(lambda: self.log.close())  # noqa: PLW0108 - a rollback puts another in its place
            self.samples = LineLog(self.folder.path / SAMPLES)
            ending.callback(lambda: self.samples.close())  # noqa: PLW0108 - as above
            ending.callback(self.saver.close)
            if checkpoint is not None and state is not None:
                self.nan = NanPolicy.restore(self.config.on_nan, state.trainer, checkpoint)
                if has_adapters(self.engine_config):
                    adapters.load_base(self.folder.path, self.engine)
                self._restore(checkpoint, state)
            elif self.initial is not None:
                self.initial.load(self.engine)
                if has_adapters(self.engine_config):
                    adapters.write_base(self.folder.path, self.engine, self.model.to_hf())
            if self.signals.received is not None:
                raise Interrupted(self.signals.received)
            try:
                outcome = self._run(checkpoint)
            finally:
                self._settle()
            if self.trouble is not None:
                raise self.trouble
            return outcome

    def _restore(self, checkpoint: Path, state: State) -> None:
        check_made_from(checkpoint, state, self.engine_config)
        self.engine.load(str(checkpoint), json.dumps(state.engine))
        if self.engine.step != state.step:
            raise InternalError(f"{checkpoint}: holds step {self.engine.step}, the trainer state says {state.step}")
        known = state.trainer
        self.saver.resumed(checkpoint, state)
        self.step = self.start_step = state.step
        self.tokens = int(known["tokens"])
        self.elapsed_before = float(known["elapsed_s"])
        self.best_step = known.get("best_step")
        self.finite_step = self.step if self.best_step == self.step else self.step - 1
        self._undone = known.get("undone") is True
        self.view.step, self.view.tokens = self.step, self.tokens
        self.view.loss, self.view.val_loss = known.get("train_loss"), known.get("val_loss")
        self.view.val_bpb, self.view.best_bpb = known.get("val_bpb"), known.get("best_val_bpb")

    def _run(self, checkpoint: Path | None) -> Outcome:
        self.began = self.last_save = time.monotonic()
        self.window, self.total = Window(), Window()
        self.view.parameters, self.view.isa = self.engine.parameters, self.engine.isa
        self._begin_event(checkpoint)
        self.display.begin(self.view)
        while True:
            self.callbacks.call("on_start", self.step, self.folder.path)
            try:
                reason = self._updates()
                if reason is None:
                    reason = self._finish()
                break
            except RolledBack:
                continue
        if reason is not None:
            self._stop(reason)
        return Outcome(self.step, reason is None, self._metrics())

    def _begin_event(self, checkpoint: Path | None) -> None:
        val = self.prepared.val
        record: dict[str, Any] = {
            "event": "start" if checkpoint is None else "resume",
            "step": self.step,
            "tokens": self.tokens,
            "max_steps": self.max_steps,
            "version": version(),
            "parameters": self.engine.parameters,
            "threads": self.threads,
            "isa": self.engine.isa,
            "peak_gflops": self.peak,
            "train_tokens": self.prepared.train.tokens,
            "val_tokens": None if val is None else val.tokens,
        }
        if checkpoint is not None:
            record["checkpoint"] = str(checkpoint)
            self.display.message(f"going on from step {self.step:,} ({checkpoint})")
        self._event(record)

    def _event(self, record: dict[str, Any]) -> None:
        self._append(self.log, record)
        self.display.event(record, self.view)
        if record["event"] != "save":
            # A save comes to its end in the middle of an update.
            self.window = Window()

    def _append(self, log: LineLog, record: dict[str, Any]) -> None:
        """A line of a log. When it cannot be written the updates end and are saved: they count for more."""
        try:
            self.folder.check_held()
            log.write(record)
        except UserError as error:
            self.trouble = self.trouble or error

    def _elapsed(self) -> float:
        return self.elapsed_before + time.monotonic() - self.began

    def _metrics(self) -> dict[str, Any]:
        return {
            "train_loss": self.view.loss,
            "val_loss": self.view.val_loss,
            "val_bpb": self.view.val_bpb,
            "best_val_bpb": self.view.best_bpb,
            "tok_s": self.total.tok_s,
        }

    # --- updates --------------------------------------------------------------------------------------------------

    def _updates(self) -> str | None:
        """Run updates up to the end; gives the reason when something stops them before."""
        end = min(self.max_steps, self.config.stop_at_step or self.max_steps)
        tracer = None
        if self.config.trace is not None and not self._traced:
            self._traced = True
            tracer = Tracer(self.config.trace, self.engine, self.display, step=self.step, end=end)
        try:
            return self._updates_to(end, tracer)
        finally:
            if tracer is not None:
                tracer.close()

    def _updates_to(self, end: int, tracer: Tracer | None) -> str | None:
        if self._undone and self.step < self.max_steps:
            # A signal came before it, in the session that ended with this checkpoint.
            self._between()
            if (reason := self._stop_reason()) is not None:
                return reason
        while self.step < end:
            target = self._next_target(end)
            if tracer is not None:
                tracer.at(self.step)
                target = min(target, *(bound for bound in (tracer.first, tracer.last, end) if bound > self.step))
            self._run_until(target)
            self._undone = self._due()
            if not self._must_stop and self.step < self.max_steps:
                self._between()
            reason = self._stop_reason()
            if reason is not None and (self.step < self.max_steps or self._must_stop):
                return reason
        return None if self.step >= self.max_steps else f"--stop-at-step {end}"

    def _run_until(self, target: int) -> int:
        """Updates up to `target`, or to one that is left out; gives the step."""
        if self.nan.leaves_out(self.step + 1):
            self.engine.pass_over()
            self.step = self.view.step = self.step + 1
            return self.step
        target = self.nan.bound(self.step, target)
        self.engine.run_until(target)
        self.saver.poll()
        while self.step < target:
            try:
                report = self.engine.poll(POLL_S)
            except DataError as error:
                # The tokens cannot be read any more; the weights are those of the update before.
                self.trouble = error
                break
            if report is None or report.step < target:
                # Not at the end of a chunk: there the engine waits for its next steps.
                self._refresh()
                self.saver.poll()
            if report is not None and not self._take(report):
                # The engine waits: the update was skipped, and with it what was asked for after it.
                break
        return self.step

    def _stop_reason(self) -> str | None:
        if self.signals.received is not None:
            return f"signal {self.signals.name}"
        if self.trouble is not None:
            return self.trouble.message
        return "a callback asked for it" if self.callbacks.stop else None

    @property
    def _must_stop(self) -> bool:
        """Whether something from outside ends the run, also after its last update."""
        return self.signals.received is not None or self.trouble is not None

    def _next_target(self, end: int) -> int:
        config, step = self.config, self.step
        chunk = 1 if self.step_s is None or self.callbacks.every_step else max(int(CHUNK_S / self.step_s), 1)
        stops = [end, step + chunk]
        for interval in (config.eval_interval, config.sample_every, config.save_every_steps, config.hash_interval):
            if interval:
                stops.append((step // interval + 1) * interval)
        if self.pre_decay is not None and self.pre_decay > step:
            stops.append(self.pre_decay)
        return min(stops)

    def _take(self, report: _symlm.StepReport) -> bool:
        """Account for one finished update; False when it was skipped because its numbers are not finite."""
        self.step = report.step
        if not (math.isfinite(report.loss) and math.isfinite(report.grad_norm)):
            if math.isfinite(report.loss):
                self.finite_step = report.step - 1
            nan_policy.after_update(self, report)
            self.view.step = self.step
            return False
        self.nan.skips = 0
        # The loss of an update is that of the weights before it.
        self.finite_step = max(self.finite_step, report.step - 1)
        self.tokens += report.tokens
        for window in (self.window, self.total):
            window.add(report.tokens, report.seconds, report.busy_frac)
        self.step_s = report.seconds if self.step_s is None else 0.8 * self.step_s + 0.2 * report.seconds
        view = self.view
        view.add_loss(report.loss)
        view.step, view.tokens, view.lr, view.grad_norm = self.step, self.tokens, report.lr, report.grad_norm
        view.busy = list(report.busy_frac)
        if self.callbacks.every_step:
            self.callbacks.call("on_step", {
                "step": report.step, "loss": report.loss, "lr": report.lr, "grad_norm": report.grad_norm,
                "tokens": self.tokens, "seconds": report.seconds,
            })  # fmt: skip
        if self.step % self.config.log_interval == 0 or self.step in (1, self.max_steps):
            self._log_train(report)
        return True

    def _log_train(self, report: _symlm.StepReport) -> None:
        window, view = self.window, self.view
        view.tok_s = window.tok_s
        flops = view.tok_s * self.engine.flops_per_token
        view.peak_frac = flops / (self.peak * 1e9) if self.peak > 0 else None
        self._estimate()
        record = {
            "event": "train",
            "step": self.step,
            "tokens": self.tokens,
            "loss": report.loss,
            "lr": report.lr,
            "grad_norm": report.grad_norm,
            "tok_s": view.tok_s,
            "peak_frac": view.peak_frac,
            "worker_busy_frac": window.busy_frac,
            "elapsed_s": view.elapsed_s,
            "eta_s": view.eta_s,
        }
        self._event(record)
        self.callbacks.call("on_log", record)

    def _estimate(self) -> None:
        done = self.step - self.start_step
        here = time.monotonic() - self.began
        self.view.elapsed_s = self.elapsed_before + here
        self.view.eta_s = here / done * (self.max_steps - self.step) if done else None

    def _refresh(self) -> None:
        self.view.queue = self.engine.queue_fill
        self._estimate()
        if self.signals.received is not None and not self._announced:
            self._announced = True
            self.display.message("stopping: saving after the updates under way; once more to stop at once")
        self.display.tick(self.view)

    # --- between updates ------------------------------------------------------------------------------------------

    def _between(self) -> None:
        """Hash, evaluation, sample and checkpoint, where they are due at this step."""
        config, step = self.config, self.step
        improved = False
        if config.hash_interval and step % config.hash_interval == 0:
            self._hash()
        if config.eval_interval and step % config.eval_interval == 0:
            improved = self._evaluate()
        if config.sample_every and step % config.sample_every == 0:
            self._sample()
        # What a signal has cut short is done by the session that goes on.
        self._undone &= self._must_stop
        due = self._save_due()
        if due or improved:
            self._save(best=improved, only_best=not due)

    def _due(self) -> bool:
        """Whether a hash, an evaluation or a sample is due at this step."""
        config = self.config
        intervals = (config.hash_interval, config.eval_interval, config.sample_every)
        return any(interval and self.step % interval == 0 for interval in intervals)

    def _hash(self) -> None:
        digest = self.engine.weights_sha256()
        self._event({"event": "hash", "step": self.step, "tokens": self.tokens, "weights_sha256": digest})

    def _save_due(self) -> bool:
        if self.step == self.pre_decay:
            return True
        by_steps, by_time = self.config.save_every_steps, self.config.save_every_seconds
        if by_time is not None:
            due = time.monotonic() - self.last_save >= by_time
        else:
            due = by_steps > 0 and self.step % by_steps == 0
        # After an update that was skipped nobody knows yet whether the weights are good: a save waits for one that
        # is not, so that it pushes out no older checkpoint in vain.
        due, self._postponed = due or self._postponed, False
        if due and self.nan.skips:
            due, self._postponed = False, True
        return due

    def _progress(self, label: str) -> Callable[[int, int], None]:
        move = self.display.task(label)

        def update(done: int, total: int) -> None:
            self.signals.check()
            move(done, total)

        return update

    def _evaluate(self, windows: int | None = None, *, compare: bool = True) -> bool:
        """Evaluate on the held-out windows; True when it is the best so far. `windows` is given for the last one, which
        may cover more windows than the others and so is not compared with them; nor is one without `compare`."""
        val = self.prepared.val
        if val is None:
            return False
        usual = eval_windows(self.config, evaluation_windows(val, self.model.seq_len))
        count = usual if windows is None else windows
        try:
            report = self.engine.evaluate(val, count, self._progress("evaluation"))
        except Stopped:
            return False
        except DataError as error:
            self.trouble = error
            return False
        view = self.view
        if not math.isfinite(report.loss):
            nan_policy.after_check(
                self,
                f"the loss on the held-out text is {report.loss}",
                {"loss": view.loss, "grad_norm": view.grad_norm, "lr": view.lr, "val_loss": report.loss},
            )
        self.finite_step = self.evaluated_step = self.step
        view.val_loss, view.val_bpb = report.loss, report.bits_per_byte
        final = windows is not None
        view.final_windows = report.windows if final else 0
        best = view.best_bpb
        improved = compare and count == usual and (best is None or report.bits_per_byte < best)
        if improved:
            view.best_bpb, self.best_step = report.bits_per_byte, self.step
        record: dict[str, Any] = {
            "event": "eval",
            "step": self.step,
            "tokens": self.tokens,
            "val_loss": report.loss,
            "val_bpb": report.bits_per_byte,
            "best_val_bpb": view.best_bpb,
            "windows": report.windows,
            "final": final,
        }
        self._event(record)
        self.callbacks.call("on_eval", record)
        return improved

    def _sample(self) -> None:
        config = self.config
        # Each holds a copy of the weights: not both at once.
        self.saver.wait()
        pieces: list[str] = []
        try:
            generator = Generator(self.engine.snapshot(), self.prepared.tokenizer, self.model)
            for piece in generator.stream(
                config.sample_prompt, max_new_tokens=SAMPLE_TOKENS, seed=config.seed, sample_index=self.step
            ):
                self.signals.check()
                pieces.append(piece)
        except Stopped:
            return
        except MemoryPlanError as error:
            self.display.warning(f"no sample: {error.message}")
            return
        except NanError as error:
            view = self.view
            numbers = {"loss": view.loss, "grad_norm": view.grad_norm, "lr": view.lr}
            nan_policy.after_check(self, error.message, numbers)
        text = "".join(pieces)
        self.view.sample = config.sample_prompt + text
        line = {"step": self.step, "prompt": config.sample_prompt, "text": text, "seed": config.seed}
        self._append(self.samples, line)
        self._event({"event": "sample", "step": self.step, "tokens": self.tokens, "text": self.view.sample})
        self.callbacks.call("on_sample", self.step, self.view.sample)

    def _start(self) -> Start:
        """A save of this moment."""
        trainer = {
            "step": self.step,
            "tokens": self.tokens,
            "elapsed_s": self._elapsed(),
            "best_step": self.best_step,
            "data": self.prepared.hashes,
            "undone": self._undone,
            **self._metrics(),
            "nan": self.nan.to_json(),
        }
        return start_saving(self.engine, trainer, self.engine_config, self.folder.path)

    def _save(self, *, best: bool = False, only_best: bool = False) -> None:
        """Begin to write the checkpoint of this step, or only `best/`; `_saved` is called when it is complete."""
        nan_policy.check_state(self)
        if not only_best:
            self.last_save = time.monotonic()
        self.saver.begin(self.step, self._start(), best=best, only_best=only_best)

    def _saved(self, saved: Saved) -> None:
        step, path = saved.state.step, saved.path
        self._event({
            "event": "save", "step": step, "tokens": saved.state.trainer["tokens"],
            "path": str(path.relative_to(self.folder.path)), "seconds": saved.seconds, "stall_s": saved.stall_s,
        })  # fmt: skip
        self.callbacks.call("on_save", step, path)

    def _settle(self, limit: int | None = None) -> None:
        """End a save under way before an error leaves the loop; nothing is under way otherwise."""
        problem = self.saver.settle(limit)
        if problem is not None:
            self.display.warning(problem)

    # --- end ------------------------------------------------------------------------------------------------------

    def _finish(self) -> str | None:
        """The last hash, evaluation, sample and checkpoint; gives the reason when a signal comes in between."""
        if self.config.hash_interval:
            self._hash()
        improved = self._evaluate()
        if self.prepared.val is not None:
            available = evaluation_windows(self.prepared.val, self.model.seq_len)
            last = final_eval_windows(self.config, self.max_steps, available)
            if last > eval_windows(self.config, available):
                self._evaluate(last)
        if self.config.sample_every:
            self._sample()
        self._save(best=improved)
        self.saver.wait()
        if self._must_stop:
            return self._stop_reason()
        stats = self.engine.worker_stats()
        self._event({
            "event": "end",
            "step": self.step,
            "tokens": self.tokens,
            **self._metrics(),
            "worker_busy_frac": self.total.busy_frac,
            "tasks_per_worker": [worker.tasks for worker in stats],
            "steals_per_worker": [worker.steals for worker in stats],
            "elapsed_s": self._elapsed(),
        })  # fmt: skip
        return None

    def _stop(self, reason: str) -> None:
        """Save where the updates ended. After a signal this raises `Interrupted`, after trouble its error.

        The evaluation before is not compared: which step is the best does not depend on where a run was stopped.
        """
        # Whatever is found now, the run ends here.
        self.nan.on_nan = "stop"
        if not self._must_stop and self.evaluated_step != self.step:
            self._evaluate(compare=False)
        self._save()
        self.saver.wait()
        self._event({"event": "stop", "step": self.step, "tokens": self.tokens, "reason": reason})
        self.display.message(f"to go on: {shlex.join(resume_command(self.folder.path))}")
        if self.trouble is not None:
            raise self.trouble
        if self.signals.received is not None:
            raise Interrupted(self.signals.received, str(self.folder.path), self.step)
