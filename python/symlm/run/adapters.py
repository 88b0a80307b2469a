"""Low-rank adapters of a run: `RUN/base/` holds the weights that they are added to, and each checkpoint the adapters in
PEFT's format beside the weights that result.

    RUN/base/{model.safetensors, config.json}
    RUN/checkpoints/step-N/model.safetensors            base and adapters, as every command reads it
    RUN/checkpoints/step-N/optimizer.safetensors        moments of the adapters
    RUN/checkpoints/step-N/adapter/adapter_config.json
    RUN/checkpoints/step-N/adapter/adapter_model.safetensors
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError, UserError, reason
from ..layout import ADAPTER, ADAPTER_CONFIG, BASE, MODEL_CONFIG, WEIGHTS
from ..system.files import file_hash, sync_file
from .checkpoint import State, put_in_place, writing

if TYPE_CHECKING:
    from .. import _symlm


def write_base(run: Path, engine: _symlm.Engine, model_config: dict[str, Any]) -> None:
    """Keep the weights that the adapters of a run are added to, as a model folder that transformers opens."""
    folder = run / BASE
    with writing(folder) as temporary:
        temporary.mkdir(parents=True)
        engine.save_base(str(temporary / WEIGHTS))
        (temporary / MODEL_CONFIG).write_text(json.dumps(model_config, indent=2) + "\n", encoding="utf-8")
        sync_file(temporary / MODEL_CONFIG)
        sync_file(temporary)
        put_in_place(temporary, folder)


def load_base(run: Path, engine: _symlm.Engine) -> None:
    """Give an engine the weights that the adapters of a run are added to. Whether they are those of a checkpoint is
    noticed when that is loaded; without one `check_base` compares them."""
    path = run / BASE / WEIGHTS
    if not path.is_file():
        raise DataError(
            f"{path}: missing from the run; its adapters are nothing without the weights that they are added to",
            "put the folder back; the checkpoints generate, evaluate and export without it",
        )
    try:
        engine.load_weights(str(path))
    except DataError as error:
        raise DataError(error.message, f"restore the folder {BASE} of the run") from None


def check_base(run: Path, states: Iterable[State]) -> None:
    """DataError unless the weights that the adapters of a run are added to are those of its checkpoints."""
    path = run / BASE / WEIGHTS
    found = file_hash(path)
    for state in states:
        if state.engine.get("base_sha256", found) != found:
            raise DataError(
                f"{path}: damaged or replaced: the adapters of step {state.step} were trained on other base weights",
                f"restore the folder {BASE} of the run",
            )


def write_adapter_config(checkpoint: Path, lora: _symlm.LoraSettings, run: Path) -> None:
    """Write PEFT's description of the adapters into a checkpoint that is being written. It names the base by a path
    from its folder, so that it says nothing about the machine and stays true when the run is moved."""
    folder = checkpoint / ADAPTER
    inside = checkpoint.absolute().is_relative_to(run.absolute())
    peft = {
        "base_model_name_or_path": os.path.relpath(run / BASE, folder) if inside else BASE,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": _plain(lora.alpha),
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": lora.rank,
        "target_modules": lora.targets,
        "task_type": "CAUSAL_LM",
    }
    try:
        folder.mkdir(exist_ok=True)
        (folder / ADAPTER_CONFIG).write_text(json.dumps(peft, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder}: cannot write: {reason(error)}") from None


def _plain(value: float) -> int | float:
    """A whole number as such, which is what PEFT writes."""
    return int(value) if value == int(value) else value
