"""How llama.cpp stores a Llama model: names of tensors, order of the rows of queries and keys, rotary factors."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, TypeVar

from ...config.model_config import ModelConfig
from ...config.rope import RopeScaling

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ..tensors import Bytes, Floats

    Rows = TypeVar("Rows", Floats, Bytes)

ARCHITECTURE = "llama"
ROPE_FACTORS = "rope_freqs.weight"

_OUTSIDE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_IN_BLOCK = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}
_BLOCK = re.compile(r"model\.layers\.([0-9]{1,4})\.(.+)")


def gguf_name(name: str) -> str:
    """The name in a GGUF file of a tensor of a Llama model of transformers."""
    block = _BLOCK.fullmatch(name)
    return _OUTSIDE[name] if block is None else f"blk.{block[1]}.{_IN_BLOCK[block[2]]}"


def rotated_heads(name: str, config: ModelConfig) -> int:
    """Heads of a tensor whose rows stand in another order in a GGUF file (queries, keys), 0 for all other tensors."""
    if name.endswith("self_attn.q_proj.weight"):
        return config.num_heads
    return config.num_kv_heads if name.endswith("self_attn.k_proj.weight") else 0


def to_pairs(rows: Rows, heads: int) -> Rows:
    """Rows of queries or keys [heads x head_dim, ..] as llama.cpp has them: the two of a rotated pair side by side,
    where transformers has the first halves of all pairs before the second halves."""
    return _swapped(rows, heads, 2)


def from_pairs(rows: Rows, heads: int) -> Rows:
    """The inverse of `to_pairs`."""
    return _swapped(rows, heads, rows.shape[0] // heads // 2)


def _swapped(rows: Rows, heads: int, outer: int) -> Rows:
    parts = rows.reshape(heads, outer, rows.shape[0] // heads // outer, rows.shape[1])
    return parts.swapaxes(1, 2).reshape(rows.shape)


def rope_factors(config: ModelConfig, scaling: RopeScaling) -> npt.NDArray[np.float32]:
    """By how much each rotary frequency is divided, float32 of shape [head_dim / 2]."""
    import numpy as np

    pairs = np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim
    wavelengths = 2 * math.pi * np.float64(config.rope_theta) ** pairs
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    # 0 for long waves, which are stretched, 1 for short ones, which stay.
    kept = np.clip((scaling.original_max_position_embeddings / wavelengths - low) / (high - low), 0, 1)
    return (1 / ((1 - kept) / scaling.factor + kept)).astype(np.float32)


_USUAL_LENGTHS = tuple(1 << power for power in range(10, 18))


def scaling_of(config: ModelConfig, factors: npt.NDArray[np.float32]) -> RopeScaling | None:
    """The scaling with the usual parameters (1, 4, and an original length that is a power of two) that has these
    factors; None when there is none."""
    import numpy as np

    factor = float(factors.max())
    if not (math.isfinite(factor) and factor > 1 and (factors >= 1).all()):
        return None
    for length in _USUAL_LENGTHS:
        scaling = RopeScaling(
            factor=factor, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=length
        )
        if np.allclose(rope_factors(config, scaling), factors, rtol=1e-5, atol=0):
            return scaling
    return None
