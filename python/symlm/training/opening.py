"""Where a run lies, which checkpoint it resumes from, and whether text and settings are those of the run."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..config.engine import BEFORE
from ..config.sources import Request
from ..config.train_config import TrainConfig
from ..errors import DataError, SymlmError, UsageError, UserError, shown
from ..layout import BEST, CONFIG, LAST, WEIGHTS
from ..run import contract
from ..run.checkpoint import State
from ..run.folder import RunFolder, default_out_dir, run_of_checkpoint
from ..text.corpus import Prepared
from ..units import count_of
from .contract_changes import changes_since

AUTO = "auto"
_OF_MEETING = ("mpi", "rank_timeout")


def locate(config: TrainConfig) -> tuple[RunFolder, Path | None]:
    """The run folder that a configuration means, and the checkpoint if `--resume` names one by its path."""
    if config.resume in (None, AUTO, LAST, BEST):
        return RunFolder(config.out_dir or default_out_dir(config)), None
    path = Path(config.resume or "")
    named = None
    if (path / WEIGHTS).is_file():
        named = path
        owner = run_of_checkpoint(path)
        if owner is None:
            raise UserError(f"{path}: the checkpoint is not inside a run folder, so it cannot be resumed")
        folder = RunFolder(owner)
    elif RunFolder(path).exists:
        folder = RunFolder(path)
    else:
        raise UserError(
            f"--resume {config.resume}: no run and no checkpoint there", "use auto, last, best, or the path of a run"
        )
    if config.out_dir is not None and Path(config.out_dir).resolve() != folder.path.resolve():
        raise UsageError(f"--resume {config.resume} is in {folder.path}, but --out-dir is {config.out_dir}")
    return folder, named


def how_ranks_meet(request: Request) -> TrainConfig:
    """What is asked for, with the run's own settings of how ranks meet where none were given: it has to be known before
    the run is opened. Only a rank that sees the run folder knows them."""
    asked = request.config
    if asked.resume is None:
        return asked
    try:
        folder, _ = locate(asked)
        stored = folder.stored().values if folder.exists else {}
    except SymlmError:
        # Whoever opens the run says what is wrong with it.
        return asked
    kept = {name: stored[name] for name in _OF_MEETING if name in stored and name not in request.given}
    return dataclasses.replace(asked, **kept)


def choose_checkpoint(folder: RunFolder, resume: str | None, warn: Callable[[str], None]) -> Path | None:
    """The checkpoint that `--resume` means, when it is not a path; None when nothing has been saved yet."""
    if resume in (LAST, BEST):
        path = folder.last() if resume == LAST else folder.path / BEST
        if path is None or not path.is_dir():
            raise UserError(f"{folder.path}: there is no {resume} checkpoint", "use --resume auto")
        return path
    problems: list[str] = []
    for path, problem in folder.valid_checkpoints():
        if problem is None:
            for passed in problems:
                warn(f"{passed}; trying an older checkpoint")
            return path
        problems.append(problem.message)
    if problems:
        # A fresh start would overwrite a run that can perhaps be repaired, or read by another version.
        more = f" (nor can {count_of(len(problems) - 1, 'other checkpoint')} be used)" if len(problems) > 1 else ""
        raise DataError(
            f"{folder.path}: no checkpoint to resume from: {problems[0]}{more}",
            "restore one, resume with the symlm version that wrote them, or start a new run with another --out-dir",
        )
    return None


TOKEN_HASHES = ("train_sha256", "val_sha256")
"""Of the hashes of `Prepared`, those of token ids, which a new version of the contract may change."""


def check_input(folder: RunFolder, data: Sequence[str], hint: str) -> None:
    """UserError when the text of a run came through a pipe and now a terminal would be waited for."""
    if "-" in data and sys.stdin is not None and sys.stdin.isatty():
        raise UserError(f"{folder.path}: the text of the run was standard input", hint)


def known_hashes(folder: RunFolder, state: State | None) -> dict[str, Any]:
    """Hashes of the tokens that a run was started with, as `Prepared.hashes`. Those of a checkpoint count: its manifest
    covers them."""
    made = {} if state is None else state.trainer.get("data", {})
    return {**folder.environment().get("data", {}), **made}


def check_text(folder: RunFolder, state: State | None, prepared: Prepared, parts: Sequence[str] = ()) -> None:
    """UserError unless the tokens are those that the run was started with; `parts` names the hashes that are compared,
    all if none. DataError where a rule of the contract that made them has changed since.
    """
    known, version = known_hashes(folder, state), _contract_of(folder, state)
    changes = changes_since(version, prepared)
    for key in parts or prepared.hashes:
        found = prepared.hashes[key]
        if changes and key in TOKEN_HASHES and known.get(key) != found:
            raise DataError(
                f"{folder.path}: the run was started under version {version} of the numeric contract, and its token "
                f"ids are different now ({key}): {'; '.join(map(str, changes))}",
                "resume it with the symlm version that started it, or start a new run with another --out-dir (from its "
                "weights: --init-from)",
            )
        if key in known and known[key] != found:
            raise UserError(
                f"{folder.path}: the text is not the one that the run was started with ({key} differs)",
                "give the same files, or start a new run with another --out-dir",
            )


def _contract_of(folder: RunFolder, state: State | None) -> int:
    """The version of the contract that a run was started under, or a checkpoint was written under."""
    version = folder.environment().get("contract") if state is None else state.engine.get("contract")
    return version if contract.is_known(version) else contract.FIRST_VERSION


def check_made_from(path: Path, state: State, now: dict[str, Any]) -> None:
    """DataError when a checkpoint was not made by the configuration that its run has now: one of the two is damaged.

    `now` is what the engine is made from. The end of a wsd run may move as long as the decay has not begun.
    """
    free: set[str] = set()
    old, new = (made.get("train", {}) for made in (state.config, now))
    if isinstance(old, dict) and old.get("schedule") == new["schedule"] == "wsd":
        begun = [made.get("decay_start") for made in (old, new)]
        if all(isinstance(step, int) and state.step <= step for step in begun):
            free = {"max_steps", "decay_start"}
    for part in ("model", "train"):
        known = state.config.get(part)
        known = known if isinstance(known, dict) else {}
        given = now[part]
        if part == "train":
            known, given = {**BEFORE, **known}, {**BEFORE, **given}
        for name in sorted({*given, *known} - free, key=str):
            if name not in known or name not in given or known[name] != given[name]:
                raise DataError(
                    f"{path}: was made with {name} {shown(known.get(name))}, but {CONFIG} of its run gives "
                    f"{shown(given.get(name))}",
                    f"restore {CONFIG} of the run; it must stay as symlm wrote it",
                )


def resume_command(folder: Path) -> list[str]:
    """The words of the command that resumes a run."""
    return ["symlm", "train", "--resume", AUTO, "--out-dir", str(folder)]
