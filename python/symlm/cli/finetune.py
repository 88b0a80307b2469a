"""`symlm finetune`."""

from __future__ import annotations

from typing import Any

import click

from ..config.finetune import FINETUNE, LORA_RATE, USUAL_WINDOW, finetune_values
from ..config.train_config import MODEL_FIELDS, SPECS
from .common import PATH, Command
from .flags import setting_options
from .train import train_as

DEFAULT_TEXTS = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in FINETUNE.items()}
DEFAULT_TEXTS["learning_rate"] += f", with --lora-rank {LORA_RATE:g}"
DEFAULT_TEXTS["epochs"] += " without another limit"
DEFAULT_TEXTS["max_steps"] = "from --epochs"
DEFAULT_TEXTS["seq_len"] = f"the context of the model, but at most {USUAL_WINDOW}"
DEFAULT_TEXTS["out_dir"] = "runs/<name of the data>-<name of the model>-ft"
"""What the help says of defaults that are not those of `symlm train`."""

_LEFT_OUT = {"data", "init_from", "tokenizer", "preset", *MODEL_FIELDS} - {"seq_len"}
"""Settings that are arguments here, or that follow from the model."""


def _run(**values: Any) -> int:
    return train_as({"init_from": values.pop("model"), **values}, finetune_values)


command = Command(
    "finetune",
    callback=_run,
    params=[
        click.Argument(["model"], type=PATH, metavar="MODEL"),
        click.Argument(["data"], nargs=-1, required=True, type=PATH, metavar="PATH..."),
        *setting_options([name for name in SPECS if name not in _LEFT_OUT], DEFAULT_TEXTS),
    ],
    help="""Continue training MODEL on other data.

    MODEL is a run folder, a checkpoint, or a model folder or GGUF file from elsewhere; its shape and its tokenizer stay
    as they are. PATH is text as symlm train takes it, or JSON with a prompt and a completion in each object:

    \b
    {"prompt": "colour of snow:", "completion": " white"}

    Of these only the completions (and that they end) are learnt. All weights are trained, or adapters beside them with
    --lora-rank. The run folder, --resume and everything else are those of symlm train.""",
    short_help="Continue training a model on examples or text.",
)
