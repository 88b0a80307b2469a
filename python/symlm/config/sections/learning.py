"""Windows in an update, and how far one goes: the learning rate over the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from ..options import Section, Spec, option
from .length import MAX_STEPS

Precision = Literal["f32", "int16"]
InitialWeights = Literal["gpt2", "width"]
Schedule = Literal["wsd", "cosine", "linear", "constant"]
_FROM_PRESET = "from the preset"


@dataclass(frozen=True, kw_only=True)
class LearningSettings(Section):
    """Windows in an update, and how far one goes: the learning rate over the run."""

    heading: ClassVar[str] = "optimisation"

    batch_size: int = option(32, Spec("windows in one update", "int", core="batch_size"))
    learning_rate: float | None = option(
        None, Spec("peak learning rate", "float", core="learning_rate", aliases=("--lr",), default_text=_FROM_PRESET)
    )
    warmup_steps: int | None = option(
        None,
        Spec(
            "updates of linear warm-up",
            "int",
            low=0,
            high=MAX_STEPS,
            default_text="100, or 5 % of the updates if fewer",
        ),
    )
    min_lr_ratio: float = option(0.1, Spec("last learning rate as a part of the peak", "float", core="min_lr_ratio"))
    schedule: Schedule = option(
        "wsd",
        Spec(
            "shape of the learning rate: constant with a linear decay at the end, cosine, linear, constant",
            "choice",
            choices=get_args(Schedule),
        ),
    )
    decay_frac: float = option(
        0.2, Spec("part of the updates in which the wsd schedule decays", "float", low=0.0, high=1.0)
    )
    decay_start: int | None = option(
        None,
        Spec(
            "update at which the wsd schedule begins to decay",
            "int",
            low=0,
            high=MAX_STEPS,
            default_text="from --decay-frac",
        ),
    )
    embedding_lr_ratio: float = option(
        1.0,
        Spec(
            "learning rate of the embedding as a multiple of that of the other weights; 0 leaves it as it is",
            "float",
            core="embedding_lr_ratio",
            before=1.0,
        ),
    )
    initial_weights: InitialWeights = option(
        "gpt2",
        Spec(
            "how the weights of a new model are drawn: with GPT-2's standard deviations, or with one that follows the "
            "hidden size, those that add to the residual stream as 0, which helped short runs of small models",
            "choice",
            choices=get_args(InitialWeights),
            before="gpt2",
        ),
    )
    precision: Precision = option(
        "f32",
        Spec(
            "what products with weights compute in: f32, or integers of 16 bits, which are faster and have other bits",
            "choice",
            choices=get_args(Precision),
            before="f32",
        ),
    )
