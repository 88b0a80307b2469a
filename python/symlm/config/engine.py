"""What the engine is made from: as a run keeps it, and as the extension module takes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from .. import _symlm
from ..errors import UsageError, shown
from .model_config import ModelConfig
from .train_config import TrainConfig

_T = TypeVar("_T")


def engine_config(config: TrainConfig, threads: int, max_steps: int | None = None) -> dict[str, Any]:
    """What the engine is made from, as a run keeps it: model, constant numbers of the optimisation, threads.

    `config` is resolved."""
    steps = max_steps or config.max_steps or 1
    return {
        "model": config.model().as_dict(),
        "train": {
            "batch_size": config.batch_size,
            "max_steps": steps,
            "learning_rate": config.learning_rate,
            "warmup_steps": config.warmup_steps or 0,
            "decay_start": steps if config.decay_start is None else config.decay_start,
            "schedule": config.schedule,
            "min_lr_ratio": config.min_lr_ratio,
            **dataclasses.asdict(config.optimizer),
            "precision": config.precision,
            **engine_part(config),
        },
        "threads": threads,
        "sectors_in_flight": 0 if config.sectors_in_flight == "auto" else config.sectors_in_flight,
    }


def engine_settings(values: Mapping[str, Any]) -> _symlm.EngineSettings:
    """What `engine_config` gave, or a checkpoint has kept, for the extension module; UsageError or UserError names the
    field that is wrong."""
    train = values.get("train")
    if isinstance(train, dict):
        lora = train.get("lora")
        made = None if lora is None else _made(_symlm.LoraSettings, "lora", lora)
        # Runs from before there was a choice are f32.
        train = {"precision": "f32", **train, "lora": made}
    whole = {
        "sectors_in_flight": 0,
        "plan_threads": 0,
        **values,
        "model": _shape(values.get("model")),
        "train": _made(_symlm.TrainSettings, "train", train),
    }
    return _made(_symlm.EngineSettings, "engine", whole)


def model_shape(model: ModelConfig) -> _symlm.ModelShape:
    """The shape of a model for the extension module; UserError where it is beyond the limits."""
    return _shape(model.as_dict())


def _shape(values: object) -> _symlm.ModelShape:
    if isinstance(values, dict):
        scaling = values.get("rope_scaling")
        made = None if scaling is None else _made(_symlm.RopeScaling, "rope_scaling", scaling)
        values = {**values, "rope_scaling": made}
    return _made(_symlm.ModelShape, "model", values)


def _made(kind: Callable[..., _T], what: str, values: object) -> _T:
    """Settings of a class of the extension module; UsageError unless `values` has its fields and no others."""
    if not isinstance(values, dict):
        raise UsageError(f"{what}: found {shown(values)}, expected an object")
    fields = {name for name in vars(kind) if not name.startswith("_")}
    for name in sorted(fields - values.keys()):
        raise UsageError(f"{what}: no {name}")
    for name in sorted(values.keys() - fields):
        raise UsageError(f"{what}: found {shown(name)}, expected the fields {', '.join(sorted(fields))}")
    return kind(**values)


def engine_part(config: TrainConfig) -> dict[str, Any]:
    """What the engine's part of a configuration says about adapters; nothing where the weights are trained."""
    if not config.lora_rank:
        return {}
    targets = config.lora_target_names
    return {"lora": {"rank": config.lora_rank, "alpha": config.lora_alpha_value, "targets": list(targets)}}


def adapter_parameters(config: TrainConfig) -> int:
    """Floats in all adapters of a run; 0 where the weights are trained."""
    model = config.model()
    hidden, inner, kv = model.hidden_size, model.intermediate_size, model.num_kv_heads * model.head_dim
    sides = {
        "q_proj": (hidden, hidden), "k_proj": (hidden, kv), "v_proj": (hidden, kv), "o_proj": (hidden, hidden),
        "gate_proj": (hidden, inner), "up_proj": (hidden, inner), "down_proj": (inner, hidden),
    }  # fmt: skip
    return model.num_layers * config.lora_rank * sum(sum(sides[name]) for name in config.lora_target_names)


def in_f32(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same engine with products in f32, as every use of the weights outside of their run computes."""
    train = settings.get("train")
    return {**settings, "train": {**train, "precision": "f32"}} if isinstance(train, dict) else dict(settings)


def has_adapters(settings: Mapping[str, Any]) -> bool:
    """Whether an engine that is made from these settings trains adapters."""
    train = settings.get("train")
    return isinstance(train, dict) and "lora" in train


def without_adapters(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same engine for the weights that base and adapters give together."""
    if not has_adapters(settings):
        return dict(settings)
    return {**settings, "train": {name: value for name, value in settings["train"].items() if name != "lora"}}
