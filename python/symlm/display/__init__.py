"""Displays of a training run: a live view, plain lines, JSON lines, nothing. All write to standard error.

No display starts a thread, and a display that fails is replaced by plain lines: it never stops a run.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any

from ..config.train_config import Progress
from .plain import Display, JsonDisplay, OffDisplay, PlainDisplay
from .view import View

__all__ = ["Display", "JsonDisplay", "OffDisplay", "PlainDisplay", "SafeDisplay", "make_display"]


class SafeDisplay(Display):
    """Passes everything on to a display; at its first failure plain lines take over, at theirs nothing is shown."""

    def __init__(self, inner: Display) -> None:
        self.inner = inner

    def _try(self, method: str, *arguments: Any) -> Any:
        try:
            return getattr(self.inner, method)(*arguments)
        except Exception as error:
            self._fall_back(error)
            return None

    def _fall_back(self, error: Exception) -> None:
        broken, self.inner = self.inner, OffDisplay()
        with contextlib.suppress(Exception):
            broken.close()
        if isinstance(broken, PlainDisplay):
            return
        try:
            fallback = PlainDisplay()
            fallback.warning(f"the display failed ({type(error).__name__}: {error}); continuing with plain lines")
        except Exception:
            return
        self.inner = fallback

    def message(self, text: str) -> None:
        self._try("message", text)

    def warning(self, text: str) -> None:
        self._try("warning", text)

    def task(self, label: str) -> Callable[[int, int], None]:
        owner = self.inner
        move = self._try("task", label)

        def update(done: int, total: int) -> None:
            if move is None or self.inner is not owner:
                return
            try:
                move(done, total)
            except Exception as error:
                self._fall_back(error)

        return update

    def begin(self, view: View) -> None:
        self._try("begin", view)

    def tick(self, view: View) -> None:
        self._try("tick", view)

    def event(self, record: dict[str, Any], view: View) -> None:
        self._try("event", record, view)

    def close(self) -> None:
        self._try("close")


def make_display(progress: Progress) -> SafeDisplay:
    """The display that `--progress` means; `auto` is the live view on a terminal and plain lines elsewhere."""
    if progress == "auto":
        progress = "rich" if _is_terminal() else "plain"
    if progress == "plain":
        return SafeDisplay(PlainDisplay())
    if progress == "json":
        return SafeDisplay(JsonDisplay())
    if progress == "off":
        return SafeDisplay(OffDisplay())
    try:
        from .live import LiveDisplay

        return SafeDisplay(LiveDisplay())
    except Exception as error:
        fallback = SafeDisplay(PlainDisplay())
        fallback.warning(f"the live view cannot be shown ({type(error).__name__}: {error}); using plain lines")
        return fallback


def _is_terminal() -> bool:
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):
        return False
