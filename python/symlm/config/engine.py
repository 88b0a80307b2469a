"""What the engine is made from: as the extension module takes it, and as a checkpoint keeps it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from .. import _symlm
from ..errors import InternalError, UsageError, shown
from .model_config import ModelConfig
from .train_config import Attend, TrainConfig

_T = TypeVar(
    "_T", _symlm.EngineSettings, _symlm.ModelShape, _symlm.TrainSettings, _symlm.LoraSettings, _symlm.RopeScaling
)

BEFORE: dict[str, Any] = {"precision": "f32", "attend": "window", "embedding_lr_ratio": 1.0, "initial_weights": "gpt2"}
"""What checkpoints from before there was a choice were computed with."""


def engine_settings(
    config: TrainConfig, threads: int, max_steps: int | None = None, plan_threads: int = 0, ranks: int = 1
) -> _symlm.EngineSettings:
    """The engine of a run with a resolved configuration; UserError where they are beyond the limits.

    `plan_threads` are the workers that the tasks are cut for, 0: as many as there are. With
    several `ranks` it is the engine of the first of them."""
    if config.learning_rate is None:
        raise InternalError("an engine needs a configuration with its learning rate")
    steps = max_steps or config.max_steps or 1
    return _symlm.EngineSettings(
        model=model_shape(config.model),
        train=_symlm.TrainSettings(
            batch_size=config.batch_size,
            max_steps=steps,
            learning_rate=config.learning_rate,
            warmup_steps=config.warmup_steps or 0,
            decay_start=steps if config.decay_start is None else config.decay_start,
            schedule=config.schedule,
            min_lr_ratio=config.min_lr_ratio,
            embedding_lr_ratio=config.embedding_lr_ratio,
            initial_weights=config.initial_weights,
            **dataclasses.asdict(config.optimizer),
            precision=config.precision,
            attend=config.attend,
            lora=_lora(config),
        ),
        threads=threads,
        sectors_in_flight=0 if config.sectors_in_flight == "auto" else config.sectors_in_flight,
        plan_threads=plan_threads,
        ranks=ranks,
        rank=0,
    )


def _lora(config: TrainConfig) -> _symlm.LoraSettings | None:
    if not config.lora_rank:
        return None
    targets = list(config.lora_target_names)
    return _symlm.LoraSettings(rank=config.lora_rank, alpha=config.lora_alpha_value, targets=targets)


def model_shape(model: ModelConfig) -> _symlm.ModelShape:
    """The shape of a model for the extension module; UserError where it is beyond the limits."""
    return _shape(model.as_dict())


def recorded(settings: _T) -> dict[str, Any]:
    """Settings as JSON keeps them: by name, without those that are None."""
    values = {name: getattr(settings, name) for name in settings.FIELDS}
    return {
        name: recorded(value) if hasattr(value, "FIELDS") else value
        for name, value in values.items()
        if value is not None
    }


def made_from(settings: _symlm.EngineSettings) -> dict[str, Any]:
    """What a checkpoint keeps of the settings: the numbers that decide its bits."""
    return {"model": recorded(settings.model), "train": recorded(settings.train)}


def settings_of(values: Mapping[str, Any]) -> _symlm.EngineSettings:
    """Settings from what JSON has kept; UsageError or UserError names the field that is wrong."""
    train = values.get("train")
    if isinstance(train, dict):
        lora = train.get("lora")
        made = None if lora is None else _made(_symlm.LoraSettings, "lora", lora)
        train = {**BEFORE, **train, "lora": made}
    whole = {
        "sectors_in_flight": 0,
        "plan_threads": 0,
        "ranks": 1,
        "rank": 0,
        **values,
        "model": _shape(values.get("model")),
        "train": _made(_symlm.TrainSettings, "train", train),
    }
    return _made(_symlm.EngineSettings, "engine", whole)


def _shape(values: object) -> _symlm.ModelShape:
    if isinstance(values, dict):
        scaling = values.get("rope_scaling")
        made = None if scaling is None else _made(_symlm.RopeScaling, "rope_scaling", scaling)
        values = {**values, "rope_scaling": made}
    return _made(_symlm.ModelShape, "model", values)


def _made(kind: type[_T], what: str, values: object) -> _T:
    """Settings of a class of the extension module; UsageError unless `values` has its fields and no others."""
    if not isinstance(values, dict):
        raise UsageError(f"{what}: found {shown(values)}, expected an object")
    fields = set(kind.FIELDS)
    for name in sorted(fields - values.keys()):
        raise UsageError(f"{what}: no {name}")
    for name in sorted(values.keys() - fields):
        raise UsageError(f"{what}: found {shown(name)}, expected the fields {', '.join(sorted(fields))}")
    return kind(**values)


def in_f32(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same engine with products in f32, as every use of the weights outside of their run computes."""
    train = values.get("train")
    return {**values, "train": {**train, "precision": "f32"}} if isinstance(train, dict) else dict(values)


def attended(values: Mapping[str, Any]) -> Attend:
    """What tokens saw of their windows, by what a checkpoint keeps."""
    train = values.get("train")
    found = train.get("attend") if isinstance(train, dict) else None
    return "document" if found == "document" else "window"


def without_adapters(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint keeps, for the weights that base and adapters give together."""
    train = values.get("train")
    if not isinstance(train, dict):
        return dict(values)
    return {**values, "train": {name: value for name, value in train.items() if name != "lora"}}
