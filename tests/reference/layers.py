"""The operations of a Llama model, each with its backward pass, as ordinary vectorised NumPy.

Letters in shapes: B windows, T positions, N hidden size, H query heads, K key/value heads, G = H / K query heads per
key/value head, D head_dim, V vocabulary. The gradient of the loss with respect to `x` is called `dx`. Results have
the dtype of the arguments.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Ids = NDArray[np.int64]


def linear(x: Array, weight: Array) -> Array:
    """`y[..., o] = sum_i x[..., i] weight[o, i]`; x [..., in], weight [out, in], result [..., out]."""
    return x @ weight.T


def linear_backward(dy: Array, x: Array, weight: Array) -> tuple[Array, Array]:
    """Return (dx [..., in], dweight [out, in]) for dy [..., out]."""
    rows = dy.reshape(-1, dy.shape[-1])
    return dy @ weight, rows.T @ x.reshape(-1, x.shape[-1])


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """`x / sqrt(mean(x^2) + eps) * weight` over the last axis; x [..., N], weight [N]."""
    result: Array = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight
    return result


def rms_norm_backward(dy: Array, x: Array, weight: Array, eps: float) -> tuple[Array, Array]:
    """Return (dx [..., N], dweight [N]) for dy [..., N].

    With `s = sqrt(mean(x^2) + eps)`: `d(x_i / s) / dx_j = delta_ij / s - x_i x_j / (N s^3)`.
    """
    scale = np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)
    dweight = np.sum((dy * x / scale).reshape(-1, x.shape[-1]), axis=0)
    dnormed = dy * weight
    dx = dnormed / scale - x * np.mean(dnormed * x, axis=-1, keepdims=True) / scale**3
    return dx, dweight


def stretched(frequencies: NDArray[np.float64], scaling: Mapping[str, float]) -> NDArray[np.float64]:
    """Rotary frequencies as Llama 3.1 changes them: waves that go round less than `low_freq_factor` times in the
    original window are `factor` times as long, those that go round more than `high_freq_factor` times stay, and
    between the two the share of the unchanged frequency grows linearly with the number of turns."""
    turns = scaling["original_max_position_embeddings"] * frequencies / (2.0 * np.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    unchanged = np.clip((turns - low) / (high - low), 0.0, 1.0)
    result: NDArray[np.float64] = frequencies * (unchanged + (1.0 - unchanged) / scaling["factor"])
    return result


def rotary_angles(
    positions: int, head_dim: int, theta: float, scaling: Mapping[str, float] | None = None
) -> NDArray[np.float64]:
    """Angle of each pair at each position, `position * theta^(-2 pair / D)` unless stretched: [positions, D / 2]."""
    frequencies = theta ** (-2.0 * np.arange(head_dim // 2, dtype=np.float64) / head_dim)
    if scaling is not None:
        frequencies = stretched(frequencies, scaling)
    return np.outer(np.arange(positions, dtype=np.float64), frequencies)


def rotate(x: Array, angles: NDArray[np.float64]) -> Array:
    """Turn the pairs (j, j + D/2) of x [..., T, D] by angles [T, D/2]. The backward pass turns by `-angles`."""
    cos, sin = np.cos(angles).astype(x.dtype), np.sin(angles).astype(x.dtype)
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def softmax(x: Array) -> Array:
    """Softmax over the last axis."""
    e = np.exp(x - np.max(x, axis=-1, keepdims=True))
    result: Array = e / np.sum(e, axis=-1, keepdims=True)
    return result


def split_heads(x: Array, heads: int) -> Array:
    """[B, T, heads * D] to [B, heads, T, D]."""
    windows, positions, width = x.shape
    return x.reshape(windows, positions, heads, width // heads).transpose(0, 2, 1, 3)


def merge_heads(x: Array) -> Array:
    """[B, heads, T, D] to [B, T, heads * D]."""
    windows, heads, positions, head_dim = x.shape
    return x.transpose(0, 2, 1, 3).reshape(windows, positions, heads * head_dim)


def _grouped(q: Array, kv_heads: int) -> Array:
    """[B, H, T, D] to [B, K, G, T, D]: query head h belongs to key/value head h // G."""
    windows, heads, positions, head_dim = q.shape
    return q.reshape(windows, kv_heads, heads // kv_heads, positions, head_dim)


def same_document(begins: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which positions lie in one document, [B, T, T]; `begins` [B, T] says with which of them documents begin."""
    number = np.cumsum(begins, axis=-1)
    result: NDArray[np.bool_] = number[..., :, None] == number[..., None, :]
    return result


def document_positions(begins: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The place of each position of `begins` [B, T] in its document, from 0; a window begins a document, too."""
    place = np.arange(begins.shape[-1])
    result: NDArray[np.int64] = place - np.maximum.accumulate(np.where(begins, place, 0), axis=-1)
    return result


def attention_weights(q: Array, k: Array, within: NDArray[np.bool_] | None = None) -> Array:
    """Causal softmax of the scaled scores; q [B, H, T, D], k [B, K, T, D], result [B, K, G, T, T].

    A position sees only those that lie `within` its document, [B, T, T]; without it all before it."""
    positions, head_dim = q.shape[-2:]
    scores = _grouped(q, k.shape[1]) @ k[:, :, None].swapaxes(-1, -2) / float(np.sqrt(head_dim))
    visible = np.tril(np.ones((positions, positions), dtype=bool))
    if within is not None:
        visible = visible & within[:, None, None]
    return softmax(np.where(visible, scores, -np.inf))


def attention(q: Array, k: Array, v: Array, within: NDArray[np.bool_] | None = None) -> Array:
    """Causal grouped-query attention; q [B, H, T, D], k and v [B, K, T, D], result [B, H, T, D]."""
    return (attention_weights(q, k, within) @ v[:, :, None]).reshape(q.shape)


def attention_backward(
    do: Array, q: Array, k: Array, v: Array, within: NDArray[np.bool_] | None = None
) -> tuple[Array, Array, Array]:
    """Return (dq [B, H, T, D], dk [B, K, T, D], dv [B, K, T, D]) for do [B, H, T, D].

    A key/value head serves G query heads, so its gradients are summed over the group.
    """
    weights = attention_weights(q, k, within)
    do_grouped, q_grouped = _grouped(do, k.shape[1]), _grouped(q, k.shape[1])
    dv = np.sum(weights.swapaxes(-1, -2) @ do_grouped, axis=2)
    dweights = do_grouped @ v[:, :, None].swapaxes(-1, -2)
    dscores = weights * (dweights - np.sum(weights * dweights, axis=-1, keepdims=True))
    dscores = dscores / float(np.sqrt(q.shape[-1]))
    dq = (dscores @ k[:, :, None]).reshape(q.shape)
    dk = np.sum(dscores.swapaxes(-1, -2) @ q_grouped, axis=2)
    return dq, dk, dv


def swiglu(gate: Array, up: Array) -> Array:
    """`gate * sigmoid(gate) * up`, all of one shape."""
    result: Array = gate / (1.0 + np.exp(-gate)) * up
    return result


def swiglu_backward(dh: Array, gate: Array, up: Array) -> tuple[Array, Array]:
    """Return (dgate, dup) for dh."""
    sigmoid = 1.0 / (1.0 + np.exp(-gate))
    dgate: Array = dh * up * (sigmoid + gate * sigmoid * (1.0 - sigmoid))
    dup: Array = dh * gate * sigmoid
    return dgate, dup


def cross_entropy(logits: Array, targets: Ids) -> tuple[float, Array]:
    """Return (mean loss in nats, dlogits [B, T, V]) for logits [B, T, V] and targets [B, T].

    Negative targets do not count.
    """
    counts = targets >= 0
    chosen = np.where(counts, targets, 0)[..., None]
    shifted = logits - np.max(logits, axis=-1, keepdims=True)
    log_probabilities = shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True))
    losses = -np.take_along_axis(log_probabilities, chosen, axis=-1)[..., 0]
    loss = float(np.mean(losses[counts], dtype=np.float64))
    dlogits = np.exp(log_probabilities)
    np.put_along_axis(dlogits, chosen, np.take_along_axis(dlogits, chosen, axis=-1) - 1.0, axis=-1)
    return loss, dlogits * counts[..., None] / np.sum(counts)
