"""How text is drawn: the settings of a token stream, their defaults and limits."""

from __future__ import annotations

import math
from typing import Any

from ..errors import UsageError

MAX_NEW_TOKENS = 200


TEMPERATURE = 0.8


TOP_K = 40


TOP_P = 0.95


MIN_P = 0.05


REPETITION_PENALTY = 1.0


SEED = 42


def sampling_options(
    *,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    repetition_penalty: float,
    seed: int,
    sample_index: int,
) -> dict[str, Any]:
    """The settings of a token stream, checked; UsageError names the one that is wrong."""
    from .._symlm import MAX_PENALTY

    for name, value in (("temperature", temperature), ("top_p", top_p), ("min_p", min_p),
                        ("repetition_penalty", repetition_penalty)):  # fmt: skip
        if not math.isfinite(value):
            raise UsageError(f"{name}: expected a finite number, found {value}")
    _between("max_new_tokens", max_new_tokens, 0, 10**9)
    _between("temperature", temperature, 0, 1000)
    _between("top_k", top_k, 0, 10**9)
    _between("top_p", top_p, 0, 1)
    _between("min_p", min_p, 0, 1)
    _between("seed", seed, 0, 2**63 - 1)
    _between("sample_index", sample_index, 0, 2**31 - 1)
    if top_p == 0:
        raise UsageError("top_p: expected a number above 0, found 0", "use temperature 0 for the most likely token")
    _between("repetition_penalty", repetition_penalty, 1 / MAX_PENALTY, MAX_PENALTY)
    return {
        "max_new_tokens": max_new_tokens,
        "temperature": float(temperature),
        "top_k": top_k,
        "top_p": float(top_p),
        "min_p": float(min_p),
        "repetition_penalty": float(repetition_penalty),
        "seed": seed,
        "sample_index": sample_index,
    }


def _between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise UsageError(f"{name}: expected a number from {low:g} to {high:g}, found {value}")
