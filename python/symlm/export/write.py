"""`export`: a model as other programs load it. A folder for transformers, a file for llama.cpp, a folder for Ollama.

Everything is written under a temporary name, read back and compared with the source before it gets its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .. import _symlm
from ..config.model_config import ModelConfig
from ..config.sampling import MIN_P, TEMPERATURE, TOP_K, TOP_P
from ..errors import DataError, InternalError, UsageError, UserError, reason
from ..generate.generator import Generator
from ..layout import (
    BEST,
    CHAT_TEMPLATE,
    FACTS,
    GENERATION_CONFIG,
    GGUF_NAME,
    MODEL_CONFIG,
    SPECIAL_TOKENS,
    TEMP_PREFIX,
    TOKENIZER,
    TOKENIZER_CONFIG,
    WEIGHTS,
)
from ..model.facts import Facts
from ..model.gguf import write
from ..model.gguf.vocabulary import Vocabulary, begins_with, vocabulary_of
from ..model.resolve import ModelFiles, resolve_model
from ..model.tensors import DTYPES, Tensor, check_tensors, outgoing, read_tensors, write_tensors
from ..run.checkpoint import verify_weights
from ..system.files import sync_file
from ..system.reading import read_object, read_text
from ..system.target import check_folder
from .provenance import facts_json, gather_facts, model_card, model_name

Target = Literal["hf", "gguf", "ollama"]
TARGETS: tuple[Target, ...] = ("hf", "gguf", "ollama")

README = "README.md"
MODELFILE = "Modelfile"
_MOST_TOKENIZER_BYTES = 256 << 20

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
    """What was written. `difference` is the largest difference of a logit from the source, over `positions` tokens."""

    path: Path
    dtype: str
    difference: float
    positions: int
    bytes: int


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
    if to not in TARGETS:
        raise UsageError(f"to: found {to}, expected one of {', '.join(TARGETS)}")
    known = tuple(DTYPES) if to == "hf" else write.GGUF_DTYPES
    if dtype is not None and dtype not in known:
        raise UsageError(f"--dtype: {dtype} cannot be written to {to}", f"expected one of {', '.join(known)}")
    path = Path(out)
    _check_target(path, to, force)
    if to != "hf":
        write.load_library()
    files = resolve_model(model, str(checkpoint))
    verify_weights(files.folder)
    if files.note is not None:
        report(files.note)
    source = _Source.read(files, model)
    # What cannot be written is found before anything is.
    if to == "hf":
        return _write_folder(path, source, lambda folder: _fill_hf(folder, source, dtype), dtype or source.dtype)
    chosen = dtype or source.dtype
    vocabulary = source.vocabulary()
    if chosen == "q8_0":
        write.check_quantisable(source.config)
    if to == "gguf":
        return _write_file(path, source, vocabulary, chosen)
    return _write_folder(path, source, lambda folder: _fill_ollama(folder, source, vocabulary, chosen), chosen)


@dataclass(frozen=True)
class _Source:
    files: ModelFiles
    config: ModelConfig
    tensors: list[Tensor]
    tokenizer: dict[str, Any]
    facts: Facts
    name: str

    @classmethod
    def read(cls, files: ModelFiles, model: str | Path) -> _Source:
        config = files.model_config()
        table = _symlm.parameter_table(json.dumps(config.as_dict()))
        tensors = check_tensors(files.folder, read_tensors(files.folder), table)
        tokenizer = read_object(files.tokenizer, "tokenizer", _MOST_TOKENIZER_BYTES)
        return cls(files, config, tensors, tokenizer, gather_facts(files), model_name(files, model))

    @property
    def dtype(self) -> str:
        """The type of most bytes of the weights, as the command line names it."""
        sizes = {name: sum(t.nbytes for t in self.tensors if t.dtype == code) for name, code in DTYPES.items()}
        return max(sizes, key=lambda name: sizes[name])

    def vocabulary(self) -> Vocabulary:
        """The tokenizer as a GGUF file has it; DataError when that cannot be."""
        return vocabulary_of(self.tokenizer, self.files.tokenizer, self.config.vocab_size, self.config.bos_token_id)

    def chat_template(self) -> str | None:
        """The chat template beside the weights; None when there is none."""
        beside = self.files.companion(CHAT_TEMPLATE)
        if beside is not None:
            return read_text(beside, "chat template")
        found = self.tokenizer_config().get("chat_template")
        return found if isinstance(found, str) else None

    def tokenizer_config(self) -> dict[str, Any]:
        """What stands beside the tokenizer; nothing when there is no such file."""
        path = self.files.companion(TOKENIZER_CONFIG)
        return {} if path is None else read_object(path, "tokenizer configuration")

    def token(self, number: int | None) -> str | None:
        """The text of a token; None when the tokenizer has none with this id."""
        for added in self.tokenizer.get("added_tokens") or []:
            if number is not None and isinstance(added, dict) and added.get("id") == number:
                return str(added.get("content"))
        vocab = self.tokenizer.get("model", {}).get("vocab", {})
        found = [token for token, id_ in vocab.items() if id_ == number] if isinstance(vocab, dict) else []
        return found[0] if found and number is not None else None


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
            for inner in temporary.iterdir():
                sync_file(inner)
        sync_file(temporary)
        # An empty folder gives way to a folder, and a file to a file.
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


def _write_folder(path: Path, source: _Source, fill: Callable[[Path], Path], dtype: str) -> Exported:
    """Write a folder; `fill` gives the model in it to read back."""
    with _written(path) as temporary:
        temporary.mkdir()
        difference, positions = _read_back(source, fill(temporary), dtype)
        size = sum(inner.stat().st_size for inner in temporary.iterdir())
    return Exported(path, dtype, difference, positions, size)


def _write_file(path: Path, source: _Source, vocabulary: Vocabulary, dtype: str) -> Exported:
    with _written(path) as temporary:
        _write_gguf(temporary, source, vocabulary, dtype)
        difference, positions = _read_back(source, temporary, dtype)
        size = temporary.stat().st_size
    return Exported(path, dtype, difference, positions, size)


# --- what is in them --------------------------------------------------------------------------------------------------


def _fill_hf(folder: Path, source: _Source, dtype: str | None) -> Path:
    config, files = source.config, source.files
    code = None if dtype is None else DTYPES[dtype]
    with (folder / WEIGHTS).open("wb") as file:
        write_tensors(file, (outgoing(tensor, code) for tensor in source.tensors))
    shutil.copyfile(files.tokenizer, folder / TOKENIZER)
    torch_name = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}[dtype or source.dtype]
    shape = {**config.to_hf(), "torch_dtype": torch_name, "dtype": torch_name}
    _write_json(folder / MODEL_CONFIG, shape)
    _write_json(folder / GENERATION_CONFIG, _generation_config(source))
    if "tokenizer_class" in source.tokenizer_config():
        # It came with the model and says more than could be guessed here.
        for name in (TOKENIZER_CONFIG, SPECIAL_TOKENS, CHAT_TEMPLATE):
            if (path := files.companion(name)) is not None:
                shutil.copyfile(path, folder / name)
    else:
        special = _special_tokens(source)
        _write_json(folder / TOKENIZER_CONFIG, _tokenizer_config(source, special))
        _write_json(folder / SPECIAL_TOKENS, special)
    (folder / FACTS).write_text(facts_json(source.facts), encoding="utf-8")
    ends = source.token(config.eos_token_ids[0]) if config.eos_token_ids else None
    card = model_card(source.name, config, source.facts, _begins(source), ends)
    (folder / README).write_text(card, encoding="utf-8")
    return folder


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _generation_config(source: _Source) -> dict[str, Any]:
    """The settings that came with the model, else the defaults of `symlm generate`; where nothing else is said, the
    token for padding is the one that ends a text."""
    config, shape = source.config, source.config.to_hf()
    settings = {"do_sample": True, "temperature": TEMPERATURE, "top_k": TOP_K, "top_p": TOP_P, "min_p": MIN_P}
    ends = {"bos_token_id": shape["bos_token_id"], "eos_token_id": shape["eos_token_id"]}
    padding = {"pad_token_id": config.eos_token_ids[0]} if config.eos_token_ids else {}
    path = source.files.companion(GENERATION_CONFIG)
    own = {} if path is None else read_object(path, "generation configuration")
    return {**({} if own.keys() - ends.keys() else settings), **padding, **own, **ends}


def _special_tokens(source: _Source) -> dict[str, str]:
    ends = source.config.eos_token_ids
    ids = {"bos_token": source.config.bos_token_id, "eos_token": ends[0] if ends else None}
    ids["pad_token"] = ids["eos_token"]
    texts = {name: source.token(number) for name, number in ids.items()}
    return {name: text for name, text in texts.items() if text is not None}


def _tokenizer_config(source: _Source, special: dict[str, str]) -> dict[str, Any]:
    template = source.chat_template()
    return {
        # Of all classes the one that takes tokenizer.json as it is.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": source.config.seq_len,
        "clean_up_tokenization_spaces": False,
        "add_bos_token": _begins(source) is not None,
        "add_eos_token": False,
        **special,
        **({} if template is None else {"chat_template": template}),
    }


def _begins(source: _Source) -> str | None:
    """The token that the tokenizer puts before a text of its own accord."""
    token = source.token(source.config.bos_token_id)
    return token if token is not None and begins_with(source.tokenizer.get("post_processor"), token) else None


def _write_gguf(path: Path, source: _Source, vocabulary: Vocabulary, dtype: str) -> None:
    write.write_gguf(
        path,
        source.config,
        source.tensors,
        vocabulary,
        dtype,
        name=source.name,
        facts=source.facts,
        chat_template=source.chat_template(),
    )


def _fill_ollama(folder: Path, source: _Source, vocabulary: Vocabulary, dtype: str) -> Path:
    _write_gguf(folder / GGUF_NAME, source, vocabulary, dtype)
    lines = [f"FROM ./{GGUF_NAME}"]
    if source.chat_template() is None:
        # Otherwise Ollama goes by the template in the file.
        lines.append('TEMPLATE """{{ .Prompt }}"""')
    ends = [source.token(number) for number in source.config.eos_token_ids]
    lines += [f"PARAMETER stop {json.dumps(end, ensure_ascii=False)}" for end in ends if end is not None]
    lines += [
        f"PARAMETER num_ctx {source.config.seq_len}",
        f"PARAMETER temperature {TEMPERATURE}",
        f"PARAMETER top_k {TOP_K}",
        f"PARAMETER top_p {TOP_P}",
        f"PARAMETER min_p {MIN_P}",
    ]
    (folder / MODELFILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / GGUF_NAME


# --- reading back -----------------------------------------------------------------------------------------------------


def _read_back(source: _Source, written: Path, dtype: str) -> tuple[float, int]:
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
        # A maximum passes over what is not a number.
        if not np.isfinite(difference).all():
            raise DataError(f"{source.name}: the logits are not finite numbers", "the weights of the model are damaged")
        worst = max(worst, float(difference.max()))
        positions += len(ids)
    return worst, positions


def _context(generator: Generator) -> int:
    assert generator.model is not None
    return generator.model.seq_len
