"""The last evaluation of a run with `--precision int16` once more in f32, as every other program computes."""

from __future__ import annotations

from typing import Any

from ... import _symlm
from ...config.engine import in_f32, made_from, settings_of, without_adapters
from ...errors import DataError, MemoryPlanError
from ...layout import WEIGHTS
from ...system.signals import Stopped
from ..running import Running


def evaluate_in_f32(running: Running, windows: int) -> dict[str, Any]:
    """Loss and bits per byte in f32 of the checkpoint that was saved last, for the end of the metrics.

    Nothing where the run is f32, has no held-out text, or a signal comes."""
    val, step = running.session.text.val, running.saver.saved_step
    if running.config.precision == "f32" or val is None or windows < 1 or step is None:
        return {}
    kept = in_f32(without_adapters(made_from(running.settings)))
    settings = settings_of({**kept, "threads": running.settings.threads, "sectors_in_flight": 1})
    try:
        engine = _symlm.Engine(settings, val)
    except MemoryPlanError as error:
        running.display.message(f"not evaluated in f32: {error.message}")
        return {}
    try:
        engine.load_weights(str(running.folder.checkpoint_path(step) / WEIGHTS))
        report = engine.evaluate(val, windows, running.progress_bar("evaluation in f32"))
    except (Stopped, DataError):
        return {}
    finally:
        engine.close()
    mine = running.progress.view.val_bpb
    change = "" if not mine else f", {100 * (report.bits_per_byte / mine - 1):+.3f} % from {running.config.precision}"
    quality = f"val loss {report.loss:.4f}  bits per byte {report.bits_per_byte:.4f}{change}"
    running.display.message(f"in f32, as other programs compute: {quality}")
    return {"val_loss_f32": report.loss, "val_bpb_f32": report.bits_per_byte}
