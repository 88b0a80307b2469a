"""`NanGuard`: carries out `--on-nan` in a running session. What is left out and when it is enough `nan_policy` says."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from .. import _symlm
from ..errors import NanError, SymlmError
from ..layout import BEST, LAST
from ..ranks.engine import state_numbers
from ..run import checkpoint
from ..run.checkpoint import State
from ..run.folder import RunFolder
from ..units import count_of
from . import bundle
from .nan_policy import MOST_REPEATED, MOST_SKIPS, WINDOWS, NanPolicy, computed
from .running import Running


class RolledBack(Exception):
    """The run is back at an earlier step; the updates continue from there."""


class NanGuard:
    """What is done about numbers that are not finite, found by an update or by a look at the weights."""

    def __init__(self, running: Running) -> None:
        self._running = running

    def after_update(self, report: _symlm.StepReport) -> None:
        """The numbers of an update are not finite: the engine has not applied it.

        Returns when the run continues without it, raises `RolledBack`, or `NanError` when the run ends here.
        """
        running, progress, policy = self._running, self._running.progress, self._running.policy
        what = f"the loss is {report.loss}, the gradient norm {report.grad_norm}"
        found = bundle.Findings.of(running.engine)
        # A save under way holds the weights before this update.
        running.settle(progress.finite_step if found.bad_state else None)
        record: dict[str, Any] = {
            "event": "nan",
            "of": "update",
            "step": progress.step,
            "tokens": progress.tokens,
            "loss": report.loss,
            "grad_norm": report.grad_norm,
            "lr": report.lr,
        }
        # Updates that are skipped in a row have the same weights.
        kept = bundle.write(running, report, what, found) if policy.skips == 0 else None
        if kept is not None:
            record["bundle"] = str(kept.relative_to(running.folder.path))
        running.display.warning(f"step {progress.step}: {found.sentence()}")
        ending = ""
        if policy.on_nan == "skip":
            if found.bad_state:
                ending = "; weights or moments are not finite themselves, so that skipping cannot help"
            elif policy.may_skip():
                running.journal.event({**record, "action": "skip"})
                running.engine.pass_over()
                return
            else:
                ending = f"; so it was for {MOST_SKIPS} updates in a row"
        if policy.on_nan == "rollback":
            ending = self._roll_back(record)
        running.journal.event({**record, "action": "stop"})
        self._stop(what + ending, kept)

    def after_check(self, what: str, **numbers: float) -> NoReturn:
        """An evaluation or a sample shows that the weights are unusable, though the updates were. `what` says how.

        There is no update to skip: this raises `RolledBack`, or `NanError`.
        """
        running, progress = self._running, self._running.progress
        view = progress.view
        running.settle(progress.finite_step)
        record = {
            "event": "nan", "of": "weights", "step": progress.step, "tokens": progress.tokens,
            "loss": view.loss, "grad_norm": view.grad_norm, "lr": view.lr, **numbers,
        }  # fmt: skip
        ending = self._roll_back(record) if running.policy.on_nan == "rollback" else ""
        running.journal.event({**record, "action": "stop"})
        self._stop(what + ending, None)

    def check_state(self) -> None:
        """Before a save: weights and moments that are not finite are never saved, though every loss was.

        A learning rate that is far too high can bring them there between two updates.
        """
        tensors = state_numbers(self._running.engine)
        bad = [tensor.name for tensor in tensors if tensor.bad_weights or tensor.bad_moments]
        if bad:
            self.after_check(f"weights or moments of {count_of(len(bad), 'tensor')} are not finite ({bad[0]})")

    def _stop(self, what: str, kept: Path | None) -> NoReturn:
        running, step = self._running, self._running.progress.step
        last = running.folder.newest(running.progress.finite_step)
        good = "there is no good checkpoint yet" if last is None else f"the last good checkpoint is {last}"
        hint = f"try a lower --learning-rate than {running.config.learning_rate:g}, or a smaller --grad-clip"
        if kept is not None:
            hint += f"; symlm replay {running.folder.path} --step {step} computes this update again"
        raise NanError(f"step {step}: {what}; {good}", hint)

    def _roll_back(self, record: dict[str, Any]) -> str:
        """Go back and raise `RolledBack`; when that is not possible, why."""
        running, progress, policy = self._running, self._running.progress, self._running.policy
        folder, failed = running.folder, progress.step
        window = policy.next_window(failed)
        if window is None:
            return f"; {count_of(len(WINDOWS), 'rollback')} did not get past it"
        found = _checkpoint_before(folder, window[0], policy.left_out, running.display.warning)
        if found is None and failed > MOST_REPEATED:
            return f"; there is no checkpoint before step {window[0]} to go back to"
        policy.leave_out(window)
        back = 0 if found is None else found[1].step
        running.journal.cut_back(back)
        _forget_checkpoints(folder, window[0], None if found is None else found[0], back)
        # The time is spent, and the best checkpoint is still there.
        best, spent = (progress.best_step, progress.view.best_bpb), progress.elapsed()
        if found is None:
            running.restart()
        else:
            running.restore(*found)
        (progress.best_step, progress.view.best_bpb), progress.elapsed_before = best, spent
        # What was due there was done before the updates that failed.
        progress.began, progress.evaluated_step, progress.undone = time.monotonic(), -1, False
        running.journal.event({**record, "action": "rollback"})
        running.journal.event({
            "event": "rollback",
            "step": back,
            "tokens": progress.tokens,
            "failed_step": failed,
            "left_out": policy.to_json()["left_out"],
            "rollbacks": policy.rollbacks,
            "checkpoint": None if found is None else str(found[0]),
        })  # fmt: skip
        raise RolledBack


def _checkpoint_before(
    folder: RunFolder, step: int, left_out: list[tuple[int, int]], warn: Callable[[str], None]
) -> tuple[Path, State] | None:
    """The newest checkpoint before the update `step` that is whole and holds none of the updates that are left out."""
    candidates: list[tuple[int, Path]] = [(at, folder.checkpoint_path(at)) for at in folder.steps()]
    if (folder.path / BEST).is_dir():
        try:
            candidates.append((State.read(folder.path / BEST).step, folder.path / BEST))
        except SymlmError as error:
            warn(error.message)
    for at, path in sorted(candidates, key=lambda pair: pair[0], reverse=True):
        if at >= step:
            continue
        try:
            state = checkpoint.usable(path)
            known = NanPolicy.restore("rollback", state.trainer, path).left_out
        except SymlmError as error:
            warn(f"{error.message}; trying an older checkpoint")
            continue
        if not computed(left_out, known, state.step):
            return path, state
    return None


def _forget_checkpoints(folder: RunFolder, step: int, back: Path | None, back_step: int) -> None:
    """Remove the checkpoints that hold updates which are left out now, so that no session resumes from them."""
    if back is None:
        (folder.path / LAST).unlink(missing_ok=True)
    else:
        folder.go_back_to(back, back_step)
    folder.drop_past(step - 1)
