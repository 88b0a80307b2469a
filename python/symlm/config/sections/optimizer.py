"""AdamW, clipping, and the seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..options import Section, Spec, option


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings(Section):
    """AdamW, clipping, and the seed."""

    heading: ClassVar[str] = "optimisation"

    weight_decay: float = option(0.1, Spec("decoupled weight decay of the matrices", "float", core="weight_decay"))
    beta1: float = option(0.9, Spec("AdamW: decay of the first moment", "float", core="beta1"))
    beta2: float = option(0.95, Spec("AdamW: decay of the second moment", "float", core="beta2"))
    eps: float = option(1e-8, Spec("AdamW: added to the root of the second moment", "float", core="eps"))
    grad_clip: float = option(
        1.0, Spec("largest gradient norm; 0: no clipping", "float", core="grad_clip", aliases=("--max-grad-norm",))
    )
    seed: int = option(42, Spec("fixes the first weights and the order of the data", "int", low=0, high=2**63 - 1))
