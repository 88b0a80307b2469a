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
    from .callbacks import Callback, Control
    from .config.finetune import finetune_config
    from .config.model_config import ModelConfig
    from .config.train_config import TrainConfig
    from .display.tensorboard import TensorBoard
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
    from .evaluation.choices import ChoicesEvaluation, ItemResult, evaluate_choices
    from .evaluation.rolling import DocumentLoss, RollingEvaluation, evaluate_rolling
    from .evaluation.windows import Evaluation, evaluate
    from .generate.generator import Generator
    from .generate.pickling import Tokenizer
    from .training.trainer import Run, Trainer

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
    "ChoicesEvaluation": "evaluation.choices",
    "Control": "callbacks",
    "DataError": "errors",
    "DifferenceError": "errors",
    "DocumentLoss": "evaluation.rolling",
    "Evaluation": "evaluation.windows",
    "Generator": "generate.generator",
    "InternalError": "errors",
    "Interrupted": "errors",
    "ItemResult": "evaluation.choices",
    "MemoryPlanError": "errors",
    "ModelConfig": "config.model_config",
    "NanError": "errors",
    "RollingEvaluation": "evaluation.rolling",
    "Run": "training.trainer",
    "SymlmError": "errors",
    "TensorBoard": "display.tensorboard",
    "Tokenizer": "generate.pickling",
    "TrainConfig": "config.train_config",
    "Trainer": "training.trainer",
    "UsageError": "errors",
    "UserError": "errors",
    "evaluate": "evaluation.windows",
    "evaluate_choices": "evaluation.choices",
    "evaluate_rolling": "evaluation.rolling",
    "finetune_config": "config.finetune",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import symlm` stays cheap."""
    from importlib import import_module

    if name == "__version__":
        from .system.version import version

        return version()
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
