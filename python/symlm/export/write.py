"""`export`: a model as other programs load it. A folder for transformers, a file for llama.cpp, a folder for Ollama.

Everything is written under a temporary name, read back and compared with the source before it gets its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import DataError, InternalError, UsageError, UserError, reason, shown
from ..generate.generator import Generator
from ..layout import BEST, GGUF_NAME, TEMP_PREFIX
from ..model.files import ModelFiles
from ..model.gguf import write
from ..model.gguf.vocabulary import Vocabulary
from ..model.resolve import resolve_model
from ..model.tensors import DTYPES
from ..run.checkpoint import verify_weights
from ..system.files import sync_file
from ..system.names import as_path
from ..system.target import check_folder
from ..system.values import check_callable
from .files import write_gguf, write_hf, write_ollama
from .source import Source, Target

TARGETS: tuple[Target, ...] = ("hf", "gguf", "ollama")

PROMPTS = (
    "It was a bright cold day in April, and the clocks were striking thirteen.",
    "def __init__(self, name):\n    self.name = name\n",
    "Naïve café — 北京, Москва, 12345; don't they'll?\n\n  \tЗдравствуй 😀",
)
"""Texts that an export is compared on."""

MOST_DIFFERENCE = 1e-3
"""Of a logit in f32. It is 0 unless `rope_theta` or an epsilon has more digits than a GGUF file holds."""


@dataclass(frozen=True)
class Exported:
    """What was written. `difference` is the largest difference of a logit from the source, over `positions` tokens;
    `left_out` lists everything that came with the model but that the format cannot hold, a sentence each."""

    path: Path
    dtype: str
    difference: float
    positions: int
    bytes: int
    left_out: tuple[str, ...] = ()


def export(
    model: str | Path,
    to: Target,
    out: str | Path,
    *,
    dtype: str | None = None,
    checkpoint: str | int = BEST,
    force: bool = False,
    report: Callable[[str], None] = lambda text: None,
) -> Exported:
    """Write MODEL (whatever `Generator.from_pretrained` opens) for other programs.

    `to` "hf" makes a folder for transformers, `dtype` f32, f16 or bf16; None keeps that of the source. "gguf" makes a
    file for llama.cpp, "ollama" a folder with such a file and a Modelfile; `dtype` may be q8_0 too, None means f32 for
    an f32 source, else that of the source. A folder must be empty or not there; a file is replaced with `force` only.
    `report` is given notes in the course of it.

    UserError when the target cannot be written, DataError when the model cannot be written so.
    """
    if not isinstance(to, str) or to not in TARGETS:
        raise UsageError(f"to: found {shown(to)}, expected one of {', '.join(TARGETS)}")
    check_callable("report", report)
    known = tuple(DTYPES) if to == "hf" else write.GGUF_DTYPES
    if dtype is not None and (not isinstance(dtype, str) or dtype not in known):
        found = dtype if isinstance(dtype, str) else shown(dtype)
        raise UsageError(f"--dtype: {found} cannot be written to {to}", f"expected one of {', '.join(known)}")
    path = as_path("out", out)
    _check_target(path, to, force)
    if to != "hf":
        write.load_library()
    files = resolve_model(model, checkpoint)
    verify_weights(files.folder)
    if files.note is not None:
        report(files.note)
    if files.has_state and files.run is None:
        report(
            f"{files.folder}: a checkpoint outside its run folder, which has the settings, chat templates and special "
            "tokens of the model that the run began with, if any"
        )
    source = Source.read(files, model)
    # What cannot be written is found before anything is.
    chosen = dtype or source.dtype
    vocabulary = None if to == "hf" else source.vocabulary()
    if chosen == "q8_0":
        write.check_quantisable(source.config)
    left_out = source.left_out(to, vocabulary)
    for sentence in left_out:
        report(sentence)
    if vocabulary is not None and vocabulary.add_eos:
        report("tokenizer.json: puts the token that ends a text behind every text; llama.cpp does so behind a prompt")
    if vocabulary is None:
        done = _write_folder(path, source, lambda folder: write_hf(folder, source, dtype), chosen)
    elif to == "gguf":
        done = _write_file(path, source, vocabulary, chosen)
    else:
        done = _write_folder(path, source, lambda folder: write_ollama(folder, source, vocabulary, chosen), chosen)
    return replace(done, left_out=left_out)


# --- targets ----------------------------------------------------------------------------------------------------------


def _check_target(path: Path, to: Target, force: bool) -> None:
    """UserError when the target cannot be written, or something is there that must not be lost."""
    if path.name in ("", ".."):
        raise UserError(f"--out {path}: not a name", "name a folder or a file to write")
    if to == "gguf":
        if path.is_dir():
            raise UserError(f"{path}: found a folder, expected the name of a file", f"--out {path / GGUF_NAME}")
        if path.exists() and not path.is_file():
            raise UserError(
                f"{path}: found a device, pipe or socket, expected the name of a file", "choose another --out"
            )
        if path.exists() and not force:
            raise UserError(f"{path}: exists", "choose another --out, or use --force")
    elif path.exists():
        try:
            used = not path.is_dir() or any(path.iterdir())
        except OSError as error:
            raise UserError(f"{path}: cannot read: {reason(error)}", "choose another --out") from None
        if used:
            what = "the folder is not empty" if path.is_dir() else "not a folder"
            raise UserError(f"{path}: {what}", "choose another --out: nothing is overwritten")
    parent = path.absolute().parent
    while to != "gguf" and not parent.exists() and parent != parent.parent:
        parent = parent.parent
    check_folder("--out", path, parent)


@contextlib.contextmanager
def _written(path: Path) -> Iterator[Path]:
    """Gives the temporary name under which the file or folder `path` is written; it is gone after an error, and takes
    the name when there was none."""
    # A folder may be named by a link to it.
    target = path.resolve() if path.is_dir() else path.absolute()
    temporary = target.with_name(f"{TEMP_PREFIX}{target.name}-{os.getpid()}")
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if temporary.is_dir():
            for inner in sorted(temporary.rglob("*"), reverse=True):
                sync_file(inner)
        sync_file(temporary)
        # A folder replaces an empty folder, and a file replaces a file.
        temporary.replace(target)
        sync_file(temporary.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot write: {reason(error)}", "make room or check the rights") from None
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _write_folder(path: Path, source: Source, fill: Callable[[Path], Path], dtype: str) -> Exported:
    """Write a folder; `fill` gives the model in it to read back."""
    with _written(path) as temporary:
        temporary.mkdir()
        difference, positions = _read_back(source, fill(temporary), dtype)
        size = sum(inner.stat().st_size for inner in temporary.rglob("*") if inner.is_file())
    return Exported(path, dtype, difference, positions, size)


def _write_file(path: Path, source: Source, vocabulary: Vocabulary, dtype: str) -> Exported:
    with _written(path) as temporary:
        write_gguf(temporary, source, vocabulary, dtype)
        difference, positions = _read_back(source, temporary, dtype)
        size = temporary.stat().st_size
    return Exported(path, dtype, difference, positions, size)


# --- reading back -----------------------------------------------------------------------------------------------------


def _read_back(source: Source, written: Path, dtype: str) -> tuple[float, int]:
    """What `compare` gives; InternalError when f32, which holds every weight as it is, gives other logits."""
    difference, positions = compare(source.files, written)
    if dtype == "f32" and difference > MOST_DIFFERENCE:
        raise InternalError(f"{written}: the exported model differs by {difference:.3g} in a logit")
    return difference, positions


def compare(source: ModelFiles, written: Path) -> tuple[float, int]:
    """The largest absolute difference of a logit between two models over `PROMPTS`, and the number of positions.

    DataError when logits are not finite numbers; InternalError when the tokenizers differ: then what was written is
    wrong.
    """
    import numpy as np

    first, second = Generator.from_pretrained(source.folder), Generator.from_pretrained(written)
    worst, positions = 0.0, 0
    most = _context(first)
    for prompt in PROMPTS:
        ids = first.prompt_ids(prompt)
        if ids != second.prompt_ids(prompt):
            raise InternalError(f"{written}: the exported tokenizer gives other ids for {prompt!r}")
        ids = ids[:most]
        difference = np.abs(first.logits(ids) - second.logits(ids))
        # A maximum ignores NaN.
        if not np.isfinite(difference).all():
            raise DataError(f"{source.name}: the logits are not finite numbers", "the weights of the model are damaged")
        worst = max(worst, float(difference.max()))
        positions += len(ids)
    return worst, positions


def _context(generator: Generator) -> int:
    assert generator.model is not None
    return generator.model.seq_len
