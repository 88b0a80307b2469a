"""`--extend-steps`: a finished run is resumed from before its decay, as if it had been started with more updates.

Up to the decay a wsd run does not depend on its length. So the checkpoint of that moment is kept, together with the
best one up to there, and a longer run can begin with it.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config.sources import to_toml
from ..config.train_config import TrainConfig
from ..errors import DataError, UserError, reason
from ..layout import BEST, CONFIG, TEMP_PREFIX
from ..run import checkpoint
from ..run.checkpoint import State, link_checkpoint
from ..run.folder import RunFolder
from ..system.files import write_atomic
from .schedule import plan_steps, pre_decay_step, resolve


@dataclass(frozen=True)
class Extension:
    """What a longer run is made of: its resolved configuration, what is asked for, and where it resumes."""

    config: TrainConfig
    requested: dict[str, Any]
    state: State
    added: int

    def __str__(self) -> str:
        config = self.config
        return (
            f"{self.added:,} updates more, {config.max_steps:,} in all; the decay begins at {config.decay_start:,}, "
            f"resuming from {self.state.step:,}"
        )


def plan_extension(folder: RunFolder, run: TrainConfig, requested: Mapping[str, Any], added: int) -> Extension:
    """The extension of a finished run by `added` updates; UserError when it cannot be. Changes nothing.

    The new step numbers follow from the configuration as those of a new run do, but the warm-up is what it was.
    """
    length = run.max_steps or 0
    start = pre_decay_step(run)
    if run.schedule != "wsd":
        raise UserError(
            f"{folder.path}: the schedule is {run.schedule}, only a wsd run can be extended",
            "start a new run with a larger --max-steps",
        )
    if not folder.finished(length):
        raise UserError(
            f"{folder.path}: the run of {length:,} updates is not finished, so it cannot be extended",
            "finish it by --resume auto first",
        )
    new_run = "start a new run with a larger --max-steps"
    if start is None:
        raise UserError(f"{folder.path}: the run decays from its first update, so it cannot be extended", new_run)
    path = folder.checkpoint_path(start)
    if not path.is_dir():
        raise UserError(f"{path}: the checkpoint before the decay is missing, so the run cannot be extended", new_run)
    try:
        state = checkpoint.usable(path)
    except DataError as error:
        raise DataError(error.message, new_run) from None
    longer = length + added
    asked = dataclasses.replace(run, max_steps=longer, decay_start=requested.get("decay_start"))
    config, now_requested = resolve(asked, plan_steps(asked, 0), run.model.vocab_size)
    return Extension(config, now_requested, state, added)


def extend(folder: RunFolder, extension: Extension) -> State:
    """Turn the folder into that of the longer run, at the step where it resumes; returns the state to resume from.

    The configuration comes last. Killed before, the run is the old one, some updates before its end; killed after, the
    new one: `--resume auto` works in both cases. At no moment does a checkpoint of the old decay meet the new length.
    """
    state = extension.state
    try:
        folder.point_last(state.step)
        folder.drop_past(state.step)
        state = _best_of(folder, state)
        write_atomic(folder.path / CONFIG, to_toml(extension.config, extension.requested))
    except OSError as error:
        raise UserError(
            f"{folder.path}: cannot extend the run: {reason(error)}",
            "make room or check the rights, then say it again",
        ) from error
    return state


def _best_of(folder: RunFolder, state: State) -> State:
    """Let `best/` be what it was at the step of `state`. If that is lost, the next evaluation is the best so far."""
    best, known = folder.path / BEST, state.trainer.get("best_step")
    if folder.best_step() == known:
        return state
    if known is not None and (source := folder.checkpoint_path(known)).is_dir():
        link_checkpoint(source, best)
        return state
    if best.is_dir():
        doomed = best.with_name(f"{TEMP_PREFIX}{BEST}")
        shutil.rmtree(doomed, ignore_errors=True)
        best.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    return dataclasses.replace(state, trainer={**state.trainer, "best_step": None, "best_val_bpb": None})


def keep_best(folder: RunFolder, state: State) -> None:
    """Keep the best checkpoint so far under its step too: `best/` may get another one in the decay."""
    known = state.trainer.get("best_step")
    if known in (None, state.step) or folder.checkpoint_path(known).is_dir() or folder.best_step() != known:
        return
    link_checkpoint(folder.path / BEST, folder.checkpoint_path(known))


def needed_steps(folder: RunFolder, pre_decay: int | None) -> set[int]:
    """The checkpoints that an extension needs."""
    if pre_decay is None:
        return set()
    try:
        best = State.read(folder.checkpoint_path(pre_decay)).trainer.get("best_step")
    except DataError:
        best = None
    return {pre_decay} if best is None else {pre_decay, int(best)}
