"""Checkpoints during training: written from a copy while the updates continue, one at a time.

`Saver.begin` takes the copy and returns; the extension writes and hashes the two large files. The trainer calls `poll`
while the updates run: when the files are there, it completes the checkpoint by a few small files and a rename.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .. import _symlm
from ..config.engine import made_from
from ..errors import SymlmError
from ..layout import BEST
from ..run import adapters, checkpoint
from ..run.checkpoint import State, Written, engine_part
from ..run.folder import RunFolder
from . import extend

_SLICE_S = 0.1
"""Waiting is done in slices, so that signals are taken and the display lives."""


class Writing(Protocol):
    """Weights and optimizer on their way into a folder."""

    def wait(self, timeout_s: float = 0.0) -> bool:
        """Whether they are there, or have failed."""
        ...

    def finish(self) -> Mapping[str, Written]:
        """Size and hash of each file, or the error."""
        ...


Start = Callable[[Path], tuple[Writing, State]]
"""Begins to write into an empty folder; gives what to wait for, and the state of this moment."""


def start_saving(engine: _symlm.Engine, trainer: dict[str, Any], settings: _symlm.EngineSettings, run: Path) -> Start:
    """A save of the engine as it is when the save begins, with the trainer's part of the state. `run` is the folder of
    the run, which holds what adapters are added to."""

    def start(folder: Path) -> tuple[Writing, State]:
        if settings.train.lora is not None:
            adapters.write_adapter_config(folder, settings.train.lora, run)
        saving = engine.save_begin(str(folder))
        return saving, State(engine_part(saving.state), trainer, made_from(settings))

    return start


def write_checkpoint(folder: Path, model_config: dict[str, Any], start: Start) -> None:
    """Write a checkpoint and wait for it; it takes the place of one that is there."""
    with checkpoint.writing(folder) as temporary:
        temporary.mkdir(parents=True)
        writing, state = start(temporary)
        checkpoint.seal(temporary, state, model_config, writing.finish())
        checkpoint.put_in_place(temporary, folder)


@dataclass(frozen=True)
class Saved:
    """A checkpoint that is complete. `seconds` went by since it was begun; for `stall_s` of them the updates waited."""

    path: Path
    state: State
    seconds: float
    stall_s: float


@dataclass
class _Pending:
    target: Path
    temporary: Path
    writing: Writing
    state: State
    best: bool
    began: float
    stall_s: float = 0.0


class Saver:
    """Writes the checkpoints of a run: `checkpoints/step-N`, the pointer `last`, `best/`.

    `keep` of them are kept, and those needed to resume from the step before the decay (`pre_decay`, None when
    the schedule has none). `report` is called with every checkpoint that is complete, except a separate `best/`;
    `tick` now and then while something waits.
    """

    def __init__(
        self,
        folder: RunFolder,
        model_config: dict[str, Any],
        keep: int,
        pre_decay: int | None = None,
        report: Callable[[Saved], None] = lambda saved: None,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder = folder
        self._model_config = model_config
        self._keep = keep
        self._pre_decay = pre_decay
        self._report = report
        self._tick = tick
        self._pending: _Pending | None = None
        self._completing = False
        self.saved_step: int | None = None
        """Step of the newest checkpoint that is complete or under way."""

    def resumed(self, path: Path, state: State) -> None:
        """Training resumes from this checkpoint. Its `best/` is recreated if a crash prevented it."""
        self.saved_step = None
        if path != self._folder.checkpoint_path(state.step):
            return
        self.saved_step = state.step
        if state.trainer.get("best_step") == state.step and (self._folder.best_step() or 0) < state.step:
            with checkpoint.writing(self._folder.path / BEST):
                checkpoint.link_checkpoint(path, self._folder.path / BEST)

    @property
    def under_way(self) -> bool:
        """Whether a checkpoint is not complete yet."""
        return self._pending is not None or self._completing

    def begin(self, step: int, start: Start, *, best: bool = False, only_best: bool = False) -> None:
        """Begin to write the checkpoint of `step`, which is `best` so far or not; first waits for the one before.

        With `only_best` the step is due for no checkpoint, and only `best/` is written.
        """
        began = time.monotonic()
        self.wait()
        self._folder.check_held()
        target = self._folder.path / BEST if only_best else self._folder.checkpoint_path(step)
        if self.saved_step == step:
            if best:
                with checkpoint.writing(self._folder.path / BEST):
                    checkpoint.link_checkpoint(self._folder.checkpoint_path(step), self._folder.path / BEST)
            return
        with checkpoint.writing(target) as temporary:
            temporary.mkdir(parents=True)
            writing, state = start(temporary)
        self._pending = _Pending(target, temporary, writing, state, best, began, time.monotonic() - began)
        if not only_best:
            self.saved_step = step

    def close(self) -> None:
        """Release the listeners when training has ended: they hold this saver, and open files."""
        self._report = lambda saved: None
        self._tick = lambda: None

    def poll(self) -> None:
        """Complete the checkpoint under way if its files are there; UserError when they could not be written."""
        if self._pending is not None and self._pending.writing.wait():
            self._complete(self._pending)

    def wait(self) -> None:
        """Wait for the checkpoint under way, if there is one, and complete it."""
        while self._pending is not None:
            if self._pending.writing.wait(_SLICE_S):
                self._complete(self._pending)
            else:
                self._tick()

    def settle(self, limit: int | None = None) -> str | None:
        """Finish the checkpoint under way when training ends with an error; returns the error of the checkpoint.

        A checkpoint of a step beyond `limit` is dropped: its weights are unusable.
        """
        pending = self._pending
        if pending is None:
            return None
        if limit is None or pending.state.step <= limit:
            try:
                self.wait()
            except SymlmError as error:
                return error.message
            return None
        self._pending = None
        self.saved_step = None
        with contextlib.suppress(SymlmError):
            pending.writing.finish()
        shutil.rmtree(pending.temporary, ignore_errors=True)
        return None

    def _complete(self, pending: _Pending) -> None:
        self._completing = True
        # Whatever happens now, there is nothing to wait for any more.
        self._pending = None
        try:
            self._put_in_place(pending)
        finally:
            self._completing = False

    def _put_in_place(self, pending: _Pending) -> None:
        target, step = pending.target, pending.state.step
        is_best_alone = target.name == BEST
        with checkpoint.writing(target, pending.temporary):
            files = pending.writing.finish()
            checkpoint.seal(pending.temporary, pending.state, self._model_config, files)
            if not is_best_alone:
                # Before the folder has its name: never is there a checkpoint newer than what `last` leads to.
                self._folder.point_last(step)
            if step == self._pre_decay:
                extend.keep_best(self._folder, pending.state)
            checkpoint.put_in_place(pending.temporary, target)
            if is_best_alone:
                return
            if pending.best:
                checkpoint.link_checkpoint(target, self._folder.path / BEST)
            self._folder.prune(self._keep, step, extend.needed_steps(self._folder, self._pre_decay))
        self._report(Saved(target, pending.state, time.monotonic() - pending.began, pending.stall_s))
