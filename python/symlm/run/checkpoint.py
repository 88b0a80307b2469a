"""Checkpoint folders: written completely or not at all, checked before they are used.

A checkpoint is written under a temporary name, every file is flushed to the disk, the manifest with sizes and hashes
comes last, then the folder gets its name. Whatever is interrupted leaves the earlier checkpoints as they were.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .._symlm import EngineState
from ..errors import DataError, UserError, reason, shown
from ..layout import (
    ADAPTER,
    CHECKPOINTS,
    MANIFEST,
    MODEL_CONFIG,
    OLD_PREFIX,
    OPTIMIZER,
    STATE,
    STEP_NAME,
    TEMP_PREFIX,
    WEIGHTS,
)
from ..system.files import file_hash, sync_file, write_synced
from ..system.reading import Fields, read_object
from . import contract

MANIFEST_VERSION = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MOST_FILE_BYTES = 1 << 50
_MOST_STEPS = 10**12
_MEASURES = ("train_loss", "val_loss", "val_bpb", "best_val_bpb", "tok_s")


@dataclass(frozen=True)
class State:
    """Content of `trainer_state.json`: the engine's part (see `engine_part`), the trainer's part, and what made the
    engine."""

    engine: dict[str, Any]
    trainer: dict[str, Any]
    config: dict[str, Any]

    @property
    def step(self) -> int:
        """Updates done."""
        return int(self.trainer["step"])

    def to_json(self) -> str:
        """The text of the file."""
        return json.dumps({"engine": self.engine, "trainer": self.trainer, "config": self.config}, indent=1) + "\n"

    @classmethod
    def read(cls, folder: Path) -> State:
        """Read it from a checkpoint folder; DataError when it is not usable."""
        path = folder / STATE
        what = "trainer state"
        fields = Fields(path, read_object(path, what), what)
        state = cls(fields.object("engine"), fields.object("trainer"), fields.object("config"))
        trainer = Fields(path, state.trainer, what)
        step = trainer.whole("step", 0, _MOST_STEPS)
        trainer.whole("tokens", 0, 1 << 62)
        trainer.number("elapsed_s")
        for name in _MEASURES:
            trainer.perhaps_number(name)
        if state.trainer.get("best_step") is not None:
            state.trainer["best_step"] = trainer.whole("best_step", 0, _MOST_STEPS)
        if "data" in state.trainer:
            trainer.object("data")
        if state.engine.get("step", step) != step:
            found = shown(state.engine["step"])
            raise DataError(f"{path}: damaged {what}: the engine is at step {found}, the trainer at {step}")
        return state

    def engine_state(self, folder: Path) -> EngineState:
        """The engine's part for the extension module; DataError, with the folder, when it is not one."""
        values = Fields(folder / STATE, self.engine, "trainer state")
        base = self.engine.get("base_sha256")
        return EngineState(
            contract=values.whole("contract", 0, _MOST_STEPS),
            step=values.whole("step", 0, _MOST_STEPS),
            base_sha256=base if isinstance(base, str) else None,
        )


def engine_part(state: EngineState) -> dict[str, Any]:
    """The engine's part of `trainer_state.json`."""
    base = {} if state.base_sha256 is None else {"base_sha256": state.base_sha256}
    return {**base, "contract": state.contract, "step": state.step}


class Written(Protocol):
    """A file that is on the disk."""

    @property
    def bytes(self) -> int:
        """Its size."""
        ...

    @property
    def sha256(self) -> str:
        """Its hash."""
        ...


@contextlib.contextmanager
def writing(folder: Path, temporary: Path | None = None) -> Iterator[Path]:
    """Around everything that makes the checkpoint `folder`: gives the folder to write it in first, which is gone after
    an error. Errors of the system become a UserError."""
    if temporary is None:
        temporary = folder.with_name(f"{TEMP_PREFIX}{folder.name}")
        shutil.rmtree(temporary, ignore_errors=True)
    try:
        yield temporary
    except (OSError, UserError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        why = reason(error) if isinstance(error, OSError) else error.message
        raise UserError(
            f"{folder}: cannot save the checkpoint: {why}",
            "make room or check the rights; earlier checkpoints are as they were",
        ) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def seal(folder: Path, state: State, model_config: dict[str, Any], files: Mapping[str, Written]) -> None:
    """Complete a folder in which `files`, with these sizes and hashes, are on the disk already. Others may be there.

    The manifest comes last: its presence means that everything else is complete.
    """
    entries = {name: {"size": file.bytes, "sha256": file.sha256} for name, file in files.items()}
    for name in _names(folder):
        if name not in entries:
            sync_file(folder / name)
            entries[name] = {"size": (folder / name).stat().st_size, "sha256": file_hash(folder / name)}
    if (folder / ADAPTER).is_dir():
        sync_file(folder / ADAPTER)
    for name, text in ((STATE, state.to_json()), (MODEL_CONFIG, json.dumps(model_config, indent=2) + "\n")):
        raw = text.encode("utf-8")
        write_synced(folder / name, raw)
        entries[name] = {"size": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    manifest = {"version": MANIFEST_VERSION, "files": dict(sorted(entries.items()))}
    write_synced(folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode("utf-8"))
    sync_file(folder)


def _names(folder: Path) -> list[str]:
    """Files of a checkpoint, those of its folder of adapters as `adapter/NAME`."""
    own = folder / ADAPTER
    inside = [f"{ADAPTER}/{path.name}" for path in own.iterdir()] if own.is_dir() else []
    return sorted([path.name for path in folder.iterdir() if path.name != ADAPTER or not path.is_dir()] + inside)


def put_in_place(temporary: Path, folder: Path) -> None:
    """Give a complete folder its name. An old one steps aside first; `recover` brings it back after a crash between."""
    old = folder.with_name(f"{OLD_PREFIX}{folder.name}")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    temporary.rename(folder)
    sync_file(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover(parent: Path) -> None:
    """Clean up after an interrupted write: drop unfinished folders, bring back one whose successor never came."""
    if not parent.is_dir():
        return
    for path in sorted(parent.iterdir()):
        if path.name.startswith(OLD_PREFIX):
            target = path.with_name(path.name[len(OLD_PREFIX) :])
            if not target.exists():
                path.rename(target)
            else:
                shutil.rmtree(path, ignore_errors=True)
        elif path.name.startswith(TEMP_PREFIX):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def link_checkpoint(source: Path, folder: Path) -> None:
    """Make `folder` the same checkpoint as `source`, by hard links where the file system has them."""
    temporary = folder.with_name(f"{TEMP_PREFIX}{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    for name in _names(source):
        (temporary / name).parent.mkdir(exist_ok=True)
        try:
            os.link(source / name, temporary / name)
        except OSError:
            shutil.copy2(source / name, temporary / name)
            sync_file(temporary / name)
    if (temporary / ADAPTER).is_dir():
        sync_file(temporary / ADAPTER)
    sync_file(temporary)
    put_in_place(temporary, folder)


def usable(folder: Path) -> State:
    """The state of a checkpoint from which a run can be resumed; DataError says why it cannot.

    Whether the rules of an older contract are still those of now depends on the text: see `resume.check_text`.
    """
    verify(folder)
    state = State.read(folder)
    version, step = state.engine.get("contract"), state.engine.get("step")
    if not contract.is_known(version):
        raise DataError(f"{folder}: {contract.not_known(version)}", "resume with the symlm version that wrote it")
    if step != state.step:
        raise DataError(f"{folder / STATE}: damaged: the engine is at step {step}, the trainer at {state.step}")
    named = STEP_NAME.fullmatch(folder.name) if folder.absolute().parent.name == CHECKPOINTS else None
    if named is not None and int(named[1]) != state.step:
        raise DataError(f"{folder}: holds step {state.step}, the name says {int(named[1])}", "was the folder renamed?")
    return state


def verify_weights(folder: Path) -> None:
    """DataError when the model is not what the manifest beside it says; a folder without one is taken as it is."""
    if not (folder / MANIFEST).exists():
        return
    try:
        verify(folder, only=(WEIGHTS, MODEL_CONFIG, STATE))
    except DataError as error:
        raise DataError(
            error.message, "choose another with --checkpoint, or resume training from an older one with --resume auto"
        ) from None


def read_manifest(folder: Path) -> dict[str, tuple[int, str]]:
    """Name -> size and sha256 of every file of a checkpoint; DataError when the manifest is not one of them."""
    path = folder / MANIFEST
    if not path.exists():
        raise DataError(f"{folder}: incomplete checkpoint: no {MANIFEST}")
    raw = read_object(path, "manifest")
    fields = Fields(path, raw, "manifest")
    version = fields.whole("version", 1, 10**9)
    if version > MANIFEST_VERSION:
        raise DataError(
            f"{path}: version {version}, expected {MANIFEST_VERSION}", "resume with the symlm version that wrote it"
        )
    files = Fields(path, fields.object("files"), "manifest")
    expected = {}
    for name in fields.object("files"):
        # A name leads to a file of this folder, or of that of its adapters, and nowhere else.
        own = name.removeprefix(f"{ADAPTER}/")
        if own in ("", ".", "..", MANIFEST) or "/" in own or "\0" in own or len(own) > 255:
            raise DataError(f"{path}: damaged manifest: found {shown(name)}, expected names of files in its folder")
        entry = Fields(path, files.object(name), f"manifest: {name}")
        size, digest = entry.whole("size", 0, _MOST_FILE_BYTES), entry.text("sha256")
        if not _SHA256.fullmatch(digest):
            raise DataError(f"{path}: damaged manifest: {name}: found {shown(digest)}, expected a sha256")
        expected[name] = (size, digest)
    for required in (WEIGHTS, OPTIMIZER, STATE, MODEL_CONFIG):
        if required not in expected:
            raise DataError(f"{path}: damaged manifest: {required} is not listed")
    return expected


def verify(folder: Path, only: tuple[str, ...] | None = None) -> None:
    """DataError when a checkpoint, or the files `only` of it, is incomplete or damaged; says which file and how."""
    for name, (size, digest) in read_manifest(folder).items():
        if only is not None and name not in only:
            continue
        file = folder / name
        try:
            found = file.stat().st_size
        except (OSError, ValueError):
            raise DataError(f"{file}: missing from the checkpoint") from None
        if found != size:
            raise DataError(f"{file}: damaged: {found} bytes, the manifest has {size}")
        try:
            same = file_hash(file) == digest
        except OSError as error:
            raise DataError(f"{file}: cannot read: {reason(error)}") from None
        if not same:
            raise DataError(f"{file}: damaged: the content is not what the manifest has")
