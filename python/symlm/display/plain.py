"""The base of all displays, and those that write lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from ..errors import printable
from ..run.metrics import to_line
from ..units import format_count, format_duration
from .view import View, ranks_line

_SILENT_S = 2.0
_REPEAT_S = 10.0


class Display:
    """What the trainer tells a display. Every method may be called at any time and does nothing by default."""

    def message(self, text: str) -> None:
        """Something to know."""

    def warning(self, text: str) -> None:
        """Something to look at."""

    def task(self, label: str) -> Callable[[int, int], None]:
        """A piece of work with a progress bar; the result is called with (done, total)."""
        return lambda done, total: None

    def begin(self, view: View) -> None:
        """The updates begin."""

    def tick(self, view: View) -> None:
        """Called several times a second while the updates run."""

    def event(self, record: dict[str, Any], view: View) -> None:
        """A line was written to `metrics.jsonl`."""

    def close(self) -> None:
        """Leave the terminal as it was; may be called twice."""


class OffDisplay(Display):
    """Shows nothing, not even warnings."""


def write_line(text: str) -> None:
    """A line on standard error; without one, as after `2>&-`, it goes nowhere."""
    if sys.stderr is not None:
        print(text, file=sys.stderr, flush=True)


class JsonDisplay(Display):
    """The lines of `metrics.jsonl`, and messages and progress in the same form."""

    def _write(self, record: dict[str, Any]) -> None:
        write_line(to_line(record))

    def message(self, text: str) -> None:
        self._write({"event": "message", "text": text})

    def warning(self, text: str) -> None:
        self._write({"event": "warning", "text": text})

    def task(self, label: str) -> Callable[[int, int], None]:
        last = [-1.0]

        def update(done: int, total: int) -> None:
            now = time.monotonic()
            if done >= total or now - last[0] >= 1.0:
                last[0] = now
                self._write({"event": "progress", "task": label, "done": done, "total": total})

        return update

    def event(self, record: dict[str, Any], view: View) -> None:
        self._write(record)


class PlainDisplay(Display):
    """One line for each event, for logs and pipes."""

    def _write(self, text: str) -> None:
        write_line(printable(text))

    def message(self, text: str) -> None:
        self._write(text)

    def warning(self, text: str) -> None:
        self._write(f"warning: {text}")

    def task(self, label: str) -> Callable[[int, int], None]:
        began = time.monotonic()
        next_line = [began + _SILENT_S]
        shown = [False]

        def update(done: int, total: int) -> None:
            now = time.monotonic()
            if done >= total:
                if shown[0]:
                    self._write(f"{label}: done in {format_duration(now - began)}")
                    shown[0] = False
            elif now >= next_line[0]:
                shown[0] = True
                next_line[0] = now + _REPEAT_S
                self._write(f"{label}: {100 * done / max(total, 1):.0f} %")

        return update

    def event(self, record: dict[str, Any], view: View) -> None:
        line = event_line(record, view)
        if line is not None:
            self._write(line)


def event_line(record: dict[str, Any], view: View) -> str | None:
    """An event as a readable line; None for events that need none."""
    step = f"step {record.get('step', 0):>{len(str(view.max_steps))}}/{view.max_steps}"
    kind = record.get("event")
    if kind == "train":
        integer = record.get("integer_peak_frac")
        peak, name = (record.get("peak_frac"), "peak") if integer is None else (integer, "integer peak")
        parts = [
            f"loss {record['loss']:.4f}",
            f"lr {record['lr']:.2e}",
            f"grad {record['grad_norm']:.2f}",
            f"{format_count(record['tok_s'])} tok/s",
            *([f"{name} {100 * peak:.0f} %"] if peak is not None else []),
            f"busy {100 * record['worker_busy_frac']:.0f} %",
            f"eta {format_duration(record['eta_s'])}",
            *([ranks_line(record["ranks"], record["slowest_rank"])] if "ranks" in record else []),
        ]
        return f"{step}  " + "  ".join(parts)
    if kind == "eval" and record.get("final"):
        return (
            f"{step}  final val loss {record['val_loss']:.4f}  bits per byte {record['val_bpb']:.4f}"
            f"  over {record['windows']:,} windows"
        )
    if kind == "eval":
        best = record.get("best_val_bpb")
        more = f"  best {best:.4f}" if best is not None else ""
        return f"{step}  val loss {record['val_loss']:.4f}  bits per byte {record['val_bpb']:.4f}{more}"
    if kind == "sample":
        return f"{step}  sample: {one_line(str(record.get('text', '')), 100)}"
    if kind == "save":
        return f"{step}  saved {record['path']}"
    if kind == "nan":
        held_out = f"  val loss {record['val_loss']}" if "val_loss" in record else ""
        return f"{step}  loss {record['loss']}  grad {record['grad_norm']}{held_out}: {record['action']}"
    if kind == "rollback":
        ranges = ", ".join(f"{first} to {last}" for first, last in record["left_out"])
        return f"{step}  back from step {record['failed_step']}; left out: {ranges}"
    if kind == "stop":
        return f"{step}  stopped: {record['reason']}"
    return None


def one_line(text: str, width: int) -> str:
    """The text on one line of at most `width` characters, control characters shown as spaces."""
    flat = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"
