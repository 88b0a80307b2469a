"""Low-rank adapters beside the weights of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...errors import UsageError, shown
from ...units import did_you_mean
from ..options import Section, Spec, flag_of, option

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Projections that can have an adapter, in the order of the table of parameters."""


@dataclass(frozen=True, kw_only=True)
class AdapterSettings(Section):
    """Low-rank adapters beside the weights of a model."""

    heading: ClassVar[str] = "adapters"

    lora_rank: int = option(
        0,
        Spec(
            "train low-rank adapters (LoRA) of this rank beside the weights of --init-from, which stay as they are; "
            "0: train the weights",
            "int",
            core="lora_rank",
            low=0,
        ),
    )
    lora_alpha: float | None = option(
        None,
        Spec(
            "the adapters count by this divided by the rank",
            "float",
            core="lora_alpha",
            default_text="twice the rank",
        ),
    )
    lora_targets: str | None = option(
        None,
        Spec(
            "projections that get an adapter, with commas: " + ", ".join(LORA_TARGETS),
            "str",
            metavar="NAMES",
            default_text="all of them",
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora_targets is not None:
            names = [name.strip() for name in self.lora_targets.split(",")]
            unknown = [name for name in names if name not in LORA_TARGETS]
            if unknown:
                near = did_you_mean(unknown[0], LORA_TARGETS)
                raise UsageError(
                    f"--lora-targets: found {shown(unknown[0])}, expected some of {', '.join(LORA_TARGETS)}",
                    f"did you mean {near}?" if near else "separate the names by commas",
                )
            # One spelling for one choice.
            object.__setattr__(self, "lora_targets", ",".join(name for name in LORA_TARGETS if name in names))
        if self.lora_rank:
            return
        for name in ("lora_alpha", "lora_targets"):
            if getattr(self, name) is not None:
                raise UsageError(
                    f"{flag_of(name)} is about adapters, but there are none", "give --lora-rank too, such as 8"
                )

    @property
    def lora_alpha_value(self) -> float:
        """What is divided by the rank: `lora_alpha`, or twice the rank."""
        return 2.0 * self.lora_rank if self.lora_alpha is None else self.lora_alpha

    @property
    def lora_target_names(self) -> tuple[str, ...]:
        """The projections that have an adapter; none without `lora_rank`."""
        if not self.lora_rank:
            return ()
        return LORA_TARGETS if self.lora_targets is None else tuple(self.lora_targets.split(","))
