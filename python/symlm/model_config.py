"""Shape of a model, its checks, and the `config.json` that stands beside the weights."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import DataError, UsageError, shown
from .reading import Fields, read_object

ROPE_THETA = 10000.0
RMS_NORM_EPS = 1e-5
INIT_STD = 0.02
EOT_ID = 0
MAX_PARAMETERS = 20_000_000_000
MAX_VOCAB, MAX_WIDTH, MAX_LAYERS, MAX_POSITIONS = 1 << 20, 1 << 16, 1 << 10, 1 << 17
"""Sizes of a `config.json` beyond these are refused; the engine has the same limits."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of a Llama-architecture model. Sizes count floats, heads or tokens."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    seq_len: int
    rope_theta: float = ROPE_THETA
    rms_norm_eps: float = RMS_NORM_EPS
    tie_embeddings: bool = True

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, bool) and (not math.isfinite(value) or value <= 0):
                raise UsageError(f"{field.name}: expected a number above 0, found {value}")
        if self.hidden_size % self.num_heads:
            raise UsageError(
                f"{self.num_heads} heads do not divide the hidden size {self.hidden_size}",
                f"with --hidden-size {self.hidden_size}, --num-heads can be {_divisors(self.hidden_size)}",
            )
        if self.num_heads % self.num_kv_heads:
            raise UsageError(
                f"{self.num_kv_heads} key/value heads do not divide the {self.num_heads} heads",
                f"--num-kv-heads can be {_divisors(self.num_heads, even_quotient=False)}",
            )
        if self.head_dim % 2:
            raise UsageError(
                f"a head of {self.head_dim} floats is odd; rotary embedding needs pairs",
                f"--num-heads can be {_divisors(self.hidden_size)}",
            )
        if self.parameters > MAX_PARAMETERS:
            raise UsageError(
                f"the model would have {self.parameters:,} parameters; symlm is for small ones",
                "choose a --preset, or smaller sizes",
            )

    @property
    def head_dim(self) -> int:
        """Floats in one head."""
        return self.hidden_size // self.num_heads

    @property
    def parameters(self) -> int:
        """Number of weights."""
        kv = self.num_kv_heads * self.head_dim
        attention = self.hidden_size * (2 * self.hidden_size + 2 * kv)
        block = attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size
        tables = 1 if self.tie_embeddings else 2
        return self.num_layers * block + tables * self.vocab_size * self.hidden_size + self.hidden_size

    def as_dict(self) -> dict[str, Any]:
        """The shape under the names that the extension module reads."""
        return dataclasses.asdict(self)

    def to_hf(self) -> dict[str, Any]:
        """The shape as `config.json` of a `LlamaForCausalLM`."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": self.seq_len,
            "initializer_range": INIT_STD,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "tie_word_embeddings": self.tie_embeddings,
            "attention_bias": False,
            "mlp_bias": False,
            "bos_token_id": EOT_ID,
            "eos_token_id": EOT_ID,
            "torch_dtype": "float32",
            "dtype": "float32",
        }

    @classmethod
    def from_hf(cls, path: Path) -> ModelConfig:
        """Read a `config.json`; DataError when it is not that of a Llama model symlm can run."""
        what = "model configuration"
        raw = read_object(path, what)
        if raw.get("model_type") != "llama":
            raise DataError(f"{path}: expected model_type llama, found {shown(raw.get('model_type'))}")
        if raw.get("attention_bias") or raw.get("mlp_bias") or raw.get("hidden_act", "silu") != "silu":
            raise DataError(f"{path}: biases and activations other than silu are not supported")
        fields = Fields(path, raw, what)
        rope: dict[str, Any] = {}
        for name in ("rope_scaling", "rope_parameters"):
            if raw.get(name):
                rope = fields.object(name)
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            raise DataError(f"{path}: rope type {shown(kind)} is not supported")
        heads = fields.whole("num_attention_heads", 1, MAX_WIDTH)
        theta = fields if "rope_theta" in raw else Fields(path, {"rope_theta": ROPE_THETA, **rope}, what)
        try:
            config = cls(
                vocab_size=fields.whole("vocab_size", 1, MAX_VOCAB),
                hidden_size=fields.whole("hidden_size", 1, MAX_WIDTH),
                intermediate_size=fields.whole("intermediate_size", 1, MAX_WIDTH),
                num_layers=fields.whole("num_hidden_layers", 1, MAX_LAYERS),
                num_heads=heads,
                num_kv_heads=fields.whole("num_key_value_heads", 1, heads) if raw.get("num_key_value_heads") else heads,
                seq_len=fields.whole("max_position_embeddings", 1, MAX_POSITIONS),
                rope_theta=theta.number("rope_theta"),
                rms_norm_eps=fields.number("rms_norm_eps") if "rms_norm_eps" in raw else 1e-6,
                tie_embeddings=fields.flag("tie_word_embeddings") if "tie_word_embeddings" in raw else False,
            )
        except UsageError as error:
            raise DataError(f"{path}: {error.message}") from None
        if raw.get("head_dim") not in (None, config.head_dim):
            raise DataError(f"{path}: head_dim {shown(raw['head_dim'])} is not hidden_size / num_attention_heads")
        return config


def _divisors(number: int, even_quotient: bool = True) -> str:
    """The divisors of `number` as text, nearest to what people choose first dropped if there are many."""
    found = [
        d for d in range(1, min(number, 1024) + 1) if number % d == 0 and (not even_quotient or number // d % 2 == 0)
    ]
    return ", ".join(map(str, found[:12])) if found else "none; choose an even --hidden-size"
