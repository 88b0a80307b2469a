"""How text is drawn: the settings of a token stream and their defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from .options import Settings, Spec, option, specs


@dataclass(frozen=True, kw_only=True)
class Sampling(Settings):
    """How a text is drawn. Each field is a flag of `symlm generate` and an argument of `Generator.stream`.

    Values are checked when the object is made; UsageError names the one that is wrong.
    """

    max_new_tokens: int = option(
        200,
        Spec("most tokens to write", "int", low=0, high=10**9, aliases=("-n",), takes="0 or more, such as 200"),
    )
    temperature: float = option(
        0.8,
        Spec(
            "0 always takes the most likely token", "float", core="temperature",
            takes="{low} (always the most likely token) to {high}; usual are 0.5 to 1.2",
        ),
    )  # fmt: skip
    top_k: int = option(
        40,
        Spec(
            "draw from the N most likely tokens; 0 is off", "int", low=0, high=10**9,
            takes="0 (off) or more, such as 40",
        ),
    )  # fmt: skip
    top_p: float = option(
        0.95,
        Spec(
            "draw from the most likely tokens that add up to X; 1 is off", "float", core="top_p",
            takes="a number above 0, at most {high} (off), such as 0.95; temperature 0 is for the most likely token",
        ),
    )  # fmt: skip
    min_p: float = option(
        0.05,
        Spec(
            "leave out tokens less likely than X times the most likely; 0 is off", "float", core="min_p",
            takes="a number from {low} (off) to {high}, such as 0.05",
        ),
    )  # fmt: skip
    repetition_penalty: float = option(
        1.0,
        Spec(
            "above 1: tokens that occurred before become less likely", "float", core="repetition_penalty",
            takes="a number from {low} to {high}; 1 is off, 1.1 is usual",
        ),
    )  # fmt: skip
    seed: int = option(
        42,
        Spec(
            "the same seed gives the same text; printed when not given", "int", low=0, high=2**63 - 1,
            default_text="random; from Python 42",
        ),
    )  # fmt: skip
    sample_index: int = option(
        0, Spec("which of several texts with the same seed", "int", low=0, high=2**31 - 1, hidden=True)
    )


class SamplingSettings(TypedDict, total=False):
    """The types of the fields of `Sampling`, for functions that take them as keyword arguments."""

    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    seed: int
    sample_index: int


SAMPLING_SPECS: dict[str, Spec] = specs(Sampling)
"""Field name -> description of every setting, in the order of the help text."""
