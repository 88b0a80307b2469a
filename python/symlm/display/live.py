"""The live view on a terminal, drawn by Rich from the main thread."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..errors import printable
from ..units import format_count, format_duration
from .plain import Display, event_line, one_line
from .view import View, ranks_line, sparkline

_REFRESH_S = 0.5
"""A redraw takes some milliseconds of a core that a worker could use."""
_BARS = "▁▂▃▄▅▆▇█"
_NAMED_WORKERS = 8
_SAMPLE_CHARS = 240


class _Console(Console):
    """A console that reports a reader that has left, where Rich would end the process."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


class LiveDisplay(Display):
    """A panel that is redrawn in place; messages and finished work scroll above it.

    Rich would refresh from another thread; here every redraw happens inside a call, so that the process has no
    thread that does not train.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or _Console(stderr=True)
        self._live: Live | None = None
        self._view: View | None = None
        self._tasks: dict[str, tuple[int, int, float]] = {}
        self._drawn = 0.0

    def _draw(self, force: bool = False) -> None:
        now = time.monotonic()
        if not force and now - self._drawn < _REFRESH_S:
            return
        self._drawn = now
        if self._live is None:
            self._live = Live(
                console=self.console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False, transient=False
            )
            self._live.start()
        # An empty last line: the ^C of a terminal appears there and cannot push the panel out of place.
        self._live.update(Group(self._render(), Text()), refresh=True)

    def message(self, text: str) -> None:
        self.console.print(Text(printable(text)))

    def warning(self, text: str) -> None:
        self.console.print(Text(printable(f"warning: {text}"), style="yellow"))

    def task(self, label: str) -> Callable[[int, int], None]:
        began = time.monotonic()

        def update(done: int, total: int) -> None:
            if done < total:
                self._tasks[label] = (done, total, began)
                self._draw()
            elif self._tasks.pop(label, None) is not None:
                if self._view is None:
                    self.message(f"{label}: done in {format_duration(time.monotonic() - began)}")
                self._draw(force=True)

        return update

    def begin(self, view: View) -> None:
        self._view = view
        self._tasks.clear()
        self._draw(force=True)

    def tick(self, view: View) -> None:
        self._view = view
        self._draw()

    def event(self, record: dict[str, Any], view: View) -> None:
        self._view = view
        if record.get("event") in ("nan", "rollback", "save", "stop"):
            self.message(event_line(record, view) or "")
        self._draw(force=record.get("event") != "train")

    def close(self) -> None:
        live, self._live = self._live, None
        if live is None:
            return
        self._tasks.clear()
        live.update(self._render() if self._view is not None else Text(), refresh=True)
        live.stop()

    # --- drawing --------------------------------------------------------------------------------------------------

    def _render(self) -> RenderableType:
        parts: list[RenderableType] = []
        if self._view is not None:
            parts.append(_panel(self._view, self.console.width))
        for label, (done, total, began) in self._tasks.items():
            parts.append(_task_bar(label, done, total, time.monotonic() - began))
        return Group(*parts)


def _task_bar(label: str, done: int, total: int, elapsed: float) -> RenderableType:
    left = elapsed / done * (total - done) if done else None
    row = Table.grid(padding=(0, 1), expand=False)
    row.add_row(
        Text(label, style="bold"),
        ProgressBar(total=max(total, 1), completed=done, width=32),
        Text(f"{100 * done / max(total, 1):3.0f} %"),
        Text(f"eta {format_duration(left)}" if left is not None else "", style="dim"),
    )
    return row


def _panel(view: View, width: int) -> RenderableType:
    inner = max(width - 6, 20)
    progress = Table.grid(padding=(0, 1), expand=True)
    progress.add_column(no_wrap=True)
    progress.add_column(ratio=1)
    progress.add_column(no_wrap=True)
    eta = "?" if view.eta_s is None else format_duration(view.eta_s)
    progress.add_row(
        Text(f"step {view.step:,}/{view.max_steps:,}", style="bold"),
        ProgressBar(total=max(view.max_steps, 1), completed=view.step),
        Text(f"{100 * view.step / max(view.max_steps, 1):.0f} %  {format_duration(view.elapsed_s)}  eta {eta}"),
    )
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="dim", no_wrap=True)
    rows.add_column(overflow="fold")
    rows.add_row("loss", _losses(view))
    if len(view.history) > 1:
        rows.add_row("", Text(sparkline(view.history, min(inner - 16, 72)), style="cyan"))
    if view.val_loss is not None:
        rows.add_row("validation", _validation(view))
    rows.add_row("rate", _rate(view))
    rows.add_row("speed", _speed(view))
    rows.add_row("workers", _workers(view.busy, inner - 16))
    if view.ranks:
        rows.add_row("ranks", ranks_line(view.ranks, view.slowest_rank))
    filled, capacity = view.queue
    if capacity:
        rows.add_row("prefetch", Text("●" * filled + "○" * (capacity - filled) + f"  {filled}/{capacity} batches"))
    if view.sample:
        rows.add_row("sample", Text(one_line(view.sample, _SAMPLE_CHARS), style="italic"))
    parameters = format_count(view.parameters)
    title = f"{view.run}  {view.origin} {parameters} parameters  {view.isa}  {view.threads} threads"
    return Panel(Group(progress, rows), title=Text(printable(title)), title_align="left", border_style="blue")


def _losses(view: View) -> Text:
    text = Text()
    if view.loss is None:
        return Text("waiting for the first update", style="dim")
    text.append(f"train {view.loss:.4f}", style="bold")
    if view.smooth_loss is not None:
        text.append(f" (mean {view.smooth_loss:.4f})")
    return text


def _rate(view: View) -> Text:
    if view.lr == 0 and view.grad_norm == 0:
        # No update yet in this session.
        return Text("-", style="dim")
    return Text(f"lr {view.lr:.2e}   gradient norm {view.grad_norm:.3f}")


def _validation(view: View) -> Text:
    text = Text(f"{view.val_loss:.4f}")
    if view.val_bpb is not None:
        text.append(f" = {view.val_bpb:.4f} bits per byte", style="bold")
    if view.final_windows:
        text.append(f"   over {view.final_windows:,} windows")
    if view.best_bpb is not None:
        text.append(f"   best{_during(view)} {view.best_bpb:.4f}", style="green")
    return text


def _during(view: View) -> str:
    return " during training" if view.final_windows else ""


def _speed(view: View) -> Text:
    text = f"{format_count(view.tok_s)} tokens/s   {format_count(view.tokens)} tokens"
    if view.peak_frac is not None:
        text += f"   {100 * view.peak_frac:.1f} % of {view.peak_name}"
    return Text(text)


def _workers(busy: list[float], width: int) -> Text:
    if not busy:
        return Text("")
    mean = sum(busy) / len(busy)
    text = Text()
    if len(busy) <= _NAMED_WORKERS:
        for index, fraction in enumerate(busy):
            text.append(f"{index:02d} ")
            text.append(_bar(fraction), style=_colour(fraction))
            text.append(f"{100 * fraction:4.0f} %  ")
        return text
    room = max(width - 10, 1)
    shown = len(busy) if len(busy) <= room else max(room - len(f" +{len(busy)}"), 1)
    for fraction in busy[:shown]:
        text.append(_bar(fraction), style=_colour(fraction))
    if shown < len(busy):
        text.append(f" +{len(busy) - shown}", style="dim")
    text.append(f"  {100 * mean:.0f} %")
    return text


def _bar(fraction: float) -> str:
    return _BARS[min(max(int(fraction * len(_BARS)), 0), len(_BARS) - 1)]


def _colour(fraction: float) -> str:
    if fraction >= 0.8:
        return "green"
    return "yellow" if fraction >= 0.5 else "red"
