"""symlm trains small Llama-architecture language models on CPUs, with the same bits everywhere.

import symlm
run = symlm.Trainer(symlm.TrainConfig(preset="3m", max_steps=500), data=["my.txt"]).fit()
generator = symlm.Generator.from_pretrained(run.path)
for piece in generator.stream("It was", max_new_tokens=100):
    print(piece, end="")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._symlm import Tokenizer
    from .callbacks import Callback, Control
    from .choices import ChoicesEvaluation, ItemResult, evaluate_choices
    from .config import TrainConfig
    from .errors import (
        DataError,
        DifferenceError,
        InternalError,
        Interrupted,
        MemoryPlanError,
        NanError,
        SymlmError,
        UsageError,
        UserError,
    )
    from .evaluation import Evaluation, evaluate
    from .finetune import finetune_config
    from .generate import Generator
    from .model_config import ModelConfig
    from .rolling import DocumentLoss, RollingEvaluation, evaluate_rolling
    from .tensorboard import TensorBoard
    from .train import Run, Trainer

    __version__: str

__all__ = [
    "Callback",
    "ChoicesEvaluation",
    "Control",
    "DataError",
    "DifferenceError",
    "DocumentLoss",
    "Evaluation",
    "Generator",
    "InternalError",
    "Interrupted",
    "ItemResult",
    "MemoryPlanError",
    "ModelConfig",
    "NanError",
    "RollingEvaluation",
    "Run",
    "SymlmError",
    "TensorBoard",
    "Tokenizer",
    "TrainConfig",
    "Trainer",
    "UsageError",
    "UserError",
    "__version__",
    "evaluate",
    "evaluate_choices",
    "evaluate_rolling",
    "finetune_config",
]

_HOME = {
    "Callback": "callbacks",
    "ChoicesEvaluation": "choices",
    "Control": "callbacks",
    "DataError": "errors",
    "DifferenceError": "errors",
    "DocumentLoss": "rolling",
    "Evaluation": "evaluation",
    "Generator": "generate",
    "InternalError": "errors",
    "Interrupted": "errors",
    "ItemResult": "choices",
    "MemoryPlanError": "errors",
    "ModelConfig": "model_config",
    "NanError": "errors",
    "RollingEvaluation": "rolling",
    "Run": "train",
    "SymlmError": "errors",
    "TensorBoard": "tensorboard",
    "Tokenizer": "_symlm",
    "TrainConfig": "config",
    "Trainer": "train",
    "UsageError": "errors",
    "UserError": "errors",
    "evaluate": "evaluation",
    "evaluate_choices": "choices",
    "evaluate_rolling": "rolling",
    "finetune_config": "finetune",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import symlm` stays cheap."""
    from importlib import import_module

    if name == "__version__":
        from .version import version

        return version()
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
