"""Checkpoint folders: written completely or not at all, checked before they are used.

A checkpoint is written under a temporary name, every file is flushed to the disk, the manifest with sizes and hashes
comes last, then the folder gets its name. Whatever is interrupted leaves the earlier checkpoints as they were.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import DataError, UserError, reason

WEIGHTS = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "trainer_state.json"
MODEL_CONFIG = "config.json"
MANIFEST = "MANIFEST.json"
TEMP_PREFIX = ".tmp-"
OLD_PREFIX = ".old-"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class State:
    """Content of `trainer_state.json`: the engine's part (opaque), the trainer's part, and what made the engine."""

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
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            state = cls(raw["engine"], raw["trainer"], raw["config"])
            _ = state.step
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: cannot read the trainer state: {error}") from None
        return state


def sync_file(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, text: str) -> None:
    """Replace a small file so that a reader sees the old text or the new one, never a part."""
    temporary = path.with_name(f"{TEMP_PREFIX}{path.name}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_file(path.parent)


def file_hash(path: Path) -> str:
    """sha256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def write_checkpoint(folder: Path, model_config: dict[str, Any], save: Callable[[Path], State]) -> None:
    """Write a checkpoint into `folder`, replacing one that is there.

    `save` gets an existing empty folder, writes weights and optimizer there and gives the state.
    """
    temporary = folder.with_name(f"{TEMP_PREFIX}{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        state = save(temporary)
        (temporary / STATE).write_text(state.to_json(), encoding="utf-8")
        (temporary / MODEL_CONFIG).write_text(json.dumps(model_config, indent=2) + "\n", encoding="utf-8")
        _seal(temporary)
        put_in_place(temporary, folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(
            f"{folder}: cannot save the checkpoint: {reason(error)}",
            "make room or check the rights; earlier checkpoints are as they were",
        ) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _seal(folder: Path) -> None:
    """Flush all files and write the manifest last: its presence means that everything else is complete."""
    entries = {}
    for path in sorted(folder.iterdir()):
        sync_file(path)
        entries[path.name] = {"size": path.stat().st_size, "sha256": file_hash(path)}
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"version": 1, "files": entries}, indent=1) + "\n", encoding="utf-8")
    sync_file(manifest)
    sync_file(folder)


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
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def link_checkpoint(source: Path, folder: Path) -> None:
    """Make `folder` the same checkpoint as `source`, by hard links where the file system has them."""
    temporary = folder.with_name(f"{TEMP_PREFIX}{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    for path in sorted(source.iterdir()):
        try:
            os.link(path, temporary / path.name)
        except OSError:
            shutil.copy2(path, temporary / path.name)
            sync_file(temporary / path.name)
    sync_file(temporary)
    put_in_place(temporary, folder)


def verify_weights(folder: Path) -> None:
    """DataError when the weights are not what the manifest beside them says; a folder without one is taken as it is."""
    if not (folder / MANIFEST).is_file():
        return
    try:
        verify(folder, only=WEIGHTS)
    except DataError as error:
        raise DataError(
            error.message, "choose another with --checkpoint, or go on training from an older one by --resume auto"
        ) from None


def verify(folder: Path, only: str | None = None) -> None:
    """DataError when a checkpoint, or the file `only` of it, is incomplete or damaged; says which file and how."""
    path = folder / MANIFEST
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        expected = {str(name): (int(entry["size"]), str(entry["sha256"])) for name, entry in files.items()}
    except FileNotFoundError:
        raise DataError(f"{folder}: incomplete checkpoint: no {MANIFEST}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: damaged manifest: {error}") from None
    for required in (WEIGHTS, STATE):
        if required not in expected:
            raise DataError(f"{path}: damaged manifest: {required} is not listed")
    for name, (size, digest) in expected.items():
        if only not in (None, name):
            continue
        file = folder / name
        found = -1
        with contextlib.suppress(OSError):
            found = file.stat().st_size
        if found < 0:
            raise DataError(f"{file}: missing from the checkpoint")
        if found != size:
            raise DataError(f"{file}: damaged: {found} bytes, the manifest has {size}")
        if file_hash(file) != digest:
            raise DataError(f"{file}: damaged: the content is not what the manifest has")
