"""Hooks into training. Each may return `Control.STOP` to end it after a save."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Control(enum.Enum):
    """What a callback asks for."""

    CONTINUE = "continue"
    STOP = "stop"


class Callback:
    """Base of callbacks: override what is of interest. Returning None means `Control.CONTINUE`.

    Callbacks run on the main thread. If one defines `on_step`, the trainer waits after every update, so that a
    stop takes effect right after the step that was reported; the other hooks cost nothing between their events.
    """

    def on_start(self, step: int, path: Path) -> Control | None:
        """Before updates begin in the run folder `path`, with `step` of them done: at a start, a resume, and after
        going back to an earlier step, where what was reported of later ones counts no more."""
        return None

    def on_step(self, metrics: Mapping[str, Any]) -> Control | None:
        """After every update: `step`, `loss` (nats per token), `lr`, `grad_norm`, `tokens`, `seconds`."""
        return None

    def on_log(self, metrics: Mapping[str, Any]) -> Control | None:
        """After every line of the event `train` in `metrics.jsonl`, with its content."""
        return None

    def on_eval(self, metrics: Mapping[str, Any]) -> Control | None:
        """After every evaluation, with the content of the line in `metrics.jsonl`."""
        return None

    def on_save(self, step: int, path: Path) -> Control | None:
        """After a checkpoint was written."""
        return None

    def on_sample(self, step: int, text: str) -> Control | None:
        """After a text sample was drawn."""
        return None

    def on_end(self) -> Control | None:
        """When the training has ended, in whatever way."""
        return None


class CallbackList:
    """Calls several callbacks and remembers whether one of them asked to stop."""

    def __init__(self, callbacks: tuple[Callback, ...]) -> None:
        self._callbacks = callbacks
        self.stop = False
        self.every_step = any(type(callback).on_step is not Callback.on_step for callback in callbacks)

    def call(self, hook: str, *arguments: Any) -> None:
        """Call one hook of every callback."""
        for callback in self._callbacks:
            if getattr(callback, hook)(*arguments) is Control.STOP:
                self.stop = True
