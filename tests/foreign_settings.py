"""Settings of a `config.json` from elsewhere that contradict each other or mean the same twice, as two grids of cells.

`ROPES` x `ROPES` x `TOPS` are what `rope_parameters`, `rope_scaling` and `rope_theta` can say at once; `SINGLES` are
all other settings. `tests/golden/foreign_settings.json` has what transformers makes of each cell.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reference.layers import stretched
from symlm.config.model_config import ModelConfig
from symlm.errors import DataError

TABLE = Path(__file__).parent / "golden" / "foreign_settings.json"

ABSENT = "absent"
"""Stands for a field that is left out."""

BASE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 272, "hidden_size": 32,
    "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": False,
    "bos_token_id": 261, "eos_token_id": 262,
}  # fmt: skip
LLAMA3: dict[str, Any] = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
_LONG = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "original_max_position_embeddings": 64, "factor": 4.0}
_KINDS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "old default": {"type": "default"},
    "linear": {"rope_type": "linear", "factor": 2.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    "llama3": LLAMA3,
    "llama3 x4": {**LLAMA3, "factor": 4.0},
    "longrope": {"rope_type": "longrope", **_LONG},
    "mrope": {"type": "mrope", "mrope_section": [2, 1, 1]},
    "unknown": {"rope_type": "spiral"},
}
ROPES: dict[str, Any] = {"absent": ABSENT, "null": None, "empty": {}} | {
    f"{kind}, theta {theta}": {**values, **({} if theta == ABSENT else {"rope_theta": theta})}
    for kind, values in _KINDS.items()
    for theta in (ABSENT, 5e4, 1e6)
}
TOPS: dict[str, Any] = {"absent": ABSENT, "null": None, "5e4": 5e4, "1e6": 1e6}

_NESTED = {"full_attention": {"rope_type": "default", "rope_theta": 5e4}}
_SCALED = {name: value for name, value in LLAMA3.items() if name != "rope_type"}
_LAYERS = {"layer_types": ["full_attention"] * 2}


def _rope(**values: Any) -> dict[str, Any]:
    return {"rope_scaling": values}


def _without(name: str) -> dict[str, Any]:
    return {"rope_scaling": {key: value for key, value in LLAMA3.items() if key != name}}


_ROPE_SINGLES: list[dict[str, Any]] = [
    _rope(type="llama3", **_SCALED), _rope(type="linear", rope_type="default", factor=2.0),
    _rope(type="default", rope_type="linear", factor=2.0), _rope(type="default", **LLAMA3),
    _rope(**LLAMA3 | {"type": "yarn"}), _rope(type="llama3", **_SCALED, rope_type="default"),
    _rope(rope_type=None, type="default"), _rope(rope_type=""), _rope(rope_type="LLAMA3", **_SCALED), _rope(type=None),
    *(_without(name) for name in _SCALED), *(_rope(**LLAMA3 | {name: None}) for name in _SCALED),
    *(_rope(**LLAMA3 | {name: "8"}) for name in _SCALED), _rope(**LLAMA3 | {"factor": 8}),
    _rope(**LLAMA3 | {"factor": 1.0}), _rope(**LLAMA3 | {"factor": 0.5}), _rope(**LLAMA3 | {"high_freq_factor": 1.0}),
    _rope(**LLAMA3 | {"original_max_position_embeddings": 64.0}),
    _rope(**LLAMA3 | {"original_max_position_embeddings": 512}), _rope(**LLAMA3, attention_factor=2.0),
    _rope(**LLAMA3, partial_rotary_factor=0.5), _rope(**LLAMA3, partial_rotary_factor=1.0),
    _rope(**LLAMA3, beta_fast=32.0), _rope(**LLAMA3, rope_theta=None), _rope(rope_type="default", factor=4.0),
    _rope(rope_type="default", attention_factor=2.0), _rope(rope_type="default", partial_rotary_factor=0.5),
    _rope(rope_type="default", mrope_section=[2, 1, 1]), _rope(rope_type="linear", factor=1.0),
    _rope(rope_type="linear"), _rope(rope_type="proportional"), _rope(rope_type="axial"), _rope(rope_theta=0),
    _rope(rope_theta=-5.0), _rope(rope_theta="50000"), _rope(rope_theta=50000), _rope(factor=2.0),
    _rope(**LLAMA3) | {"original_max_position_embeddings": 32},
    _rope(**LLAMA3) | {"original_max_position_embeddings": 64},
    _rope(**LLAMA3) | {"original_max_position_embeddings": None},
    _without("original_max_position_embeddings") | {"original_max_position_embeddings": 32},
    _rope(rope_type="default") | {"original_max_position_embeddings": 32},
    _rope(**LLAMA3) | {"max_position_embeddings": 64}, _rope(**LLAMA3) | {"rope_theta": 5e4},
    _rope(**LLAMA3, rope_theta=5e4) | {"rope_parameters": {**LLAMA3, "rope_theta": 5e4}, "rope_theta": 5e4},
    _rope(**LLAMA3, rope_theta=5e4) | {"rope_parameters": {**LLAMA3, "rope_theta": 5e4, "factor": 8}},
    _rope(**LLAMA3, rope_theta=5e4) | {"rope_parameters": {**LLAMA3, "rope_theta": 1e4}, "rope_theta": 5e4},
    _rope(**LLAMA3) | {"rope_parameters": {**LLAMA3, "low_freq_factor": 2.0}},
    _rope(**LLAMA3) | {"rope_parameters": {**LLAMA3, "original_max_position_embeddings": 32}},
    {"rope_scaling": []}, {"rope_scaling": False}, {"rope_scaling": 0}, {"rope_scaling": ""},
    {"rope_scaling": "linear"}, {"rope_scaling": 2.0}, {"rope_parameters": []}, {"rope_parameters": False},
    {"rope_parameters": "x"}, {"rope_parameters": "x", **_rope(rope_type="default")}, {"rope_theta": "50000"},
    {"rope_theta": 0}, {"rope_theta": 50000}, {"rope_theta": 1e4}, {"partial_rotary_factor": 0.5},
    {"partial_rotary_factor": 1.0}, {"partial_rotary_factor": None},
    {"partial_rotary_factor": 0.5, **_rope(**LLAMA3)}, {"rope_interleaved": True}, {"default_theta": 5e4},
    {"rope_parameters": _NESTED}, {"rope_parameters": _NESTED, **_LAYERS}, {"rope_scaling": _NESTED},
    {"rope_parameters": _NESTED, "rope_theta": 5e4}, {"rope_parameters": {**_NESTED, "rope_theta": 5e4}},
    {"rope_parameters": {"full_attention": {**LLAMA3, "rope_theta": 5e4}}, **_LAYERS},
    {"rope_parameters": {"full_attention": LLAMA3, **LLAMA3}, **_LAYERS},
    {"rope_parameters": {"full_attention": None, "rope_theta": 5e4}},
]  # fmt: skip
_OTHER_SINGLES: list[dict[str, Any]] = [
    {}, {"head_dim": ABSENT}, {"head_dim": None}, {"head_dim": 8}, {"head_dim": 16}, {"head_dim": 0}, {"head_dim": 4},
    {"num_key_value_heads": ABSENT}, {"num_key_value_heads": None}, {"num_key_value_heads": 0},
    {"num_key_value_heads": False}, {"num_key_value_heads": 1}, {"num_key_value_heads": 3},
    {"num_key_value_heads": 8}, {"num_key_value_heads": -1}, {"hidden_act": "swish"}, {"hidden_act": ABSENT},
    {"hidden_act": "gelu"}, {"attention_bias": ABSENT}, {"attention_bias": False}, {"attention_bias": True},
    {"mlp_bias": False}, {"mlp_bias": True}, {"rms_norm_eps": ABSENT}, {"rms_norm_eps": None}, {"rms_norm_eps": 1e-3},
    {"tie_word_embeddings": ABSENT}, {"tie_word_embeddings": True}, {"tie_word_embeddings": None},
    {"torch_dtype": "float16"}, {"dtype": "float16", "torch_dtype": "bfloat16"}, {"dtype": "bfloat16"},
    {"num_hidden_layers": 1}, {"num_hidden_layers": 3}, {"vocab_size": 271}, {"vocab_size": 273},
    {"intermediate_size": 40}, {"max_position_embeddings": 64}, {"architectures": ABSENT}, {"architectures": []},
    {"architectures": ["LlamaModel"]}, {"architectures": ["MistralForCausalLM"]},
    {"architectures": ["LlamaForSequenceClassification", "LlamaForCausalLM"]}, {"model_type": "mistral"},
    {"model_type": ABSENT}, {"pretraining_tp": 2}, {"quantization_config": None},
    {"quantization_config": {"quant_method": "gptq", "bits": 4}}, {"layer_types": ["full_attention"] * 2},
    {"layer_types": ["attention"] * 2}, {"layer_types": ["full_attention"]}, {"layer_types": []},
    {"layer_types": ["sliding_attention"] * 2}, {"layer_types": ["sliding_attention"] * 2, "sliding_window": 2},
    {"layer_types": ["linear_attention"] * 2}, {"sliding_window": 2}, {"sliding_window": None},
    {"use_sliding_window": False}, {"use_sliding_window": True, "sliding_window": 2}, {"attention_chunk_size": 2},
    {"is_causal": False}, {"is_causal": True}, {"is_decoder": False}, {"use_bidirectional_attention": True},
    {"per_layer_config": {}}, {"per_layer_config": {"0": {"num_key_value_heads": 1}}},
    {"num_kv_shared_layers": 1}, {"attention_dropout": 0.5}, {"use_cache": False}, {"pad_token_id": -1},
    {"pad_token_id": 0}, {"configuration_files": []}, {"configuration_files": ["config.4.0.0.json"]},
    {"transformers_weights": "other.safetensors"}, {"transformers_weights": "model.safetensors"},
    {"temperature": 0.5}, {"attribute_map": {"hidden_size": "intermediate_size"}}, {"model_max_length": 16},
]  # fmt: skip
_ENDS: list[tuple[dict[str, Any], Any]] = [
    (change, generation)
    for change in ({}, {"eos_token_id": ABSENT}, {"eos_token_id": None}, {"eos_token_id": [262, 263]},
                   {"eos_token_id": -1}, {"eos_token_id": 272})
    for generation in (None, {}, {"eos_token_id": None}, {"eos_token_id": 262}, {"eos_token_id": 263},
                       {"eos_token_id": [263, 262]}, {"eos_token_id": [7, 263]}, {"eos_token_id": 272},
                       {"eos_token_id": "262"}, {"_from_model_config": True})
]  # fmt: skip
_BEGINS: list[tuple[dict[str, Any], Any]] = [
    ({"bos_token_id": begin}, generation)
    for begin in (261, None, 7)
    for generation in ({"bos_token_id": 261, "eos_token_id": 262}, {"bos_token_id": 7, "eos_token_id": 262})
]
SINGLES: list[tuple[dict[str, Any], Any]] = [
    *((change, None) for change in (*_ROPE_SINGLES, *_OTHER_SINGLES)),
    *_ENDS,
    *_BEGINS,
]
"""What differs from `BASE`, and the content of a `generation_config.json` or None."""


def config(change: Mapping[str, Any]) -> dict[str, Any]:
    """The `config.json` of a cell."""
    return {name: value for name, value in {**BASE, **change}.items() if value is not ABSENT and value != ABSENT}


def grid() -> list[tuple[str, str, str]]:
    """Names of `TOPS`, of `ROPES` in `rope_parameters`, and of `ROPES` in `rope_scaling`, for every cell."""
    return [(top, new, old) for top in TOPS for new in ROPES for old in ROPES]


def grid_change(top: str, new: str, old: str) -> dict[str, Any]:
    """What a cell of the grid differs in."""
    return {"rope_theta": TOPS[top], "rope_parameters": ROPES[new], "rope_scaling": ROPES[old]}


def write(folder: Path, change: Mapping[str, Any], generation: Any = None) -> None:
    """Put the files of a cell into a folder."""
    (folder / "config.json").write_text(json.dumps(config(change)))
    beside = folder / "generation_config.json"
    beside.unlink(missing_ok=True)
    if generation is not None:
        beside.write_text(json.dumps(generation))


def frequencies(model: ModelConfig) -> list[float]:
    """Rotary frequencies of a shape, in six digits."""
    plain = model.rope_theta ** (-2.0 * np.arange(model.head_dim // 2) / model.head_dim)
    scaled = plain if model.rope_scaling is None else stretched(plain, model.rope_scaling.as_dict())
    return digits(scaled.tolist())


def digits(values: list[float]) -> list[float]:
    """Numbers in five digits."""
    return [float(f"{value:.5g}") for value in values]


def ours(folder: Path) -> dict[str, Any] | None:
    """What symlm makes of the files in a folder, in the words of the table; None: it refuses them."""
    try:
        model = ModelConfig.from_hf(folder / "config.json")
    except DataError:
        return None
    return {
        "frequencies": frequencies(model),
        "kv_heads": model.num_kv_heads,
        "eps": model.rms_norm_eps,
        "tied": model.tie_embeddings,
        "begin": model.bos_token_id,
        "ends": sorted(model.eos_token_ids),
    }
