"""A GGUF file as the folder that transformers would have: shape, weights in f32, tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..._symlm import MAX_LAYERS, MAX_POSITIONS, MAX_VOCAB, MAX_WIDTH, Weights8, parameter_table
from ...config.engine import model_shape
from ...config.model_config import ModelConfig
from ...config.rope import ROPE_THETA, RopeScaling
from ...errors import DataError, UsageError, UserError, reason, shown
from ...layout import FACTS, GENERATION_CONFIG, MODEL_CONFIG, TOKENIZER, TOKENIZER_CONFIG, WEIGHTS
from ..companions import DEFAULT_TEMPLATE, as_field, named_templates
from ..facts import usable_facts
from ..generation_settings import from_gguf
from ..special_tokens import names_of_gguf
from ..tensors import Outgoing, decimal, from_floats, read_bytes, write_tensors
from .file import GgufFile, GgufTensor, read_gguf
from .layout import ARCHITECTURE, ROPE_FACTORS, from_pairs, gguf_name, rope_factors, rotated_heads, scaling_of
from .vocabulary import Vocabulary, tokenizer_json

if TYPE_CHECKING:
    from ..tensors import Bytes

CHAT_TEMPLATE, CHAT_TEMPLATES = "tokenizer.chat_template", "tokenizer.chat_templates"
"""Keys of the default template and of the names of the others, which stand under `tokenizer.chat_template.NAME`."""

FACTS_PREFIX = "symlm."
"""Begins the keys of the facts about the origin of a model."""

ROPE_SCALING = "symlm.rope_scaling."
"""Begins the keys of the numbers that the factors of llama.cpp follow from."""

_ONLY: dict[str, Any] = {
    "llama.expert_count": 0,
    "llama.rope.scaling.type": "none",
    "llama.rope.scaling.factor": 1.0,
    "llama.rope.scale_linear": 1.0,
    "llama.rope.scaling.attn_factor": 1.0,
    "llama.rope.scaling.alpha": 0.0,
    "llama.attention.sliding_window": 0,
    "llama.attention.causal": True,
    "llama.attention.scale": 0.0,
    "llama.logit_scale": 0.0,
    "llama.embedding_scale": 0.0,
    "llama.residual_scale": 0.0,
}
"""Metadata that change what a model computes, and the one value that symlm computes."""


def unpack_gguf(path: Path, folder: Path, *, weights: bool = True) -> None:
    """Write the model in a GGUF file into the empty `folder`: `config.json`, if `weights` `model.safetensors` in f32,
    `tokenizer.json`, `generation_config.json`, and `symlm.json` with what the file says about its origin.

    DataError when the file is damaged or the model is one that symlm cannot compute; UserError when the folder cannot
    be written.
    """
    file = read_gguf(path)
    config = model_config_of(file)
    tensors = [_outgoing(file.tensors[name], tensor, config) for tensor, name in _pairs(file, config)]
    vocabulary = _vocabulary(file, config)
    tokenizer = tokenizer_json(vocabulary, path, config.bos_token_id, next(iter(config.eos_token_ids), None))
    shape, special = config.to_hf(), names_of_gguf(file.fields, config.vocab_size)
    padding = {"pad_token_id": special["pad_token"]} if "pad_token" in special else {}
    texts = {
        MODEL_CONFIG: shape,
        TOKENIZER: tokenizer,
        GENERATION_CONFIG: {
            **from_gguf(file.fields), **padding, **{name: shape[name] for name in ("bos_token_id", "eos_token_id")}
        },
    }  # fmt: skip
    facts = {
        key.removeprefix(FACTS_PREFIX): value for key, value in file.values.items() if key.startswith(FACTS_PREFIX)
    }
    texts[FACTS] = dict(usable_facts(facts))
    beside: dict[str, Any] = {name: vocabulary.tokens[number] for name, number in special.items()}
    templates = _chat_templates(file)
    if templates:
        beside["chat_template"] = as_field(templates)
    if beside:
        texts[TOKENIZER_CONFIG] = beside
    try:
        for name, value in texts.items():
            text = json.dumps(value, indent=2, ensure_ascii=False)
            (folder / name).write_text(text + "\n", encoding="utf-8")
        if weights:
            with (folder / WEIGHTS).open("wb") as out:
                write_tensors(out, tensors)
    except OSError as error:
        raise UserError(f"{folder}: cannot unpack {path}: {reason(error)}", "make room, or set TMPDIR") from None


def weights8_of(path: Path) -> Weights8:
    """The weights of a GGUF file in 8 bits. Tensors of type Q8_0 are taken as they are, others quantised."""
    file = read_gguf(path)
    config = model_config_of(file)
    weights = Weights8(model_shape(config))
    for ours, name in _pairs(file, config):
        tensor, heads = file.tensors[name], rotated_heads(ours, config)
        if tensor.kind == "Q8_0" and len(tensor.shape) == 2:
            rows = read_bytes(tensor.path, tensor.offset, tensor.nbytes).reshape(tensor.shape[0], -1)
            weights.set_blocks(ours, (from_pairs(rows, heads) if heads else rows).tobytes())
        else:
            values = tensor.floats()
            weights.set_values(ours, (from_pairs(values, heads) if heads else values).astype("<f4").tobytes())
    return weights


def _chat_templates(file: GgufFile) -> dict[str, str]:
    """Name -> template, of all chat templates in a file."""
    begin = f"{CHAT_TEMPLATE}."
    named = [
        {"name": key.removeprefix(begin), "template": v} for key, v in file.values.items() if key.startswith(begin)
    ]
    default = (
        [{"name": DEFAULT_TEMPLATE, "template": file.values[CHAT_TEMPLATE]}] if CHAT_TEMPLATE in file.values else []
    )
    return named_templates([*default, *named], file.path)


def _outgoing(source: GgufTensor, name: str, config: ModelConfig) -> Outgoing:
    heads = rotated_heads(name, config)

    def make() -> Bytes:
        values = source.floats()
        return from_floats(from_pairs(values, heads) if heads else values, "F32", name)

    return Outgoing(name, "F32", source.shape, make)


def _pairs(file: GgufFile, config: ModelConfig) -> list[tuple[str, str]]:
    """Name here and name in the file of every tensor of the model; DataError unless the file has exactly these."""
    expected = {parameter.name: parameter.shape for parameter in parameter_table(model_shape(config))}
    names = {gguf_name(name): name for name in expected}
    for name, ours in names.items():
        shape = tuple(expected[ours])
        if name not in file.tensors:
            raise DataError(f"{file.path}: no tensor {name}, expected one of shape {list(shape)}")
        if file.tensors[name].shape != shape:
            found = list(file.tensors[name].shape)
            raise DataError(f"{file.path}: tensor {name} has the shape {found}, expected {list(shape)}")
    extra = [name for name in file.tensors if name not in names and name != ROPE_FACTORS]
    if extra:
        raise DataError(
            f"{file.path}: tensor {shown(extra[0])} is not part of a model that symlm can compute",
            "only plain Llama models can be opened: no biases, no experts, no adapters",
        )
    return [(ours, name) for name, ours in names.items()]


def model_config_of(file: GgufFile) -> ModelConfig:
    """The shape of the model; DataError when it is not a Llama model that symlm can compute."""
    fields, values = file.fields, file.values
    architecture = fields.text("general.architecture")
    if architecture != ARCHITECTURE:
        raise DataError(
            f"{file.path}: architecture {shown(architecture)}, expected {ARCHITECTURE}",
            "only models of the Llama architecture can be opened",
        )
    if values.get("general.type", "model") != "model":
        raise DataError(f"{file.path}: found {shown(values['general.type'])}, expected a model")
    for key, only in _ONLY.items():
        if key in values and values[key] != only:
            raise DataError(f"{file.path}: {key} {shown(values[key])} is not supported, expected {shown(only)}")
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2 or not 0 < embedding.shape[0] <= MAX_VOCAB:
        raise DataError(f"{file.path}: no tensor token_embd.weight, expected one with a row for each token")
    rows = values.get("llama.vocab_size", embedding.shape[0])
    if rows != embedding.shape[0]:
        raise DataError(
            f"{file.path}: llama.vocab_size is {shown(rows)}, "
            f"token_embd.weight has rows for {embedding.shape[0]:,} tokens"
        )
    heads = fields.whole("llama.attention.head_count", 1, MAX_WIDTH)
    kv, context = "llama.attention.head_count_kv", "llama.context_length"
    begin, ends = _special_ids(file, embedding.shape[0])
    theta = "llama.rope.freq_base"
    try:
        config = ModelConfig(
            vocab_size=embedding.shape[0],
            hidden_size=fields.whole("llama.embedding_length", 1, MAX_WIDTH),
            intermediate_size=fields.whole("llama.feed_forward_length", 1, MAX_WIDTH),
            num_layers=fields.whole("llama.block_count", 1, MAX_LAYERS),
            num_heads=heads,
            num_kv_heads=fields.whole(kv, 1, heads) if kv in values else heads,
            seq_len=fields.whole(context, 1, MAX_POSITIONS),
            rope_theta=decimal(fields.number(theta)) if theta in values else ROPE_THETA,
            rms_norm_eps=decimal(fields.number("llama.attention.layer_norm_rms_epsilon")),
            tie_embeddings="output.weight" not in file.tensors,
            bos_token_id=begin,
            eos_token_ids=ends,
        )
        for key in ("llama.rope.dimension_count", "llama.attention.key_length", "llama.attention.value_length"):
            if key in values and fields.whole(key, 1, MAX_WIDTH) != config.head_dim:
                raise DataError(
                    f"{file.path}: {key} {values[key]} is not supported, expected embedding_length / head_count = "
                    f"{config.head_dim}"
                )
        return _with_scaling(file, config)
    except UsageError as error:
        raise DataError(f"{file.path}: {error.message}") from None


def _with_scaling(file: GgufFile, config: ModelConfig) -> ModelConfig:
    from dataclasses import replace

    tensor = file.tensors.get(ROPE_FACTORS)
    if tensor is None:
        return config
    if tensor.shape != (config.head_dim // 2,):
        raise DataError(
            f"{file.path}: {ROPE_FACTORS} has the shape {list(tensor.shape)}, expected [{config.head_dim // 2}]"
        )
    factors = tensor.floats()
    if (factors == 1).all():
        return config
    if ROPE_SCALING + "factor" in file.values:
        fields = file.fields
        scaling: RopeScaling | None = RopeScaling(
            factor=fields.number(ROPE_SCALING + "factor"),
            low_freq_factor=fields.number(ROPE_SCALING + "low_freq_factor"),
            high_freq_factor=fields.number(ROPE_SCALING + "high_freq_factor"),
            original_max_position_embeddings=fields.whole(
                ROPE_SCALING + "original_max_position_embeddings", 1, MAX_POSITIONS
            ),
        )
    else:
        scaling = scaling_of(config, factors)
    if scaling is None or not _near(rope_factors(config, scaling), factors):
        raise DataError(
            f"{file.path}: {ROPE_FACTORS} holds rotary factors that follow from no scaling of the type llama3",
            "take the model as a folder of transformers, whose config.json has the numbers",
        )
    return replace(config, rope_scaling=scaling)


def _near(a: Any, b: Any) -> bool:
    import numpy as np

    return bool(np.allclose(a, b, rtol=1e-4, atol=0))


def _special_ids(file: GgufFile, vocab_size: int) -> tuple[int | None, tuple[int, ...]]:
    """The token that begins a text and those that end one."""
    found = [
        file.fields.whole(key, 0, vocab_size - 1) if key in file.values else None
        for key in (f"tokenizer.ggml.{name}_token_id" for name in ("bos", "eos", "eot", "eom"))
    ]
    return found[0], tuple(dict.fromkeys(id_ for id_ in found[1:] if id_ is not None))


def _vocabulary(file: GgufFile, config: ModelConfig) -> Vocabulary:
    model = file.fields.text("tokenizer.ggml.model") if "tokenizer.ggml.model" in file.values else "no"
    if model != "gpt2":
        raise DataError(
            f"{file.path}: a tokenizer of type {shown(model)}, expected gpt2 (byte-level BPE)",
            "take the model as a folder of transformers, with its tokenizer.json",
        )
    if "tokenizer.ggml.pre" not in file.values:
        raise DataError(
            f"{file.path}: no tokenizer.ggml.pre: how its tokenizer splits a text is not known",
            "take the model as a folder of transformers, with its tokenizer.json",
        )
    tokens = file.texts("tokenizer.ggml.tokens")
    key = "tokenizer.ggml.token_type"
    types = file.wholes(key) if key in file.values else [1] * len(tokens)
    if len(tokens) != config.vocab_size or len(types) != len(tokens):
        raise DataError(
            f"{file.path}: {len(tokens):,} tokens with {len(types):,} types, "
            f"the model has {config.vocab_size:,} embeddings"
        )
    pre = file.fields.text("tokenizer.ggml.pre")
    key = "tokenizer.ggml.add_bos_token"
    # Llama 3 puts it before every text unless the file says otherwise.
    add_bos = file.fields.flag(key) if key in file.values else pre in ("llama-bpe", "llama3", "llama-v3")
    key = "tokenizer.ggml.add_eos_token"
    add_eos = file.fields.flag(key) if key in file.values else False
    return Vocabulary(pre, tokens, types, file.texts("tokenizer.ggml.merges"), add_bos, add_eos)
