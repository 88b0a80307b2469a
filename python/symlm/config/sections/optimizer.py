"""AdamW, clipping, and the seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..options import Section, Spec, option


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings(Section):
    """AdamW, clipping, and the seed."""

    heading: ClassVar[str] = "optimisation"

    weight_decay: float = option(0.1, Spec("decoupled weight decay of the matrices", "float", low=0.0, high=100.0))
    beta1: float = option(0.9, Spec("AdamW: decay of the first moment", "float", low=0.0, high=0.9999999))
    beta2: float = option(0.95, Spec("AdamW: decay of the second moment", "float", low=0.0, high=0.9999999))
    eps: float = option(1e-8, Spec("AdamW: added to the root of the second moment", "float", above=0.0, high=1.0))
    grad_clip: float = option(
        1.0, Spec("largest gradient norm; 0: no clipping", "float", low=0.0, high=1e9, aliases=("--max-grad-norm",))
    )
    seed: int = option(42, Spec("fixes the first weights and the order of the data", "int", low=0, high=2**63 - 1))
