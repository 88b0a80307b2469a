"""`--on-nan`: what happens after an update whose loss or gradient norm is not finite.

The engine never applies such an update: weights and moments are those before it. `stop` ends the run, `skip` goes on
with the next update, `rollback` goes back to a checkpoint and leaves out the updates that led there. Which updates are
left out is a function of the step numbers of the failures alone, never of where checkpoints lie or where a run was
stopped, so that the weights are the same bits either way. What the policy remembers is part of every checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..config.engine import has_adapters
from ..config.train_config import OnNan
from ..errors import DataError, NanError, SymlmError
from ..layout import BEST, LAST, METRICS, SAMPLES
from ..run import checkpoint
from ..run.checkpoint import State
from ..run.folder import RunFolder
from ..run.metrics import LineLog, read_lines, rewrite, truncate_past
from ..units import count_of
from . import bundle

if TYPE_CHECKING:
    from .. import _symlm
    from .loop import Loop

MOST_SKIPS = 10
"""So many updates in a row that cannot be applied end the run: it is not the text of one batch."""

WINDOWS = (8, 32, 128)
"""Updates that the first, second and third rollback near one place leave out, up to the one that failed. To leave out
that one alone no way back is needed (`skip`): weights that are about to fail were led there by the updates before."""

NEAR = 256
"""A failure within so many steps of the one before counts as the same place."""

MOST_REPEATED = 1000
"""Without a checkpoint that is old enough the run begins again, but only when no more updates than this are lost."""


class RolledBack(Exception):
    """The run is back at an earlier step; the updates go on from there."""


@dataclass
class NanPolicy:
    """What to do next, and what the run has to remember for it."""

    on_nan: OnNan = "stop"
    left_out: list[tuple[int, int]] = field(default_factory=list)
    """Updates that are not computed: first and last step of each range, ascending."""
    skips: int = 0
    """Updates in a row that were skipped, up to now."""
    failed: int | None = None
    """The step that caused the last rollback."""
    rollbacks: int = 0
    """Rollbacks near that step."""

    @classmethod
    def restore(cls, on_nan: OnNan, trainer: dict[str, Any], where: Path) -> NanPolicy:
        """The policy as a checkpoint has it; DataError when that is damaged."""
        stored = trainer.get("nan")
        if stored is None:
            return cls(on_nan)
        try:
            ranges = [(int(first), int(last)) for first, last in stored["left_out"]]
            failed = None if stored["failed"] is None else int(stored["failed"])
            skips, rollbacks = int(stored["skips"]), int(stored["rollbacks"])
            if min(skips, rollbacks) < 0:
                raise ValueError("a count below 0")
            return cls(on_nan, ranges, skips, failed, rollbacks)
        except (KeyError, TypeError, ValueError, OverflowError):
            raise DataError(f"{where}: damaged trainer state: nan", "use an older checkpoint") from None

    def to_json(self) -> dict[str, Any]:
        """What `restore` reads."""
        return {
            "left_out": [list(pair) for pair in self.left_out],
            "skips": self.skips,
            "failed": self.failed,
            "rollbacks": self.rollbacks,
        }

    def leaves_out(self, step: int) -> bool:
        """Whether the update after which `step` are done is left out."""
        return any(first <= step <= last for first, last in self.left_out)

    def bound(self, step: int, target: int) -> int:
        """The last step up to `target` before the next update after `step` that is left out."""
        return min([target, *(first - 1 for first, _ in self.left_out if first > step)])

    def may_skip(self) -> bool:
        """Count an update that cannot be applied; whether to go on without it."""
        self.skips += 1
        return self.skips < MOST_SKIPS

    def next_window(self, step: int) -> tuple[int, int] | None:
        """The updates that a rollback after the failure of `step` leaves out; None when there were enough."""
        number = self.rollbacks if self.failed is not None and step - self.failed <= NEAR else 0
        return (max(step - WINDOWS[number] + 1, 1), step) if number < len(WINDOWS) else None

    def leave_out(self, window: tuple[int, int]) -> None:
        """Note a rollback that leaves out `window`."""
        step = window[1]
        near = self.failed is not None and step - self.failed <= NEAR
        self.rollbacks = self.rollbacks + 1 if near else 1
        self.failed, self.skips = step, 0
        self.left_out = merged([*self.left_out, window])


def merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same steps as ascending ranges that neither touch nor overlap."""
    joined: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], last))
        else:
            joined.append((first, last))
    return joined


def computed(left_out: list[tuple[int, int]], known: list[tuple[int, int]], step: int) -> bool:
    """Whether a state after `step` updates, which knew that `known` were left out, holds one of `left_out`."""
    spans = merged(known)
    parts = [(first, min(last, step)) for first, last in left_out if first <= step]
    return not all(any(low <= first and last <= high for low, high in spans) for first, last in parts)


def ranges_of(record: dict[str, Any]) -> list[tuple[int, int]]:
    """The updates that a line of metrics about a rollback says are left out; none when it is damaged."""
    try:
        return [(int(first), int(last)) for first, last in record["left_out"]]
    except (KeyError, TypeError, ValueError, OverflowError):
        return []


def drop_undone(path: Path, left_out: list[tuple[int, int]]) -> None:
    """Drop the rollbacks that the checkpoint a run goes on from does not know yet: they come again."""

    def known(record: dict[str, Any]) -> bool:
        return all(any(first <= low and high <= last for first, last in left_out) for low, high in ranges_of(record))

    records = list(read_lines(path))
    kept = [record for record in records if record.get("event") != "rollback" or known(record)]
    if len(kept) < len(records):
        rewrite(path, kept)


# --- in the loop ------------------------------------------------------------------------------------------------------


def after_update(loop: Loop, report: _symlm.StepReport) -> None:
    """The numbers of an update are not finite: the engine has not applied it.

    Returns when the run goes on without it, raises `RolledBack`, or `NanError` when the run ends here.
    """
    policy = loop.nan
    what = f"the loss is {report.loss}, the gradient norm {report.grad_norm}"
    found = bundle.Findings.of(loop.engine)
    # A save under way holds the weights before this update.
    loop._settle(loop.finite_step if found.bad_state else None)
    record: dict[str, Any] = {
        "event": "nan",
        "of": "update",
        "step": loop.step,
        "tokens": loop.tokens,
        "loss": report.loss,
        "grad_norm": report.grad_norm,
        "lr": report.lr,
    }
    # Updates that are skipped in a row have the same weights.
    kept = bundle.write(loop, report, what, found) if policy.skips == 0 else None
    if kept is not None:
        record["bundle"] = str(kept.relative_to(loop.folder.path))
    loop.display.warning(f"step {loop.step}: {found.sentence()}")
    ending = ""
    if policy.on_nan == "skip":
        if found.bad_state:
            ending = "; weights or moments are not finite themselves, so that skipping cannot help"
        elif policy.may_skip():
            loop._event({**record, "action": "skip"})
            loop.engine.pass_over()
            return
        else:
            ending = f"; so it was for {MOST_SKIPS} updates in a row"
    if policy.on_nan == "rollback":
        ending = _roll_back(loop, record)
    loop._event({**record, "action": "stop"})
    _stop(loop, what + ending, kept)


def after_check(loop: Loop, what: str, numbers: dict[str, Any]) -> NoReturn:
    """An evaluation or a sample shows that the weights are no good, though the updates were. `what` says how.

    There is no update to skip: this raises `RolledBack`, or `NanError`.
    """
    loop._settle(loop.finite_step)
    record = {"event": "nan", "of": "weights", "step": loop.step, "tokens": loop.tokens, **numbers}
    ending = _roll_back(loop, record) if loop.nan.on_nan == "rollback" else ""
    loop._event({**record, "action": "stop"})
    _stop(loop, what + ending, None)


def check_state(loop: Loop) -> None:
    """Before a save: weights and moments that are not finite are never saved, though every loss was.

    A learning rate that is far too high can bring them there between two updates.
    """
    bad = [name for name, _, _, weights, moments in loop.engine.tensor_numbers() if weights or moments]
    if bad:
        view = loop.view
        what = f"weights or moments of {count_of(len(bad), 'tensor')} are not finite ({bad[0]})"
        after_check(loop, what, {"loss": view.loss, "grad_norm": view.grad_norm, "lr": view.lr})


def _stop(loop: Loop, what: str, kept: Path | None) -> NoReturn:
    last = loop.folder.newest(loop.finite_step)
    good = "there is no good checkpoint yet" if last is None else f"the last good checkpoint is {last}"
    hint = f"try a lower --learning-rate than {loop.config.learning_rate:g}, or a smaller --grad-clip"
    if kept is not None:
        hint += f"; symlm replay {loop.folder.path} --step {loop.step} computes this update again"
    raise NanError(f"step {loop.step}: {what}; {good}", hint)


def _roll_back(loop: Loop, record: dict[str, Any]) -> str:
    """Go back and raise `RolledBack`; when that is not possible, why."""
    policy, folder = loop.nan, loop.folder
    window = policy.next_window(loop.step)
    if window is None:
        return f"; {count_of(len(WINDOWS), 'rollback')} did not get past it"
    found = _checkpoint_before(folder, window[0], policy.left_out, loop.display.warning)
    if found is None and loop.step > MOST_REPEATED:
        return f"; there is no checkpoint before step {window[0]} to go back to"
    policy.leave_out(window)
    back = 0 if found is None else found[1].step
    loop.log.close()
    loop.samples.close()
    for name in (METRICS, SAMPLES):
        truncate_past(folder.path / name, back)
    loop.log, loop.samples = LineLog(folder.path / METRICS), LineLog(folder.path / SAMPLES)
    _forget_checkpoints(folder, window[0], None if found is None else found[0], back)
    # The time is spent, and the best checkpoint is still there.
    best, spent = (loop.best_step, loop.view.best_bpb), loop._elapsed()
    failed = loop.step
    if found is None:
        loop.engine.restart()
        if loop.initial is not None and not has_adapters(loop.engine_config):
            # What adapters are added to has never changed.
            loop.initial.load(loop.engine)
        loop.step = loop.start_step = loop.tokens = loop.view.step = loop.view.tokens = 0
        loop.saver.saved_step, loop.finite_step = None, -1
    else:
        loop._restore(*found)
    (loop.best_step, loop.view.best_bpb), loop.elapsed_before = best, spent
    # What was due there was done before the updates that failed.
    loop.began, loop.evaluated_step, loop._undone = time.monotonic(), -1, False
    loop._event({**record, "action": "rollback"})
    loop._event({
        "event": "rollback",
        "step": back,
        "tokens": loop.tokens,
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
    """Remove the checkpoints that hold updates which are left out now, so that no resume goes on from them."""
    if back is None:
        (folder.path / LAST).unlink(missing_ok=True)
    else:
        folder.go_back_to(back, back_step)
    folder.drop_past(step - 1)
