"""Tokenizers between `tokenizer.json` and GGUF: byte-level BPE whose splitting llama.cpp knows under a name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError, shown
from ...system.reading import Fields, kind

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Types of tokens in a GGUF file."""

_WHAT = "tokenizer"
_HINT = "export to hf works with any tokenizer: --to hf"
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"


def _byte_level(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _words(digits: str) -> dict[str, Any]:
    """The splitter of Llama 3 and Qwen 2, which differ in how many digits stay together."""
    pattern = (
        rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|"
        r"\s+(?!\S)|\s+"
    )
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _byte_level(False)]}


@dataclass(frozen=True)
class Splitting:
    """How a tokenizer cuts a text into words before the merges."""

    pre_tokenizer: dict[str, Any]
    normalizer: dict[str, Any] | None = None
    ignore_merges: bool = False
    """Whether a word that is a token stays whole, whatever the merges make of it."""


SPLITTINGS: dict[str, Splitting] = {
    "gpt-2": Splitting(_byte_level(True)),
    "smollm": Splitting(
        {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, _byte_level(True)]}
    ),
    "qwen2": Splitting(_words(r"\p{N}"), normalizer={"type": "NFC"}),
    "llama-bpe": Splitting(_words(r"\p{N}{1,3}"), ignore_merges=True),
}
"""Value of `tokenizer.ggml.pre` -> splitting. llama.cpp does not normalise: its qwen2 is given texts in NFC."""

_SAME = {
    "phi-2": "gpt-2",
    "deepseek-r1-qwen": "qwen2",
    "megrez": "qwen2",
    "llama3": "llama-bpe",
    "llama-v3": "llama-bpe",
}


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer as a GGUF file has it. `tokens` in the order of the ids, `merges` as "left right"."""

    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    add_bos: bool
    add_eos: bool = False


def vocabulary_of(
    raw: Mapping[str, Any], path: Path, vocab_size: int, bos: int | None, eos: int | None = None
) -> Vocabulary:
    """What a `tokenizer.json` (`raw`, from `path`) is in a GGUF file of a model with `vocab_size` rows, whose texts
    begin with the token `bos` and end with `eos`.

    DataError when llama.cpp has no name for its splitting, or when it does not fit the model.
    """
    fields = Fields(path, raw, _WHAT)
    model = Fields(path, fields.object("model"), _WHAT)
    pre = splitting_name(raw, path)
    tokens: dict[int, str] = {}
    types: dict[int, int] = {}
    vocab = Fields(path, model.object("vocab"), _WHAT)
    for token in model.object("vocab"):
        _put(tokens, vocab.whole(token, 0, 1 << 24), token, path, vocab_size)
    for entry in raw.get("added_tokens") or []:
        if not isinstance(entry, dict):
            raise DataError(f"{path}: damaged {_WHAT}: an added token that is {kind(entry)}")
        added = Fields(path, entry, _WHAT)
        number, content = added.whole("id", 0, 1 << 24), added.text("content")
        _put(tokens, number, content, path, vocab_size)
        types[number] = CONTROL if entry.get("special") else USER_DEFINED
    if not tokens:
        raise DataError(f"{path}: no tokens")
    begin = None if bos is None else tokens.get(bos)
    end = None if eos is None else tokens.get(eos)
    _check_frame(raw.get("post_processor"), path, begin, end)
    texts = [tokens.get(number, _padding(number)) for number in range(vocab_size)]
    if len(set(texts)) < vocab_size:
        raise DataError(f"{path}: two tokens have the same text, which a GGUF file cannot hold", _HINT)
    return Vocabulary(
        pre=pre,
        tokens=texts,
        types=[types.get(number, NORMAL if number in tokens else UNUSED) for number in range(vocab_size)],
        merges=_merges(raw, path),
        add_bos=begin is not None and begins_with(raw.get("post_processor"), begin),
        add_eos=end is not None and ends_with(raw.get("post_processor"), end),
    )


def _padding(number: int) -> str:
    """Text of an id that the model has and the tokenizer has not, as converters write it."""
    return f"[PAD{number}]"


def _put(tokens: dict[int, str], number: int, token: str, path: Path, vocab_size: int) -> None:
    if number >= vocab_size:
        raise DataError(
            f"{path}: token {shown(token)} has the id {number:,}, the model has {vocab_size:,} embeddings",
            "take the tokenizer that belongs to the model",
        )
    if tokens.setdefault(number, token) != token:
        raise DataError(f"{path}: {shown(tokens[number])} and {shown(token)} have the same id {number:,}")


def _merges(raw: Mapping[str, Any], path: Path) -> list[str]:
    merges = raw["model"].get("merges")
    if not isinstance(merges, list):
        raise DataError(f"{path}: damaged {_WHAT}: merges: found {kind(merges)}, expected a list")
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
            raise DataError(f"{path}: damaged {_WHAT}: merge {shown(pair)}, expected two tokens")
        if any(" " in part or not part for part in pair):
            raise DataError(f"{path}: merge {shown(pair)} has blanks in it, which a GGUF file cannot hold", _HINT)
    return [" ".join(pair) for pair in pairs]


def splitting_name(raw: Mapping[str, Any], path: Path) -> str:
    """The name that llama.cpp has for the splitting of a `tokenizer.json`; DataError when there is none."""
    model = raw.get("model") or {}
    found = model.get("type", "BPE") if isinstance(model, dict) else "none"
    if found != "BPE" or model.get("byte_fallback") or model.get("dropout"):
        what = f"{found} with byte fallback" if isinstance(model, dict) and model.get("byte_fallback") else found
        raise DataError(f"{path}: a tokenizer of type {shown(what)}, expected byte-level BPE for a GGUF file", _HINT)
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise DataError(
            f"{path}: a tokenizer with affixes on its tokens, expected byte-level BPE for a GGUF file", _HINT
        )
    for name, splitting in SPLITTINGS.items():
        same = _simple(raw.get("pre_tokenizer")) == _simple(splitting.pre_tokenizer)
        # Without a normalizer the same name holds: llama.cpp has none.
        plain = raw.get("normalizer") is None or _simple(raw.get("normalizer")) == _simple(splitting.normalizer)
        if same and plain and bool(model.get("ignore_merges")) == splitting.ignore_merges:
            return name
    parts = " and ".join(
        f"{what} {_summary(raw.get(what))}" for what in ("normalizer", "pre_tokenizer") if raw.get(what) is not None
    )
    merges = ", ignore_merges" if model.get("ignore_merges") else ""
    raise DataError(
        f"{path}: llama.cpp has no name for a tokenizer with {parts or 'no pre_tokenizer'}{merges}; "
        f"known are {', '.join(SPLITTINGS)}",
        _HINT,
    )


_ORDINARY = {
    "ByteLevel": {"add_prefix_space": True, "use_regex": True},
    "Split": {"invert": False},
    "Digits": {"individual_digits": False},
}
"""Type of a part -> the settings that matter, with the value that the library takes when there is none."""


def _simple(part: Any) -> Any:
    """A part of a tokenizer without what makes no difference to ids."""
    if not isinstance(part, dict):
        return part
    name = part.get("type")
    inner = part.get("pretokenizers", part.get("normalizers"))
    if name == "Sequence" and isinstance(inner, list):
        parts = [_simple(item) for item in inner]
        return parts[0] if len(parts) == 1 else ("Sequence", parts)
    settings = {key: part.get(key, value) for key, value in _ORDINARY.get(str(name), {}).items()}
    return (name, settings, part.get("pattern"), part.get("behavior"))


def _summary(part: Any) -> str:
    if not isinstance(part, dict):
        return shown(part)
    inner = part.get("pretokenizers", part.get("normalizers"))
    if isinstance(inner, list):
        return "[" + ", ".join(_summary(item) for item in inner[:6]) + "]"
    pattern = part.get("pattern")
    return str(part.get("type")) + (f" {shown(pattern)}" if pattern is not None else "")


def _frames(part: Any) -> list[list[Any] | None]:
    """What each part of a post-processor puts around a text: texts of tokens, and None in place of the text. None for
    a part of another kind."""
    if not isinstance(part, dict) or part.get("type") == "ByteLevel":
        return []
    if part.get("type") == "Sequence" and isinstance(part.get("processors"), list):
        return [frame for item in part["processors"] for frame in _frames(item)]
    single = part.get("single")
    if part.get("type") != "TemplateProcessing" or not isinstance(single, list):
        return [None]
    tokens = [item.get("SpecialToken") if isinstance(item, dict) else None for item in single]
    return [[token.get("id") if isinstance(token, dict) else None for token in tokens]]


def begins_with(part: Any, token: str) -> bool:
    """Whether a post-processor puts `token` before a text."""
    return any(frame is not None and frame[:1] == [token] for frame in _frames(part))


def ends_with(part: Any, token: str) -> bool:
    """Whether a post-processor puts `token` behind a text."""
    return any(frame is not None and frame[-1:] == [token] for frame in _frames(part))


def _check_frame(part: Any, path: Path, begin: str | None, end: str | None) -> None:
    """DataError when a post-processor puts more around a text than the tokens that begin and end one."""
    for frame in _frames(part):
        if frame not in ([None], [begin, None], [None, end], [begin, None, end]):
            parts = ["other tokens"] if frame is None else ["TEXT" if token is None else str(token) for token in frame]
            raise DataError(
                f"{path}: the tokenizer makes {shown(' '.join(parts))} of a text, "
                "a GGUF file knows only the tokens that begin and end one",
                _HINT,
            )


# --- and back ---------------------------------------------------------------------------------------------------------


def tokenizer_json(vocabulary: Vocabulary, path: Path, bos: int | None, eos: int | None = None) -> dict[str, Any]:
    """The `tokenizer.json` of a vocabulary out of the GGUF file `path`: the same ids for every text."""
    name = _SAME.get(vocabulary.pre, vocabulary.pre)
    if name not in SPLITTINGS:
        raise DataError(
            f"{path}: tokenizer.ggml.pre is {shown(vocabulary.pre)}, known are {', '.join([*SPLITTINGS, *_SAME])}",
            "take the model as a folder of transformers, with its tokenizer.json",
        )
    splitting = SPLITTINGS[name]
    last = max((i for i, type_ in enumerate(vocabulary.types) if type_ != UNUSED), default=-1)
    tokens = vocabulary.tokens[: last + 1]
    if len(set(tokens)) < len(tokens):
        raise DataError(f"{path}: two tokens have the same text")
    begin = bos if vocabulary.add_bos and bos is not None and bos < len(tokens) else None
    end = eos if vocabulary.add_eos and eos is not None and eos < len(tokens) else None
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(vocabulary.types[: last + 1], tokens),
        "normalizer": splitting.normalizer,
        "pre_tokenizer": splitting.pre_tokenizer,
        "post_processor": _framing(tokens, begin, end),
        "decoder": _byte_level(True),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": splitting.ignore_merges,
            "vocab": {
                token: number
                for number, token in enumerate(tokens)
                if vocabulary.types[number] != UNUSED or token != _padding(number)
            },
            "merges": _split_merges(vocabulary.merges, path),
        },
    }


def _added_tokens(types: Sequence[int], tokens: Sequence[str]) -> list[dict[str, Any]]:
    """The tokens that are found in a text before it is split."""
    return [
        {
            "id": number,
            "content": tokens[number],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": type_ == CONTROL,
        }
        for number, type_ in enumerate(types)
        if type_ in (CONTROL, USER_DEFINED)
    ]


def _split_merges(lines: Sequence[str], path: Path) -> list[list[str]]:
    """Both tokens of each merge of the GGUF file `path`."""
    merges = []
    for merge in lines:
        # Byte-level tokens contain no space; otherwise a token may be any text.
        left, blank, right = merge.partition(" ")
        if not (left and blank and right) or " " in right:
            raise DataError(f"{path}: merge {shown(merge)}, expected two tokens with a blank between them")
        merges.append([left, right])
    return merges


def _framing(tokens: Sequence[str], begin: int | None, end: int | None) -> dict[str, Any] | None:
    """The post-processor that puts the token `begin` before a text and `end` behind it; None: neither."""

    def framed(name: str, type_id: int) -> list[dict[str, Any]]:
        before, after = (
            [] if number is None else [{"SpecialToken": {"id": tokens[number], "type_id": type_id}}]
            for number in (begin, end)
        )
        return [*before, {"Sequence": {"id": name, "type_id": type_id}}, *after]

    special = {tokens[n]: {"id": tokens[n], "ids": [n], "tokens": [tokens[n]]} for n in (begin, end) if n is not None}
    if not special:
        return None
    single = framed("A", 0)
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, *framed("B", 1)],
        "special_tokens": special,
    }
