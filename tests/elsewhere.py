"""Models as other programs leave them: folders of transformers, written here without its code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reference import model
from reference.model import ModelConfig, Parameters

BEGIN, END, STOP = 261, 262, 263
"""Special tokens of the tokenizer in the manner of Llama 3."""

TEXT = "the cat sat on the mat\n\n12 345 the thé \u4f60 <|end|> x\r\n  y"


@dataclass(frozen=True)
class Elsewhere:
    """A model folder, and what its files say."""

    folder: Path
    config: ModelConfig
    parameters: Parameters

    def logits(self, ids: list[int]) -> np.ndarray[Any, Any]:
        """Logits of the float64 oracle, [len(ids), vocabulary]."""
        result: np.ndarray[Any, Any] = model.logits(self.config, self.parameters, np.array([ids]))[0]
        return result


def round_to(values: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, Any]:
    """Numbers that a type holds exactly, as float64."""
    if dtype == "F16":
        return values.astype(np.float16).astype(np.float64)
    single = values.astype("<f4")
    if dtype == "BF16":
        single = (single.view("<u4") & 0xFFFF0000).view("<f4")
    return single.astype(np.float64)


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray[Any, Any]], dtype: str = "F32") -> None:
    """A safetensors file with every tensor in one type."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    parts, at = [], 0
    for name, values in tensors.items():
        single = values.astype("<f4")
        raw = {
            "F32": single.tobytes,
            "F16": values.astype("<f2").tobytes,
            "BF16": (single.view("<u4") >> 16).astype("<u2").tobytes,
        }[dtype]()
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [at, at + len(raw)]}
        parts.append(raw)
        at += len(raw)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))


def write_sharded(folder: Path, tensors: Mapping[str, np.ndarray[Any, Any]], dtype: str, files: int = 3) -> Path:
    """Several files and their index; gives the index."""
    names = [f"model-{i + 1:05d}-of-{files:05d}.safetensors" for i in range(files)]
    places = {name: names[i % files] for i, name in enumerate(tensors)}
    for file in names:
        write_tensors(folder / file, {n: t for n, t in tensors.items() if places[n] == file}, dtype)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index


def make_model(
    folder: Path,
    *,
    dtype: str = "F32",
    sharded: bool = False,
    tokenizer: Mapping[str, Any] | None = None,
    seed: int = 1,
    **shape: Any,
) -> Elsewhere:
    """Make a model folder in the manner of Llama 3: 264 tokens, an embedding of 272 rows."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes: dict[str, Any] = {
        "vocab_size": 272, "hidden_size": 32, "intermediate_size": 48, "num_layers": 2, "num_heads": 4,
        "num_kv_heads": 2, "seq_len": 64, "tie_embeddings": False, "rope_theta": 5000.0, "rms_norm_eps": 1e-6,
    }  # fmt: skip
    config = ModelConfig(**{**sizes, **shape})
    parameters = {name: round_to(p, dtype) for name, p in model.random_parameters(config, seed, scale=0.2).items()}
    (write_sharded if sharded else _write_one)(folder, parameters, dtype)
    rope: dict[str, Any] = {"rope_type": "default"}
    if config.rope_scaling is not None:
        rope = {"rope_type": "llama3", **config.rope_scaling}
    raw = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size, "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers, "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads, "hidden_act": "silu", "rms_norm_eps": config.rms_norm_eps,
        "max_position_embeddings": config.seq_len, "rope_parameters": {**rope, "rope_theta": config.rope_theta},
        "tie_word_embeddings": config.tie_embeddings, "dtype": "bfloat16", "bos_token_id": BEGIN, "eos_token_id": END,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(raw))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [END, STOP]}))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer or llama3_tokenizer()))
    return Elsewhere(folder, config, parameters)


def _write_one(folder: Path, parameters: Parameters, dtype: str) -> None:
    write_tensors(folder / "model.safetensors", parameters, dtype)


def _added(tokens: Mapping[str, int]) -> list[dict[str, Any]]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return [{"id": id_, "content": text, **flags} for text, id_ in tokens.items()]


def _bpe(vocab: Mapping[str, int], merges: list[list[str]], **options: Any) -> dict[str, Any]:
    plain = {
        "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
        "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
    }  # fmt: skip
    return {"type": "BPE", **plain, **options, "vocab": vocab, "merges": merges}


def llama3_tokenizer() -> dict[str, Any]:
    """Bytes behind another regular expression, and a token that begins every text."""
    bytes_ = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = [chr(b) for b in bytes_] + [chr(0x100 + i) for i in range(256 - len(bytes_))]
    merges = [["t", "h"], ["th", "e"], ["\u0120", "the"], ["a", "t"], ["c", "at"]]
    vocab = {token: i for i, token in enumerate([*alphabet, *("".join(pair) for pair in merges)])}
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+"
    )
    template = [{"SpecialToken": {"id": "<|begin|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None,
        "added_tokens": _added({"<|begin|>": BEGIN, "<|end|>": END, "<|stop|>": STOP}),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}, byte_level,
        ]},
        "post_processor": {"type": "TemplateProcessing", "single": template, "pair": template, "special_tokens": {
            "<|begin|>": {"id": "<|begin|>", "ids": [BEGIN], "tokens": ["<|begin|>"]},
        }},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": _bpe(vocab, merges, ignore_merges=True),
    }  # fmt: skip


def metaspace_tokenizer() -> dict[str, Any]:
    """Blanks as a separate character, bytes as tokens; its begin and end have the ids of the other one."""
    merges = [["t", "h"], ["th", "e"], ["\u2581", "the"], ["\u2581", "c"]]
    letters = "\u2581"
    tokens = [f"<0x{byte:02X}>" for byte in range(256)] + [letters, "t", "h", "e", "c"]
    assert len(tokens) == BEGIN
    vocab = {token: i for i, token in enumerate(tokens)} | {"<s>": BEGIN, "</s>": END, "<unk>": STOP}
    vocab |= {"".join(pair): STOP + 1 + i for i, pair in enumerate(merges)}
    return {
        "version": "1.0", "truncation": None, "padding": None, "post_processor": None, "normalizer": None,
        "added_tokens": _added({"<s>": BEGIN, "</s>": END, "<unk>": STOP}),
        "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": _bpe(vocab, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"),
    }  # fmt: skip
