"""The run folder: its files, its lock, its checkpoints."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ..config.presets import PRESETS
from ..config.sources import DERIVED_FIELDS, to_toml
from ..config.toml import TomlSettings, read_toml
from ..config.train_config import MODEL_FIELDS, TrainConfig
from ..errors import DataError, SymlmError, UsageError, UserError, reason
from ..layout import (
    BASE,
    BEST,
    BUNDLES,
    CHECKPOINTS,
    COMPANIONS,
    CONFIG,
    ENVIRONMENT,
    LAST,
    LOCK,
    METRICS,
    MODEL_CONFIG,
    MORE_TEMPLATES,
    OLD_PREFIX,
    SAMPLES,
    STATE,
    STEP_NAME,
    TEMP_PREFIX,
    TOKENIZER,
    TOKENIZER_TEMP,
    WEIGHTS,
    step_name,
)
from ..system.calls import OPEN_FLAGS, lock_file
from ..system.files import sync_file, write_atomic
from ..system.names import as_path
from ..system.reading import read_object, read_text
from . import checkpoint
from .checkpoint import State
from .metrics import read_lines, to_document

START = {LOCK, TOKENIZER, ENVIRONMENT, CHECKPOINTS, *COMPANIONS, MORE_TEMPLATES}
"""What is in a run folder before `config.toml` makes it a run."""
_POINTER = re.compile(rf"{CHECKPOINTS}/step-[0-9]{{8,15}}")
_MOST_POINTER_BYTES = 4096
_MOST_ENVIRONMENT_BYTES = 16 << 20
"""The command in it may name many files."""


class RunFolder:
    """Paths and files of one run. Nothing is made or changed before `lock`."""

    def __init__(self, path: str | Path) -> None:
        self.path = as_path("run folder", path)
        self._lock: int | None = None
        self._made: list[Path] = []

    @property
    def exists(self) -> bool:
        """Whether a run has been started here."""
        return (self.path / CONFIG).is_file()

    def finished(self, max_steps: int) -> bool:
        """Whether the run came to its end of `max_steps` updates."""
        lines = read_lines(self.path / METRICS)
        return any(record.get("event") == "end" and record.get("step") == max_steps for record in lines)

    def check_new(self) -> None:
        """UserError unless a new run can start here: nothing is ever overwritten."""
        if self.exists:
            raise UserError(
                f"{self.path}: there is a run already", "continue it with --resume auto, or choose another --out-dir"
            )
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path}: not a folder", "choose another --out-dir")
        try:
            used = self.path.is_dir() and not self._unfinished_start()
        except OSError as error:
            raise UserError(f"{self.path}: cannot read the run folder: {reason(error)}") from None
        if used:
            raise UserError(f"{self.path}: the folder is not empty and holds no run", "choose another --out-dir")

    def lock(self) -> None:
        """Make the folder if needed and become its only writer; UserError when another process is.

        The lock ends with the process, however that ends.
        """
        self._made = [path for path in (self.path, *self.path.parents) if not path.exists()]
        while self._lock is None:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                handle = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | OPEN_FLAGS, 0o644)
            except OSError as error:
                raise UserError(
                    f"{self.path}: cannot write to the run folder: {reason(error)}", "choose another --out-dir"
                ) from None
            try:
                lock_file(handle)
            except OSError as error:
                os.close(handle)
                if isinstance(error, BlockingIOError):
                    message = f"{self.path}: another process is training this run"
                    raise UserError(message, "wait for it, or choose another --out-dir") from None
                message = f"{self.path}: cannot lock the run folder: {reason(error)}"
                raise UserError(message, "choose an --out-dir on a file system that has locks") from None
            if self._lock_lost(handle) is None:
                self._lock = handle
            else:
                # The previous holder has removed its lock file, and with it the file that was locked here.
                os.close(handle)

    def _lock_lost(self, handle: int) -> str | None:
        """Why the file that `handle` has locked is no longer the lock of the folder; None when it is."""
        try:
            same = os.path.samestat(os.fstat(handle), (self.path / LOCK).stat())
        except OSError as error:
            return reason(error)
        return None if same else "another one has taken its place"

    def check_held(self) -> None:
        """UserError when the folder is no longer the one that was locked: what is written would be lost, or would fall
        among the files of somebody else."""
        problem = None if self._lock is None else self._lock_lost(self._lock)
        if problem is not None:
            raise UserError(
                f"{self.path}: the run folder was removed or moved under way ({problem}), nothing can be saved in it",
                "put it back if it was moved, then use --resume auto",
            )

    def unlock(self) -> None:
        """Let go of the folder. One that this object made and in which no run was started is removed."""
        if self._lock is None:
            return
        if sys.platform == "win32":  # where an open file keeps its name
            os.close(self._lock)
        if not self.exists:
            with contextlib.suppress(OSError):
                if self._made:
                    self._clear_start()
                (self.path / LOCK).unlink()
                for path in self._made:
                    path.rmdir()
        if sys.platform != "win32":
            os.close(self._lock)
        self._lock = None

    def _unfinished_start(self) -> bool:
        """Whether the folder holds nothing, or nothing but what `start` and the lines before it had written when the
        process was killed. The lock file tells it from files of somebody else."""
        names = {entry.name for entry in self.path.iterdir()}
        if not names - {LOCK}:
            return True
        ours = all(name in START or name.startswith((TEMP_PREFIX, TOKENIZER_TEMP)) for name in names)
        return LOCK in names and ours and not (CHECKPOINTS in names and any((self.path / CHECKPOINTS).iterdir()))

    def _clear_start(self) -> None:
        """Remove what a start that did not come to its end has written."""
        if not self._unfinished_start():
            return
        for entry in list(self.path.iterdir()):
            if entry.name == CHECKPOINTS:
                entry.rmdir()
            elif entry.name == MORE_TEMPLATES:
                shutil.rmtree(entry)
            elif entry.name != LOCK:
                entry.unlink()

    def start(self, config: TrainConfig, requested: dict[str, Any], environment: dict[str, Any]) -> None:
        """Write what describes the run. `config.toml` comes last: it is what makes the folder a run."""
        for name in (METRICS, SAMPLES):
            (self.path / name).unlink(missing_ok=True)
        for name in (BEST, BASE):
            shutil.rmtree(self.path / name, ignore_errors=True)
        (self.path / LAST).unlink(missing_ok=True)
        (self.path / CHECKPOINTS).mkdir(exist_ok=True)
        write_atomic(self.path / ENVIRONMENT, to_document(environment))
        write_atomic(self.path / CONFIG, to_toml(config, requested))
        for made in self._made:
            # The folder itself is safe on the disk only with the one above, which may be closed to us.
            with contextlib.suppress(OSError):
                sync_file(made.parent)

    def stored(self) -> TomlSettings:
        """`config.toml`: settings that make a configuration. DataError when it is damaged."""
        path = self.path / CONFIG
        try:
            stored = read_toml(str(path))
            TrainConfig(**stored.values)
        except UsageError as error:
            # Nobody typed it: the run has written it itself.
            message = error.message if error.message.startswith(str(path)) else f"{path}: {error.message}"
            raise DataError(message, f"the run is damaged: restore {path}") from None
        return stored

    def settings(self) -> TomlSettings:
        """The resolved configuration of the run and what had been asked for.

        A run without any checkpoint starts afresh: there nothing that follows from a limit or a preset is resolved.
        """
        stored = self.stored()
        return stored if self.has_checkpoints else TomlSettings(_unresolved(stored), stored.requested)

    def environment(self) -> dict[str, Any]:
        """`environment.json`, empty when it cannot be read."""
        try:
            raw = read_object(self.path / ENVIRONMENT, "description of the machine", _MOST_ENVIRONMENT_BYTES)
        except DataError:
            return {}
        return raw if isinstance(raw.get("data", {}), dict) else {}

    @property
    def has_checkpoints(self) -> bool:
        """Whether anything was saved, in whatever state it is now."""
        if any((self.path / name).is_dir() for name in (BEST, OLD_PREFIX + BEST)):
            return True
        folder = self.path / CHECKPOINTS
        return folder.is_dir() and any(not path.name.startswith(TEMP_PREFIX) for path in folder.iterdir())

    # --- checkpoints ----------------------------------------------------------------------------------------------

    def checkpoint_path(self, step: int) -> Path:
        """Folder of the checkpoint after `step` updates, whether it exists or not."""
        return self.path / CHECKPOINTS / step_name(step)

    def steps(self) -> list[int]:
        """Steps that have a checkpoint folder, ascending."""
        folder = self.path / CHECKPOINTS
        if not folder.is_dir():
            return []
        found = (STEP_NAME.fullmatch(path.name) for path in folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def recover(self) -> None:
        """Clean up what an interrupted write left behind; only for the holder of the lock."""
        checkpoint.recover(self.path)
        checkpoint.recover(self.path / CHECKPOINTS)
        checkpoint.recover(self.path / BUNDLES)

    def point_last(self, step: int) -> None:
        """Let the file `last` name the checkpoint of `step`."""
        write_atomic(self.path / LAST, f"{CHECKPOINTS}/{step_name(step)}\n")

    def go_back_to(self, path: Path, step: int) -> None:
        """Let `last` name the checkpoint `path`, of `step`, so that a resume begins there; `best/` or a bundle first
        gets a name among the others."""
        target = self.checkpoint_path(step)
        if path.resolve() != target.resolve():
            with checkpoint.writing(target):
                checkpoint.link_checkpoint(path, target)
        self.point_last(step)

    def last(self) -> Path | None:
        """The checkpoint that `last` names; None when there is none."""
        try:
            name = read_text(self.path / LAST, "pointer", _MOST_POINTER_BYTES).strip()
        except DataError:
            return None
        if not _POINTER.fullmatch(name):
            return None
        path = self.path / name
        if not path.resolve().is_relative_to(self.path.resolve()):
            return None
        match = STEP_NAME.fullmatch(path.name)
        if path.is_dir() or match is None:
            return path if path.is_dir() else None
        # The pointer comes before the checkpoint, which a crash may have prevented.
        before = [step for step in self.steps() if step < int(match[1])]
        return self.checkpoint_path(before[-1]) if before else None

    def newest(self, limit: int) -> Path | None:
        """The newest checkpoint of a step up to `limit`, else the best one; None when there is none."""
        steps = [step for step in self.steps() if step <= limit]
        if steps:
            return self.checkpoint_path(steps[-1])
        return self.path / BEST if (self.path / BEST).is_dir() else None

    def newest_sound(self) -> Path | None:
        """The newest checkpoint, `best/` among them, whose model can be read; None when there is none."""
        found = [(step, self.checkpoint_path(step)) for step in self.steps()]
        best = self.best_step()
        if best is not None:
            found.append((best, self.path / BEST))
        for _, folder in sorted(found, reverse=True):
            with contextlib.suppress(DataError):
                checkpoint.verify(folder, only=(WEIGHTS, MODEL_CONFIG, STATE))
                return folder
        return None

    def prune(self, keep: int, now: int, needed: Collection[int] = ()) -> list[int]:
        """Remove all checkpoints up to step `now` but the newest `keep` and the `needed`; gives the steps removed."""
        older = [step for step in self.steps() if step <= now][:-keep]
        surplus = [step for step in older if step not in needed]
        for step in surplus:
            self._remove(self.checkpoint_path(step))
        return surplus

    def drop_past(self, step: int) -> None:
        """Remove the checkpoints of steps after `step`."""
        for later in self.steps():
            if later > step:
                self._remove(self.checkpoint_path(later))

    def _remove(self, path: Path) -> None:
        """Remove a checkpoint: all of it, as seen by whoever comes after a crash."""
        doomed = path.with_name(f"{TEMP_PREFIX}{path.name}")
        shutil.rmtree(doomed, ignore_errors=True)
        with contextlib.suppress(OSError):
            path.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)

    def best_step(self) -> int | None:
        """Step of `best/`; None when there is none that can be read."""
        try:
            return State.read(self.path / BEST).step
        except DataError:
            return None

    def valid_checkpoints(self) -> Iterator[tuple[Path, SymlmError | None]]:
        """Candidates for `--resume auto`, best first (last, then older), each with what is wrong with it or None."""
        last = self.last()
        candidates = [] if last is None else [last]
        candidates += [
            path for step in reversed(self.steps()) if (path := self.checkpoint_path(step)) not in candidates
        ]
        if (self.path / BEST).is_dir():
            candidates.append(self.path / BEST)
        for path in candidates:
            try:
                checkpoint.usable(path)
            except SymlmError as error:
                yield path, error
            else:
                yield path, None


def _unresolved(stored: TomlSettings) -> dict[str, Any]:
    """The settings of a run without what followed from its limits and its preset."""
    values = {name: value for name, value in stored.values.items() if name not in DERIVED_FIELDS}
    preset = PRESETS.get(values.get("preset", ""))
    names = {*MODEL_FIELDS, "learning_rate"}
    if preset is None:
        names = set()
    elif values.get("num_heads") != preset.num_heads:
        # The default of this one follows the number of heads.
        names.discard("num_kv_heads")
    for name in names:
        if values.get(name) == getattr(preset, name):
            del values[name]
    return {**values, **(stored.requested or {})}


def run_of_checkpoint(folder: Path) -> Path | None:
    """The run that a checkpoint folder lies in: `RUN/best` or `RUN/checkpoints/step-N`."""
    absolute = folder.absolute()
    for parent in (absolute.parent, absolute.parent.parent):
        if (parent / CONFIG).is_file():
            return parent
    return None


def _plain(name: str, otherwise: str) -> str:
    """A name as a part of that of a folder."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.") or otherwise


def _model_name(model: Path) -> str:
    """What a model is called: by its run where it is a checkpoint of one."""
    path = run_of_checkpoint(model) or model.absolute()
    return _plain(path.stem if path.suffix == ".gguf" else path.name, "model")


def default_out_dir(config: TrainConfig, base: Path = Path("runs")) -> Path:
    """`runs/<name of the data>-<preset>`, of a run that begins from a model `runs/<name of the data>-<name of the
    model>-ft`; -2, -3, .. when a new run finds it taken; to resume, the newest."""
    stem = "stdlib"
    if config.data:
        first = Path(config.data[0])
        stem = _plain(first.name.split(".")[0], "data")
    last = config.preset_name if config.init_from is None else f"{_model_name(Path(config.init_from))}-ft"
    name = f"{stem}-{last}"
    number, path = 1, base / name
    taken = path
    while path.exists():
        taken = path
        number += 1
        path = base / f"{name}-{number}"
    return taken if config.resume is not None else path
