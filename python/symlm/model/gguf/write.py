"""Writing a model as a GGUF file that llama.cpp loads as it is: shape, weights, tokenizer, where it comes from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import _symlm
from ...config.engine import model_shape
from ...config.model_config import ModelConfig
from ...errors import DataError, UserError
from ...units import format_count
from ..companions import DEFAULT_TEMPLATE
from ..tensors import Tensor, from_floats
from .file import Q8_BLOCK
from .layout import ARCHITECTURE, ROPE_FACTORS, gguf_name, rope_factors, rotated_heads, to_pairs
from .read import CHAT_TEMPLATE, CHAT_TEMPLATES, FACTS_PREFIX, ROPE_SCALING
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ..tensors import Floats

GGUF_DTYPES = ("f32", "f16", "bf16", "q8_0")
_FILE_TYPES = {"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7}
"""Values of `general.file_type`."""

_QUANTIZATION_VERSION = 2


def load_library() -> Any:
    """The package `gguf`; UserError when it is not installed."""
    try:
        import gguf
    except ImportError:
        raise UserError("the package gguf is not installed", "pip install 'symlm[gguf]'") from None
    # It tells about every file that it opens.
    logging.getLogger("gguf").setLevel(logging.ERROR)
    return gguf


def unquantisable(config: ModelConfig) -> list[str]:
    """Tensors whose rows do not divide into blocks of Q8_0, each with the length of its rows."""
    table = ((parameter.name, parameter.shape) for parameter in _symlm.parameter_table(model_shape(config)))
    return [f"{name} ({shape[-1]:,})" for name, shape in table if len(shape) == 2 and shape[-1] % Q8_BLOCK]


def quantisation_note(config: ModelConfig) -> str | None:
    """What there is to know before a model is trained that q8_0 could not hold; None otherwise."""
    sizes = {"hidden size": config.hidden_size, "intermediate size": config.intermediate_size}
    odd = [f"{name} {size:,}" for name, size in sizes.items() if size % Q8_BLOCK]
    if not odd:
        return None
    return (
        f"this model cannot be exported as q8_0, only as f32, f16 or bf16: {' and '.join(odd)} "
        f"{'are' if len(odd) > 1 else 'is'} not a multiple of {Q8_BLOCK}"
    )


def check_quantisable(config: ModelConfig) -> None:
    """DataError that names the tensors which q8_0 cannot hold."""
    bad = unquantisable(config)
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise DataError(
            f"q8_0 needs rows of a multiple of {Q8_BLOCK} floats, found {', '.join(bad[:3])}{more}",
            "choose --dtype f16; a model to quantise needs --hidden-size and --intermediate-size that "
            f"{Q8_BLOCK} divides",
        )


@dataclass(frozen=True)
class Extras:
    """What a file holds besides the model: nothing is computed from it."""

    facts: Mapping[str, str | int | float]
    """Where the model comes from, put under `symlm.`: texts, whole numbers from 0, floats."""
    settings: Mapping[str, str | int | float]
    """Keys of the defaults for generating; a whole number is a signed one of 32 bits, a float one of 32."""
    chat_templates: Mapping[str, str]
    """Name -> template; "default" is the one that is taken where none is asked for."""
    token_ids: Mapping[str, int]
    """Keys of special tokens -> id."""


@dataclass(frozen=True)
class _Entry:
    name: str
    kind: str
    shape: tuple[int, ...]
    make: Callable[[], Floats]


def write_gguf(
    path: Path,
    config: ModelConfig,
    tensors: Sequence[Tensor],
    vocabulary: Vocabulary,
    dtype: str,
    *,
    name: str,
    extras: Extras,
) -> None:
    """Write the file `path`: matrices as `dtype` (f32, f16, bf16 or q8_0), vectors as f32.

    DataError names a tensor that `dtype` cannot hold.
    """
    gguf = load_library()
    if dtype == "q8_0":
        check_quantisable(config)
    writer = _writer_class(gguf)(None, ARCHITECTURE)
    _add_shape(writer, config, dtype, name)
    _add_vocabulary(writer, config, vocabulary)
    _add_extras(writer, extras)
    entries = _entries(config, tensors, dtype)
    for entry in entries:
        kind = gguf.GGMLQuantizationType[entry.kind]
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        rows = [*entry.shape[:-1], entry.shape[-1] // block * block_bytes]
        size = 1
        for length in rows:
            size *= length
        writer.add_tensor_info(entry.name, rows, _as_bytes(), size, kind)
    try:
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for entry in entries:
            writer.write_tensor_data(_packed(gguf, entry))
    finally:
        writer.close()


def _as_bytes() -> Any:
    """The element type that makes the library take shapes in bytes."""
    import numpy as np

    return np.dtype(np.uint8)


def _packed(gguf: Any, entry: _Entry) -> npt.NDArray[np.uint8]:
    import numpy as np

    values = np.ascontiguousarray(entry.make(), dtype=np.float32)
    if entry.kind != "Q8_0":
        return from_floats(values, entry.kind, entry.name)
    scales = np.abs(values.reshape(-1, Q8_BLOCK)).max(axis=1) / 127
    if not (scales < np.finfo(np.float16).max).all():
        raise DataError(f"{entry.name}: values that are too large for q8_0 or not finite", "choose --dtype f32")
    packed: npt.NDArray[np.uint8] = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    return packed


def _entries(config: ModelConfig, tensors: Sequence[Tensor], dtype: str) -> list[_Entry]:
    entries = [
        _Entry(
            gguf_name(tensor.name),
            dtype.upper() if len(tensor.shape) == 2 else "F32",
            tensor.shape,
            _maker(tensor, rotated_heads(tensor.name, config)),
        )
        for tensor in tensors
    ]
    scaling = config.rope_scaling
    if scaling is not None:
        entries.append(_Entry(ROPE_FACTORS, "F32", (config.head_dim // 2,), lambda: rope_factors(config, scaling)))
    return entries


def _maker(tensor: Tensor, heads: int) -> Callable[[], Floats]:
    return lambda: to_pairs(tensor.floats(), heads) if heads else tensor.floats()


def _add_shape(writer: Any, config: ModelConfig, dtype: str, name: str) -> None:
    """Whole numbers are uint32 and other numbers float32: llama.cpp refuses anything else."""
    writer.add_type("model")
    writer.add_name(name)
    writer.add_size_label(format_count(config.parameters))
    writer.add_file_type(_FILE_TYPES[dtype])
    if dtype == "q8_0":
        writer.add_quantization_version(_QUANTIZATION_VERSION)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.seq_len)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    if config.rope_scaling is not None:
        # The file has only the factors that follow from them.
        for key, value in config.rope_scaling.as_dict().items():
            add = writer.add_uint32 if isinstance(value, int) else writer.add_float64
            add(ROPE_SCALING + key, value)


def _add_vocabulary(writer: Any, config: ModelConfig, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    # Without them llama.cpp takes 11 for both.
    ends = config.eos_token_ids
    begin = config.bos_token_id if config.bos_token_id is not None else (ends[0] if ends else 0)
    writer.add_bos_token_id(begin)
    writer.add_eos_token_id(ends[0] if ends else begin)
    for key, number in zip(("eot", "eom"), ends[1:], strict=False):
        writer.add_uint32(f"tokenizer.ggml.{key}_token_id", number)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(vocabulary.add_eos)


def _add_extras(writer: Any, extras: Extras) -> None:
    for key, number in extras.token_ids.items():
        writer.add_uint32(key, number)
    for key, value in extras.settings.items():
        add = {str: writer.add_string, int: writer.add_int32, float: writer.add_float32}[type(value)]
        add(key, value)
    named = [template for template in extras.chat_templates if template != DEFAULT_TEMPLATE]
    if DEFAULT_TEMPLATE in extras.chat_templates:
        writer.add_string(CHAT_TEMPLATE, extras.chat_templates[DEFAULT_TEMPLATE])
    for name in named:
        writer.add_string(f"{CHAT_TEMPLATE}.{name}", extras.chat_templates[name])
    if named:
        writer.add_array(CHAT_TEMPLATES, named)
    for key, value in extras.facts.items():
        add = {str: writer.add_string, int: writer.add_uint64, float: writer.add_float64}[type(value)]
        add(FACTS_PREFIX + key, value)


def _writer_class(gguf: Any) -> Any:
    """The writer of the library, which leaves out empty lists; llama.cpp wants the list of merges in any case."""
    value = gguf.GGUFValueType

    class Writer(gguf.GGUFWriter):  # type: ignore[misc, unused-ignore]
        def add_token_merges(self, merges: Sequence[str]) -> None:
            self.add_key_value("tokenizer.ggml.merges", merges, value.ARRAY, sub_type=value.STRING)

        def _pack_val(self, val: Any, vtype: Any, *arguments: Any, **keywords: Any) -> Any:
            if vtype == value.ARRAY and not len(val):
                kinds = (int(vtype), int(value.STRING))
                return b"".join(kind.to_bytes(4, "little") for kind in kinds) + bytes(8)
            return super()._pack_val(val, vtype, *arguments, **keywords)

    return Writer
