"""The files of a model: the one resolver of MODEL arguments."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ..config.model_config import note_of_ends
from ..errors import DataError, UsageError, UserError, shown
from ..layout import (
    ADAPTER_CONFIG,
    BEST,
    CHECKPOINTS,
    CONFIG,
    LAST,
    METRICS,
    MODEL_CONFIG,
    STATE,
    TOKENIZER,
    WEIGHTS,
)
from ..run.checkpoint import verify_weights
from ..run.folder import RunFolder, run_of_checkpoint
from ..run.metrics import read_lines
from ..system.names import as_path
from ..system.values import plain
from ..units import whole_number
from .files import ModelFiles
from .foreign import Unpacked, check_weights, is_gguf, no_tokenizer, weights_of
from .gguf.read import unpack_gguf
from .peft import find_base, unpack_adapter


def resolve_model(model: str | Path, which: str | int = BEST, *, weights: bool = True) -> ModelFiles:
    """Find the files of a MODEL argument: a run folder (with `which` = best, last or a step), a checkpoint folder, a
    model folder of transformers, an adapter folder of PEFT or a GGUF file.

    `best` of a run without any evaluation is its last checkpoint, and where the pointer to that one leads nowhere it is
    the newest that is whole; `note` says so. Without `weights` those of a GGUF file are left where they are.
    """
    path = as_path("model", model)
    which = plain(which)
    if isinstance(which, bool) or not isinstance(which, (str, int)):
        raise UsageError(f"checkpoint: found {shown(which)}, expected best, last or a step")
    if not path.exists():
        raise UserError(f"{path}: no such model", "give a run folder, a model folder or a GGUF file")
    if not path.is_dir():
        if not is_gguf(path):
            raise UserError(f"{path}: not a run folder, a model folder or a GGUF file")
        unpacked = Unpacked()
        unpack_gguf(path, unpacked.folder, weights=weights)
        files = _files(unpacked.folder, None, weights=weights)
        return dataclasses.replace(files, source=path, unpacked=unpacked)
    if (path / ADAPTER_CONFIG).is_file():
        return _with_adapter(path)
    if weights_of(path) is not None:
        return _files(path, run_of_checkpoint(path))
    run = RunFolder(path)
    if not (run.exists or (path / CHECKPOINTS).is_dir()):
        check_weights(path)
        raise UserError(f"{path}: neither a run folder nor a model folder", f"expected {CONFIG} or {WEIGHTS} in it")
    folder, note = _choose(run, str(which))
    return _files(folder, path, note)


def _with_adapter(path: Path) -> ModelFiles:
    """An adapter folder as the model that it and its base give."""
    if weights_of(path) is not None:
        raise DataError(
            f"{path}: found {ADAPTER_CONFIG} beside {WEIGHTS}: which of them is meant is not known",
            "move one of them away",
        )
    place = find_base(path)
    if (place / ADAPTER_CONFIG).is_file():
        raise DataError(f"{path}: its base {place} is an adapter too", "export the base first: symlm export .. --to hf")
    base = resolve_model(place)
    verify_weights(base.folder)
    unpacked = Unpacked()
    unpack_adapter(path, base, unpacked.folder)
    files = ModelFiles(unpacked.folder, unpacked.folder / TOKENIZER, run=None, note=base.note)
    return dataclasses.replace(files, source=path, base=base, unpacked=unpacked)


def _choose(run: RunFolder, which: str) -> tuple[Path, str | None]:
    if which == BEST and (run.path / BEST / WEIGHTS).is_file():
        return run.path / BEST, None
    if which in (BEST, LAST):
        last = run.last()
        folder = last or run.newest_sound()
        if folder is None:
            raise UserError(f"{run.path}: no checkpoint yet")
        if which == LAST and last is not None:
            return last, None
        problem = f"no best checkpoint{_why_no_best(run)}" if which == BEST else f'"{LAST}" leads to no checkpoint'
        return folder, f"{run.path}: {problem}, using {folder.relative_to(run.path)}"
    step = whole_number(which)
    if step is None:
        raise UserError(f'no checkpoint "{which[:80]}"', "--checkpoint takes best, last or a step number")
    folder = run.checkpoint_path(step)
    if not folder.is_dir():
        steps = ", ".join(map(str, run.steps())) or "none"
        raise UserError(f"{run.path}: no checkpoint of step {which}", f"there are: {steps}")
    return folder, None


def _why_no_best(run: RunFolder) -> str:
    """In brackets, as far as the metrics tell."""
    if not (run.path / METRICS).is_file():
        return ""
    compared = any(record.get("best_val_bpb") is not None for record in read_lines(run.path / METRICS))
    return f" ({BEST}/ is gone)" if compared else " (no evaluation to choose one by)"


def _files(folder: Path, run: Path | None, note: str | None = None, *, weights: bool = True) -> ModelFiles:
    for path in (
        (weights_of(folder) or folder / WEIGHTS, folder / MODEL_CONFIG) if weights else (folder / MODEL_CONFIG,)
    ):
        if not path.is_file():
            raise DataError(f"{path}: missing from the model")
    places = [folder] if run is None else [folder, run]
    known = {} if run is None else RunFolder(run).environment().get("data", {})
    digest = known.get("tokenizer_sha256")
    for place in places:
        if (place / TOKENIZER).is_file():
            files = ModelFiles(folder, place / TOKENIZER, run, note, digest if isinstance(digest, str) else None)
            return files if run is not None else _with_note_of_ends(files)
    if (folder / STATE).is_file():
        raise DataError(f"{folder}: no {TOKENIZER} beside the checkpoint", "keep the checkpoint inside its run folder")
    raise no_tokenizer(folder, TOKENIZER)


def _with_note_of_ends(files: ModelFiles) -> ModelFiles:
    return dataclasses.replace(files, note=note_of_ends(files.folder / MODEL_CONFIG, files.model_config()))
