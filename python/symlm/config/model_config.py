"""Shape of a model, its checks, and the `config.json` that stands beside the weights."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError, UsageError, shown
from ..layout import GENERATION_CONFIG
from ..system.reading import Fields, parse_json, read_object
from ..system.values import items, plain, whole
from .rope import ROPE_THETA, RopeScaling, read_rope

RMS_NORM_EPS = 1e-5
INIT_STD = 0.02
EOT_ID = 0
MAX_PARAMETERS = 20_000_000_000

_HF_BOS, _HF_EOS = 1, 2
"""What `LlamaConfig` of transformers has where a `config.json` says nothing."""
_MOST_EOS = 64


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
    rope_scaling: RopeScaling | None = None
    bos_token_id: int | None = EOT_ID
    """Token before the first one of a text, None: none."""
    eos_token_ids: tuple[int, ...] = (EOT_ID,)
    """Tokens that end a text; the first of them stands between documents."""
    positions: int | None = None
    """Positions that the model was made for, where a run with shorter windows starts from it; None: `seq_len`."""

    def __post_init__(self) -> None:
        for name in _SIZES:
            value = plain(getattr(self, name))
            kind = (int, float) if name in _FLOATS else int
            if isinstance(value, bool) or not isinstance(value, kind) or not 0 < value < math.inf:
                expected = "a number above 0" if name in _FLOATS else "a whole number above 0"
                raise UsageError(f"{name}: expected {expected}, found {shown(value)}")
            object.__setattr__(self, name, value)
        if not isinstance(self.tie_embeddings, bool):
            raise UsageError(f"tie_embeddings: expected True or False, found {shown(self.tie_embeddings)}")
        if self.rope_scaling is not None and not isinstance(self.rope_scaling, RopeScaling):
            raise UsageError(f"rope_scaling: expected a RopeScaling, found {shown(self.rope_scaling)}")
        object.__setattr__(self, "positions", plain(self.positions))

        def token(name: str, raw: Any) -> int:
            return whole(name, raw, 0, self.vocab_size - 1, ", a token of the vocabulary")

        if self.bos_token_id is not None:
            object.__setattr__(self, "bos_token_id", token("bos_token_id", self.bos_token_id))
        ends = items("eos_token_ids", self.eos_token_ids, "token ids")
        object.__setattr__(self, "eos_token_ids", tuple(token("eos_token_ids", id_) for id_ in ends))
        heads = _divisors(self.hidden_size, self.num_heads)
        if self.hidden_size % self.num_heads:
            raise UsageError(
                f"{self.num_heads} heads do not divide the hidden size {self.hidden_size}",
                f"with --hidden-size {self.hidden_size}, --num-heads can be {heads}",
            )
        if self.num_heads % self.num_kv_heads:
            raise UsageError(
                f"{self.num_kv_heads} key/value heads do not divide the {self.num_heads} heads",
                f"--num-kv-heads can be {_divisors(self.num_heads, self.num_kv_heads, even=False)}",
            )
        if self.head_dim % 2:
            raise UsageError(
                f"a head of {self.head_dim} floats is odd; rotary embedding needs pairs",
                f"--num-heads can be {heads}",
            )
        _check_positions(self.seq_len if self.positions is None else self.positions, self.seq_len)
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
        """The shape as a run keeps it: under the names of `ModelShape` of the extension module."""
        shape = {name: getattr(self, name) for name in (*_SIZES, "tie_embeddings")}
        if self.rope_scaling is not None:
            shape["rope_scaling"] = self.rope_scaling.as_dict()
        return shape

    def other(self) -> str:
        """What the model has besides its sizes, as JSON."""
        values: dict[str, Any] = {name: getattr(self, name) for name in _OTHER}
        values["rope_scaling"] = None if self.rope_scaling is None else self.rope_scaling.as_dict()
        values["positions"] = self.positions or self.seq_len
        return json.dumps(values)

    def with_other(self, text: str) -> ModelConfig:
        """This shape with what `other` of a model gave; UsageError when the text is something else."""
        try:
            values = parse_json(text)
            scaling = values["rope_scaling"]
            return dataclasses.replace(
                self,
                rope_theta=float(values["rope_theta"]),
                rms_norm_eps=float(values["rms_norm_eps"]),
                rope_scaling=None if scaling is None else RopeScaling(**scaling),
                bos_token_id=values["bos_token_id"],
                eos_token_ids=tuple(values["eos_token_ids"]),
                positions=values["positions"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(
                f"architecture: found {shown(text)}, expected what symlm wrote ({error})", "restore the file of the run"
            ) from None

    def to_hf(self) -> dict[str, Any]:
        """The shape as `config.json` of a `LlamaForCausalLM`: fields of transformers 4 and of 5 alike."""
        rope: dict[str, Any] = {"rope_type": "default"}
        old: dict[str, Any] = {}
        if self.rope_scaling is not None:
            rope = {"rope_type": "llama3", **self.rope_scaling.as_dict()}
            old = {"rope_scaling": rope}
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
            "max_position_embeddings": self.positions or self.seq_len,
            "initializer_range": INIT_STD,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            **old,
            "rope_parameters": {**rope, "rope_theta": self.rope_theta},
            "tie_word_embeddings": self.tie_embeddings,
            "attention_bias": False,
            "mlp_bias": False,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": _one_or_list(self.eos_token_ids),
            "torch_dtype": "float32",
            "dtype": "float32",
        }

    @classmethod
    def from_hf(cls, path: Path) -> ModelConfig:
        """Read a `config.json`, and the ids of a `generation_config.json` beside it; DataError when it is not that of a
        Llama model that symlm computes as transformers does."""
        from .._symlm import MAX_LAYERS, MAX_POSITIONS, MAX_VOCAB, MAX_WIDTH

        what = "model configuration"
        raw = read_object(path, what)
        _check_supported(path, raw)
        fields = Fields(path, raw, what)
        heads = fields.whole("num_attention_heads", 1, MAX_WIDTH)
        kv_heads = heads if raw.get("num_key_value_heads") is None else fields.whole("num_key_value_heads", 1, heads)
        vocab_size = fields.whole("vocab_size", 1, MAX_VOCAB)
        bos, eos = _special_ids(path, raw, vocab_size)
        try:
            rope = read_rope(path, raw, MAX_POSITIONS)
            config = cls(
                vocab_size=vocab_size,
                hidden_size=fields.whole("hidden_size", 1, MAX_WIDTH),
                intermediate_size=fields.whole("intermediate_size", 1, MAX_WIDTH),
                num_layers=fields.whole("num_hidden_layers", 1, MAX_LAYERS),
                num_heads=heads,
                num_kv_heads=kv_heads,
                seq_len=fields.whole("max_position_embeddings", 1, MAX_POSITIONS),
                rope_theta=rope.theta,
                rms_norm_eps=fields.number("rms_norm_eps") if "rms_norm_eps" in raw else 1e-6,
                tie_embeddings=fields.flag("tie_word_embeddings") if "tie_word_embeddings" in raw else False,
                rope_scaling=rope.scaling,
                bos_token_id=bos,
                eos_token_ids=eos,
            )
        except UsageError as error:
            raise DataError(f"{path}: {error.message}") from None
        if raw.get("head_dim") not in (None, config.head_dim):
            raise DataError(
                f"{path}: head_dim {shown(raw['head_dim'])} is not supported, expected hidden_size / "
                f"num_attention_heads = {config.head_dim}"
            )
        return config


_SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads", "num_kv_heads", "seq_len",
    "rope_theta", "rms_norm_eps",
)  # fmt: skip
"""Fields of `ModelConfig` that are numbers above 0."""

_MOST_DIVISORS = 12
_MOST_SEARCHED = 1 << 40
_FLOATS = ("rope_theta", "rms_norm_eps")


def _check_positions(positions: Any, seq_len: int) -> None:
    """UsageError unless windows of `seq_len` tokens fit, and the engine could have as many."""
    # Here and not above, since the help of a command needs no extension module.
    from .._symlm import MAX_POSITIONS

    if type(positions) is not int or not seq_len <= positions <= MAX_POSITIONS:
        raise UsageError(f"positions: expected {seq_len:,} to {MAX_POSITIONS:,}, found {shown(positions)}")


_OTHER = ("rope_theta", "rms_norm_eps", "bos_token_id", "eos_token_ids")
"""Fields that are not sizes, but for the scaling."""

_ONLY: dict[str, tuple[Any, ...]] = {
    "model_type": ("llama",),
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "is_causal": (True,),
    "sliding_window": (None,),
    "use_sliding_window": (False,),
    "attention_chunk_size": (None,),
    "partial_rotary_factor": (1.0,),
    "quantization_config": (None,),
    "per_layer_config": (None, {}),
    "configuration_files": (None, []),
    "transformers_weights": (None, "model.safetensors"),
}
"""Fields of a `config.json` that change what a model computes, or where it lies, and what symlm computes: one thing by
one name or by several."""

_FULL_ATTENTION = ("full_attention", "attention")
"""Names of the type of a layer that sees every earlier position."""


def _check_supported(path: Path, raw: Mapping[str, Any]) -> None:
    """DataError that names everything in a `config.json` that symlm would compute otherwise."""
    if raw.get("model_type") != "llama":
        raise DataError(
            f"{path}: expected model_type llama, found {shown(raw.get('model_type'))}",
            "only models of the Llama architecture can be opened",
        )
    wrong = [
        f"{name} {shown(raw[name])} (expected {shown(known[0])})"
        for name, known in _ONLY.items()
        if raw.get(name) not in (*known, None)
    ]
    kinds = raw.get("architectures")
    if kinds and (not isinstance(kinds, list) or "LlamaForCausalLM" not in kinds):
        wrong.append(f"architectures {shown(kinds)} (expected LlamaForCausalLM)")
    layers, count = raw.get("layer_types"), raw.get("num_hidden_layers")
    if layers is not None:
        if not isinstance(layers, list) or any(kind not in _FULL_ATTENTION for kind in layers):
            wrong.append(f"layer_types {shown(layers)} (expected {_FULL_ATTENTION[0]} alone)")
        elif len(layers) != count:
            wrong.append(f"layer_types of {len(layers)} layers (expected the {shown(count)} of num_hidden_layers)")
    if wrong:
        raise DataError(f"{path}: not supported: {'; '.join(wrong)}")


def _special_ids(path: Path, raw: Mapping[str, Any], vocab_size: int) -> tuple[int | None, tuple[int, ...]]:
    """The token that begins a text and the tokens that end one. As in transformers, a `generation_config.json` beside
    the `config.json` decides; what it does not name is that of `config.json`, whose first end stays the first."""
    begins = _ids(path, raw, "bos_token_id", vocab_size, _HF_BOS)
    ends = _ids(path, raw, "eos_token_id", vocab_size, _HF_EOS)
    beside = path.with_name(GENERATION_CONFIG)
    if beside.is_file():
        more = read_object(beside, "generation configuration")
        begins = _ids(beside, more, "bos_token_id", vocab_size, None) or begins
        if named := _ids(beside, more, "eos_token_id", vocab_size, None):
            ends = [id_ for id_ in ends if id_ in named] + [id_ for id_ in named if id_ not in ends]
    return begins[0] if begins else None, tuple(ends)


def note_of_ends(path: Path, config: ModelConfig) -> str | None:
    """A sentence for the user where the ends of a text are not those of transformers, which takes them from
    `generation_config.json` alone and, without one, from what `config.json` says in so many words."""
    beside = path.with_name(GENERATION_CONFIG)
    place = beside if beside.is_file() else path
    if not config.eos_token_ids or read_object(place, "generation configuration").get("eos_token_id") is not None:
        return None
    ends = ", ".join(map(str, config.eos_token_ids))
    return f"{place} names no eos_token_id: a text ends at token {ends} here, and nowhere in transformers"


def _ids(path: Path, raw: Mapping[str, Any], name: str, vocab_size: int, default: int | None) -> list[int]:
    """The token ids of a field that holds one, several, or null; a `default` beyond the vocabulary is none."""
    if name not in raw:
        return [] if default is None or default >= vocab_size else [default]
    value = raw[name]
    if value is None:
        return []
    several = value if isinstance(value, list) else [value]
    if len(several) > _MOST_EOS:
        raise DataError(f"{path}: {name}: found {len(several)} tokens, expected at most {_MOST_EOS}")
    items = [Fields(path, {name: item}, "model configuration") for item in several]
    return list(dict.fromkeys(item.whole(name, 0, vocab_size - 1) for item in items))


def _one_or_list(ids: tuple[int, ...]) -> int | list[int] | None:
    """Token ids as a `config.json` has them."""
    if not ids:
        return None
    return ids[0] if len(ids) == 1 else list(ids)


def _divisors(number: int, asked: int, even: bool = True) -> str:
    """The divisors of `number` nearest to the one that was asked for; with `even` those that leave an even quotient."""
    small = [d for d in range(1, math.isqrt(min(number, _MOST_SEARCHED)) + 1) if number % d == 0]
    found = sorted({*small, *(number // d for d in small)})
    found = [d for d in found if not even or number // d % 2 == 0]
    nearest = sorted(sorted(found, key=lambda d: abs(d - asked))[:_MOST_DIVISORS])
    more = ", .." if len(nearest) < len(found) else ""
    return ", ".join(f"{d:,}" for d in nearest) + more if found else "none; choose an even --hidden-size"
