"""Low-rank adapters in float64: the weights that they give, and the gradients of their factors by the chain rule.

A tensor `T.weight` of `[outputs, inputs]` has the factors `T.lora_A.weight` of `[rank, inputs]` and
`T.lora_B.weight` of `[outputs, rank]`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reference.model import Parameters


def factors_of(name: str) -> tuple[str, str]:
    """Names of the factors of a tensor."""
    own = name.removesuffix(".weight")
    return f"{own}.lora_A.weight", f"{own}.lora_B.weight"


def merged(base: Parameters, factors: Parameters, scale: float) -> Parameters:
    """The weights that the model computes with: `base + scale * B A` where there is an adapter."""
    weights = dict(base)
    for name in base:
        a, b = factors_of(name)
        if a in factors:
            weights[name] = base[name] + scale * (factors[b] @ factors[a])
    return weights


def gradients(of_weights: Parameters, factors: Parameters, scale: float) -> Parameters:
    """Gradients of the factors from those of the merged weights, in the order of the factors."""
    found: Parameters = {}
    for name, gradient in of_weights.items():
        a, b = factors_of(name)
        if a in factors:
            found[a] = scale * (factors[b].T @ gradient)
            found[b] = scale * (gradient @ factors[a].T)
    return {name: found[name] for name in factors}
