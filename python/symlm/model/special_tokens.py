"""Special tokens and flags of a tokenizer: their names in transformers, their keys in a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..system.reading import Fields
from .companions import Companions

_KEYS = {
    "unk_token": "unknown",
    "sep_token": "seperator",  # as llama.cpp spells it
    "pad_token": "padding",
    "mask_token": "mask",
    "prefix_token": "prefix",
    "suffix_token": "suffix",
    "middle_token": "middle",
    "fim_pre_token": "fim_pre",
    "fim_suf_token": "fim_suf",
    "fim_mid_token": "fim_mid",
    "fim_pad_token": "fim_pad",
    "fim_rep_token": "fim_rep",
    "fim_sep_token": "fim_sep",
}
"""Name in transformers -> part of the key of its id."""

_OF_THE_MODEL = ("bos_token", "eos_token", "eot_token", "eom_token")
"""The model's own ids say which these are."""

MOST_ENDS = 3
"""Tokens that end a text for which a GGUF file has keys."""

_KNOWN = {
    "tokenizer_class", "model_max_length", "chat_template", "added_tokens_decoder", "additional_special_tokens",
    "extra_special_tokens", "add_bos_token", "add_eos_token", "add_prefix_space", "name_or_path", "tokenizer_file",
    "vocab_file", "merges_file", "special_tokens_map_file", "backend", "is_local", "local_files_only", "legacy",
    "use_fast", "from_slow", "sp_model_kwargs", "model_input_names", "auto_map", "init_inputs", "processor_class",
    "use_default_system_prompt", "fast_tokenizer_files", "errors",
}  # fmt: skip
"""Fields of a `tokenizer_config.json` that a GGUF file holds in its own way, or that say nothing about a text."""

_ORDINARY = {
    "clean_up_tokenization_spaces": False, "padding_side": "right", "truncation_side": "right",
    "split_special_tokens": False, "spaces_between_special_tokens": False, "do_lower_case": False,
    "trim_offsets": True, "add_dummy_prefix_space": False,
}  # fmt: skip
"""Further ones, with the value that a program without them goes by."""


def ids_for_gguf(companions: Companions, numbers: Mapping[str, int]) -> tuple[dict[str, int], list[str]]:
    """Keys of GGUF metadata with the ids of special tokens, and the names of those without a place there.

    `numbers` are the ids of the texts of tokens.
    """
    found: dict[str, int] = {}
    left: list[str] = []
    padding = companions.padding()
    if padding and "pad_token" not in companions.special_tokens:
        found[_key("pad_token")] = padding["pad_token_id"]
    for name, text in companions.special_tokens.items():
        if name in _OF_THE_MODEL or (name == "cls_token" and text == companions.special_tokens.get("bos_token")):
            continue
        if name in _KEYS and text in numbers:
            found[_key(name)] = numbers[text]
        else:
            left.append(name)
    return found, left


def _key(name: str) -> str:
    return f"tokenizer.ggml.{_KEYS[name]}_token_id"


def names_of_gguf(metadata: Fields, vocab_size: int) -> dict[str, int]:
    """Special tokens in the metadata of a GGUF file besides those that begin and end a text: name in transformers
    -> id.

    An id beyond the vocabulary is none, as in llama.cpp: converters write -1. DataError for anything but an id.
    """
    ids = {name: metadata.whole(_key(name), -1, 1 << 32) for name in _KEYS if _key(name) in metadata}
    return {name: number for name, number in ids.items() if 0 <= number < vocab_size}


def not_in_gguf(config: Mapping[str, Any], added: list[Any], ends: int) -> list[str]:
    """What of a tokenizer's description a GGUF file cannot hold, where it matters: fields of `tokenizer_config.json`,
    flags of added tokens, and tokens that end a text beyond those for which there are keys."""
    left = [f"the last {ends - MOST_ENDS} of {ends} tokens that end a text"] if ends > MOST_ENDS else []
    for name, value in config.items():
        if name in _KNOWN or name.endswith("_token") or value is None or value == _ORDINARY.get(name, ""):
            continue
        left.append(name)
    flags = ("single_word", "lstrip", "rstrip")
    flagged = [token for token in added if isinstance(token, dict) and any(token.get(flag) for flag in flags)]
    if flagged:
        named = ", ".join(flag for flag in flags if any(token.get(flag) for token in flagged))
        left.append(f"{named} of {len(flagged)} added tokens")
    return left
