"""The last evaluation of a run with `--precision int16` once more in f32, as every other program computes."""

from __future__ import annotations

from typing import Any

from ... import _symlm
from ...config.engine import in_f32, made_from, settings_of
from ...errors import DataError, MemoryPlanError, UserError
from ...layout import WEIGHTS
from ...system.signals import Stopped
from ..running import Running

UNUSUAL = 1e-3
"""From this part of the bits per byte on, the two figures of a run differ by more than rounding explains."""


def wanted(running: Running, windows: int) -> bool:
    """Whether there is something to evaluate: not where the run is f32 or has no held-out text."""
    return running.config.precision != "f32" and running.session.text.val is not None and windows > 0


def evaluate_in_f32(running: Running, windows: int) -> dict[str, Any]:
    """Loss and bits per byte in f32 of the checkpoint that was saved last, for the end of the metrics; nothing, and a
    warning that says why, where they cannot be had. The engine of the run has to be released before."""
    try:
        report = _report(running, windows)
    except Stopped:
        return _left_out(running, f"stopped by {running.signals.name}")
    except (DataError, MemoryPlanError, UserError) as error:
        return _left_out(running, error.message)
    _tell(running, report)
    return {"val_loss_f32": report.loss, "val_bpb_f32": report.bits_per_byte}


def _tell(running: Running, report: _symlm.EvalReport) -> None:
    mine, precision = running.progress.view.val_bpb, running.config.precision
    change = report.bits_per_byte / mine - 1 if mine else 0.0
    quality = f"val loss {report.loss:.4f}  bits per byte {report.bits_per_byte:.4f}"
    if mine:
        quality += f", {100 * change:+.3f} % from {precision}"
    running.display.message(f"in f32, as other programs compute: {quality}")
    # A NaN is not below it either.
    if not abs(change) < UNUSUAL:
        running.display.warning(
            f"the two figures of the last evaluation are {100 * abs(change):.3f} % apart, usual is below 0.002 %: the "
            f"weights suit {precision}, not f32, in which other programs use them"
        )


def _left_out(running: Running, why: str) -> dict[str, Any]:
    running.display.warning(f"not evaluated in f32: {why}")
    return {}


def _report(running: Running, windows: int) -> _symlm.EvalReport:
    val, step = running.session.text.val, running.saver.saved_step
    if val is None or step is None:
        raise DataError(f"{running.folder.path}: no held-out text or no checkpoint")
    # With adapters the weights that they give are the base, and new adapters add nothing to it.
    kept = in_f32(made_from(running.settings))
    settings = settings_of({**kept, "threads": running.settings.threads, "sectors_in_flight": 1})
    engine = _symlm.Engine(settings, val)
    try:
        engine.load_weights(str(running.folder.checkpoint_path(step) / WEIGHTS))
        return engine.evaluate(val, windows, running.progress_bar("evaluation in f32"))
    finally:
        engine.close()
