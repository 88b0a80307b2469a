"""Settings of a fine-tuning run: those of a training run that begins from a model, with other defaults."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .options import convert
from .train_config import LIMIT_FIELDS, SPECS, TrainConfig

FINETUNE: dict[str, Any] = {
    "epochs": 3.0,
    "batch_size": 8,
    "learning_rate": 2e-4,
    "schedule": "cosine",
    "weight_decay": 0.0,
    "eval_interval": 50,
}
"""Defaults of `symlm finetune` where they are not those of `symlm train`.

The weights are good already, so what moves them is smaller: a tenth of the rate that models of this size are trained
with, no decay towards zero, batches that give a small set of examples some hundred updates in three passes. A model of
a billion weights and more wants a tenth of this rate.
"""

USUAL_WINDOW = 512
"""Windows of a model are not longer than this unless asked for: the context of one from elsewhere may be far longer
than memory allows for whole batches."""

LORA_RATE = 1e-3
"""The learning rate with adapters: they begin at zero and have far fewer weights, so that theirs may be larger."""


def finetune_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with the defaults of a fine-tuning for what is not among them."""
    defaults = dict(FINETUNE)
    if any(values.get(name) is not None for name in LIMIT_FIELDS):
        # A limit that is asked for decides alone.
        del defaults["epochs"]
    rank = values.get("lora_rank")
    if rank is not None and convert("lora_rank", SPECS["lora_rank"], rank):
        defaults["learning_rate"] = LORA_RATE
    return {**defaults, **values}


def finetune_config(model: str | Path, **changes: Any) -> TrainConfig:
    """The configuration of `symlm finetune MODEL`, with `changes` on top.

    `symlm.Trainer(symlm.finetune_config("runs/my-3m"), data=["examples.jsonl"]).fit()` trains it.
    """
    return TrainConfig(**finetune_values({"init_from": model, **changes}))
