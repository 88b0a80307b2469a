"""Tokenizers of models from elsewhere that put a blank before a text, each in its own way, and one that does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

BEGIN, END = 1, 2
SPACE = "\u2581"

WORDS = (
    "return self\nreturn other\nthe cat sat on the mat and what is it ?\nif x == 12 : return\tself\n\n"
    "  the  colours of things are  many , white as snow\n"
)


def _sentencepiece() -> Tokenizer:
    bpe = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    bpe.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return bpe


def prepend() -> Tokenizer:
    """As Llama 2 and TinyLlama: a normalizer puts it before every text."""
    bpe = _sentencepiece()
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    return bpe


def metaspace(scheme: str) -> Tokenizer:
    """As newer files of the same models: the pre-tokenizer puts it before the first text, or before every one."""
    bpe = _sentencepiece()
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme, split=False)
    return bpe


def byte_level(prefix: bool) -> Tokenizer:
    """Bytes, as GPT-2, with a blank before every text as RoBERTa has it, or without."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=True)
    bpe.decoder = decoders.ByteLevel()
    return bpe


def planted(kind: str) -> Tokenizer:
    """A small trained tokenizer of one of `KINDS`, with `<s>` before every text."""
    bpe = KINDS[kind]()
    special = ["<unk>", "<s>", "</s>"]
    if kind.startswith("byte-level"):
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=340, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
    else:
        special += [f"<0x{byte:02X}>" for byte in range(256)]
        trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=special, show_progress=False)
    # Words by themselves, so that no token spans two of them, as in the vocabularies of these models.
    parts = [part for line in WORDS.splitlines() for part in line.split()]
    if kind == "byte-level":
        parts += [f" {part}" for part in parts]
    bpe.train_from_iterator(parts * 4, trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BEGIN)])
    return Tokenizer.from_str(json.dumps(_plain(json.loads(bpe.to_str()))))


def _plain(file: dict[str, Any]) -> dict[str, Any]:
    """Bytes are tokens of the vocabulary, not special ones."""
    file["added_tokens"] = [token for token in file["added_tokens"] if token["id"] <= END]
    return file


KINDS: dict[str, Any] = {
    "prepend": prepend,
    "metaspace first": lambda: metaspace("first"),
    "metaspace always": lambda: metaspace("always"),
    "byte-level with a blank": lambda: byte_level(True),
    "byte-level": lambda: byte_level(False),
}


def write(kind: str, folder: Path) -> Tokenizer:
    """Write `tokenizer.json` into a folder; gives what the library makes of it."""
    tokenizer = planted(kind)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer
