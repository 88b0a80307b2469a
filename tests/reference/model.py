"""A Llama model in float64 NumPy: logits, mean cross-entropy and the gradient of every parameter by reverse mode.

Letters in shapes as in `layers`. Parameters are a dict with the names and shapes of `LlamaForCausalLM`. The model
computes in the dtype of its parameters; `float64` is what makes it an oracle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reference import layers
from reference.layers import Array, Ids

Parameters = dict[str, Array]

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
HEAD = "lm_head.weight"


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a model; field names as in the configuration that the core reads."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    seq_len: int
    tie_embeddings: bool = True
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5
    rope_scaling: Mapping[str, float] | None = None

    @property
    def head_dim(self) -> int:
        """Elements of one head."""
        return self.hidden_size // self.num_heads

    @property
    def head_name(self) -> str:
        """Name of the parameter that turns hidden states into logits."""
        return EMBEDDING if self.tie_embeddings else HEAD


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter."""
    hidden, inner = config.hidden_size, config.intermediate_size
    key_value = config.num_kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab_size, hidden)}
    for index in range(config.num_layers):
        prefix = f"model.layers.{index}."
        shapes[prefix + "input_layernorm.weight"] = (hidden,)
        shapes[prefix + "self_attn.q_proj.weight"] = (hidden, hidden)
        shapes[prefix + "self_attn.k_proj.weight"] = (key_value, hidden)
        shapes[prefix + "self_attn.v_proj.weight"] = (key_value, hidden)
        shapes[prefix + "self_attn.o_proj.weight"] = (hidden, hidden)
        shapes[prefix + "post_attention_layernorm.weight"] = (hidden,)
        shapes[prefix + "mlp.gate_proj.weight"] = (inner, hidden)
        shapes[prefix + "mlp.up_proj.weight"] = (inner, hidden)
        shapes[prefix + "mlp.down_proj.weight"] = (hidden, inner)
    shapes[FINAL_NORM] = (hidden,)
    if not config.tie_embeddings:
        shapes[HEAD] = (config.vocab_size, hidden)
    return shapes


def random_parameters(config: ModelConfig, seed: int, scale: float = 0.1) -> Parameters:
    """Seeded float64 parameters: matrices normal with deviation `scale`, norm weights scattered around one."""
    rng = np.random.default_rng(seed)
    return {
        name: scale * rng.standard_normal(shape) if len(shape) == 2 else 1.0 + 0.2 * rng.standard_normal(shape)
        for name, shape in parameter_shapes(config).items()
    }


@dataclass(frozen=True)
class View:
    """Where tokens stand, and which of them may see each other."""

    angles: NDArray[np.float64]  # [T, D / 2], or of each window [B, 1, T, D / 2]
    within: NDArray[np.bool_] | None  # [B, T, T]; None where all tokens of a window may


def view(config: ModelConfig, positions: int, begins: NDArray[np.bool_] | None) -> View:
    """Windows of so many positions; `begins` [B, T] says with which of them documents begin, where these are apart."""
    angles = layers.rotary_angles(positions, config.head_dim, config.rope_theta, config.rope_scaling)
    if begins is None:
        return View(angles, None)
    return View(angles[layers.document_positions(begins)][:, None], layers.same_document(begins))


@dataclass(frozen=True)
class LayerTrace:
    """What a layer's backward pass needs of its forward pass."""

    x: Array  # [B, T, N], the input of the layer
    attention_input: Array  # [B, T, N], after the first norm
    q: Array  # [B, H, T, D], rotated
    k: Array  # [B, K, T, D], rotated
    v: Array  # [B, K, T, D]
    heads: Array  # [B, T, N], attention output before the output projection
    middle: Array  # [B, T, N], after the first residual addition
    mlp_input: Array  # [B, T, N], after the second norm
    gate: Array  # [B, T, I]
    up: Array  # [B, T, I]


def _layer_forward(config: ModelConfig, p: Parameters, prefix: str, x: Array, seen: View) -> tuple[Array, LayerTrace]:
    """One transformer layer; x [B, T, N] to (x [B, T, N], trace)."""
    attention_input = layers.rms_norm(x, p[prefix + "input_layernorm.weight"], config.rms_norm_eps)
    q = layers.linear(attention_input, p[prefix + "self_attn.q_proj.weight"])
    k = layers.linear(attention_input, p[prefix + "self_attn.k_proj.weight"])
    v = layers.split_heads(layers.linear(attention_input, p[prefix + "self_attn.v_proj.weight"]), config.num_kv_heads)
    q = layers.rotate(layers.split_heads(q, config.num_heads), seen.angles)
    k = layers.rotate(layers.split_heads(k, config.num_kv_heads), seen.angles)
    heads = layers.merge_heads(layers.attention(q, k, v, seen.within))
    middle = x + layers.linear(heads, p[prefix + "self_attn.o_proj.weight"])

    mlp_input = layers.rms_norm(middle, p[prefix + "post_attention_layernorm.weight"], config.rms_norm_eps)
    gate = layers.linear(mlp_input, p[prefix + "mlp.gate_proj.weight"])
    up = layers.linear(mlp_input, p[prefix + "mlp.up_proj.weight"])
    out = middle + layers.linear(layers.swiglu(gate, up), p[prefix + "mlp.down_proj.weight"])
    return out, LayerTrace(x, attention_input, q, k, v, heads, middle, mlp_input, gate, up)


def _layer_backward(
    config: ModelConfig, p: Parameters, prefix: str, trace: LayerTrace, dout: Array, seen: View, gradients: Parameters
) -> Array:
    """Put the layer's gradients into `gradients`; dout [B, T, N] to dx [B, T, N]."""

    def back_through(name: str, dy: Array, x: Array) -> Array:
        dx, gradients[prefix + name] = layers.linear_backward(dy, x, p[prefix + name])
        return dx

    dactivated = back_through("mlp.down_proj.weight", dout, layers.swiglu(trace.gate, trace.up))
    dgate, dup = layers.swiglu_backward(dactivated, trace.gate, trace.up)
    dmlp_input = back_through("mlp.gate_proj.weight", dgate, trace.mlp_input)
    dmlp_input = dmlp_input + back_through("mlp.up_proj.weight", dup, trace.mlp_input)
    norm = prefix + "post_attention_layernorm.weight"
    dmiddle, gradients[norm] = layers.rms_norm_backward(dmlp_input, trace.middle, p[norm], config.rms_norm_eps)
    dmiddle = dmiddle + dout

    dheads = back_through("self_attn.o_proj.weight", dmiddle, trace.heads)
    dheads = layers.split_heads(dheads, config.num_heads)
    dq, dk, dv = layers.attention_backward(dheads, trace.q, trace.k, trace.v, seen.within)
    dq, dk = layers.rotate(dq, -seen.angles), layers.rotate(dk, -seen.angles)
    dattention_input = back_through("self_attn.q_proj.weight", layers.merge_heads(dq), trace.attention_input)
    for name, dhead in (("self_attn.k_proj.weight", dk), ("self_attn.v_proj.weight", dv)):
        dattention_input = dattention_input + back_through(name, layers.merge_heads(dhead), trace.attention_input)
    norm = prefix + "input_layernorm.weight"
    dx, gradients[norm] = layers.rms_norm_backward(dattention_input, trace.x, p[norm], config.rms_norm_eps)
    return dx + dmiddle


def _forward(config: ModelConfig, p: Parameters, ids: Ids, seen: View) -> tuple[Array, Array, list[LayerTrace]]:
    """Return (output of the last layer [B, T, N], after the final norm [B, T, N], traces) for ids [B, T]."""
    x = p[EMBEDDING][ids]
    traces = []
    for index in range(config.num_layers):
        x, trace = _layer_forward(config, p, f"model.layers.{index}.", x, seen)
        traces.append(trace)
    return x, layers.rms_norm(x, p[FINAL_NORM], config.rms_norm_eps), traces


def logits(config: ModelConfig, parameters: Parameters, ids: Ids) -> Array:
    """Logits [B, T, V] for ids [B, T]."""
    _, normed, _ = _forward(config, parameters, ids, view(config, ids.shape[1], None))
    return layers.linear(normed, parameters[config.head_name])


def loss(config: ModelConfig, parameters: Parameters, windows: Ids) -> float:
    """Mean cross-entropy in nats over windows [B, T + 1]: position t predicts token t + 1."""
    return layers.cross_entropy(logits(config, parameters, windows[:, :-1]), windows[:, 1:])[0]


def masked_targets(windows: Ids, counts: NDArray[np.bool_] | None) -> Ids:
    """The targets of windows [B, T + 1]; those where `counts` [B, T] is false are -1."""
    return windows[:, 1:] if counts is None else np.where(counts, windows[:, 1:], -1)


def loss_and_gradients(
    config: ModelConfig,
    parameters: Parameters,
    windows: Ids,
    counts: NDArray[np.bool_] | None = None,
    begins: NDArray[np.bool_] | None = None,
) -> tuple[float, Parameters]:
    """Return (mean cross-entropy in nats, gradient of every parameter) for windows [B, T + 1].

    Only the targets where `counts` [B, T] is true count; all without it. With `begins` [B, T], which says where
    documents begin, a token sees its own alone.
    """
    ids, targets = windows[:, :-1], masked_targets(windows, counts)
    seen = view(config, ids.shape[1], begins)
    x, normed, traces = _forward(config, parameters, ids, seen)
    head = parameters[config.head_name]
    mean_loss, dlogits = layers.cross_entropy(layers.linear(normed, head), targets)

    gradients: Parameters = {}
    dnormed, dhead = layers.linear_backward(dlogits, normed, head)
    dx, gradients[FINAL_NORM] = layers.rms_norm_backward(dnormed, x, parameters[FINAL_NORM], config.rms_norm_eps)
    for index in reversed(range(config.num_layers)):
        dx = _layer_backward(config, parameters, f"model.layers.{index}.", traces[index], dx, seen, gradients)

    dembedding = np.zeros_like(parameters[EMBEDDING])
    np.add.at(dembedding, ids, dx)  # a token that occurs several times collects all its gradients
    if config.tie_embeddings:
        gradients[EMBEDDING] = dembedding + dhead
    else:
        gradients[EMBEDDING], gradients[HEAD] = dembedding, dhead
    return mean_loss, gradients
