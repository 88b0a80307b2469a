"""Schedules, clipping by the global norm, and AdamW with PyTorch's conventions, in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from reference.layers import Array
    from reference.model import Parameters

EMBEDDING = "model.embed_tokens.weight"


@dataclass(frozen=True)
class TrainSettings:
    """What an update depends on; field names as in the configuration that the core reads."""

    batch_size: int
    max_steps: int
    learning_rate: float
    warmup_steps: int = 0
    decay_start: int = 0
    schedule: str = "constant"
    min_lr_ratio: float = 0.1
    embedding_lr_ratio: float = 1.0
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    grad_clip: float = 1.0
    seed: int = 42


def learning_rate(settings: TrainSettings, update: int) -> float:
    """Learning rate of an update counted from 0.

    The warm-up rises in equal parts and reaches the full rate at its last update. Afterwards the rate falls towards
    `min_lr_ratio` of the full rate, which update `max_steps` would have.
    """
    if update < settings.warmup_steps:
        return settings.learning_rate * (update + 1) / settings.warmup_steps

    def progress(start: int) -> float:
        return (update - start) / (settings.max_steps - start)

    floor = settings.min_lr_ratio
    if settings.schedule == "constant" or (settings.schedule == "wsd" and update < settings.decay_start):
        factor = 1.0
    elif settings.schedule == "wsd":
        factor = 1.0 - (1.0 - floor) * progress(settings.decay_start)
    elif settings.schedule == "linear":
        factor = 1.0 - (1.0 - floor) * progress(settings.warmup_steps)
    elif settings.schedule == "cosine":
        factor = floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress(settings.warmup_steps)))
    else:
        raise ValueError(f"unknown schedule {settings.schedule!r}")
    return settings.learning_rate * factor


def global_norm(gradients: Parameters) -> float:
    """Euclidean norm of all gradients together."""
    return math.sqrt(sum(float(np.sum(np.square(g, dtype=np.float64))) for g in gradients.values()))


def clip_factor(norm: float, limit: float) -> float:
    """Factor that brings a gradient of this norm down to `limit`; a limit of 0 means no clipping."""
    return limit / norm if 0.0 < limit < norm else 1.0


@dataclass
class AdamW:
    """AdamW with decoupled weight decay on matrices only; `updates` counts those already made."""

    settings: TrainSettings
    updates: int = 0
    first_moments: dict[str, Array] = field(default_factory=dict)
    second_moments: dict[str, Array] = field(default_factory=dict)

    def step(self, parameters: Parameters, gradients: Parameters) -> float:
        """Clip, then put updated arrays into `parameters`; return the norm before clipping."""
        s = self.settings
        norm = global_norm(gradients)
        factor = clip_factor(norm, s.grad_clip)
        rate = learning_rate(s, self.updates)
        self.updates += 1
        for name, weight in parameters.items():
            own = rate * s.embedding_lr_ratio if name == EMBEDDING else rate
            gradient = factor * gradients[name]
            m = s.beta1 * self.first_moments.get(name, np.zeros_like(weight)) + (1.0 - s.beta1) * gradient
            v = s.beta2 * self.second_moments.get(name, np.zeros_like(weight)) + (1.0 - s.beta2) * gradient**2
            self.first_moments[name], self.second_moments[name] = m, v
            unbiased_m = m / (1.0 - s.beta1**self.updates)
            unbiased_v = v / (1.0 - s.beta2**self.updates)
            decay = s.weight_decay if weight.ndim == 2 else 0.0
            parameters[name] = weight * (1.0 - own * decay) - own * unbiased_m / (np.sqrt(unbiased_v) + s.eps)
        return norm
