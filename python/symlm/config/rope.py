"""Rotary positions as a `config.json` describes them.

They may stand in three places: `rope_theta` beside the sizes, `rope_parameters` of transformers 5, and `rope_scaling`
of the versions before it. transformers 5 takes `rope_scaling` where it says anything and ignores `rope_parameters`;
other programs do the opposite. So both are read here, and a file in which they disagree is refused.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError, UsageError, shown
from ..system.reading import Fields
from ..system.values import plain

ROPE_THETA = 10000.0
_WHAT = "model configuration"
_OF_PLACES = "programs differ in which of them they take; keep the one that the model was trained with"
_OF_LAYERS = (
    "transformers ignores what stands there for one type of layer in a Llama model, others may not; write what the "
    "model was trained with beside the sizes, and take the other away"
)
_ORIGINAL = "original_max_position_embeddings"


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Rotary frequencies stretched for contexts longer than those of the first training, the type "llama3": waves
    longer than `original_max_position_embeddings / low_freq_factor` positions become `factor` times as long, those
    shorter than `original_max_position_embeddings / high_freq_factor` stay, and between them it is blended."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = plain(getattr(self, field.name))
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise UsageError(f"rope scaling: {field.name}: expected a number above 0, found {shown(value)}")
        if self.factor < 1:
            raise UsageError(f"rope scaling: factor: expected a number from 1, found {self.factor}")
        if self.high_freq_factor <= self.low_freq_factor:
            raise UsageError(
                f"rope scaling: high_freq_factor {self.high_freq_factor} is not above "
                f"low_freq_factor {self.low_freq_factor}"
            )

    def as_dict(self) -> dict[str, Any]:
        """The numbers under the names that the extension module reads, which are those of `config.json` too."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Rope:
    """Base of the rotary frequencies, and how they are stretched."""

    theta: float
    scaling: RopeScaling | None


def read_rope(path: Path, raw: Mapping[str, Any], most_positions: int) -> Rope:
    """The rotary positions of the `config.json` at `path`, whose content is `raw`.

    DataError when its places contradict each other, and for positions that symlm does not compute.
    """
    (name, rope), *others = _places(path, raw)
    said = _said(raw, rope)
    for other, values in others:
        _check_equal(path, (name, said), (other, _said(raw, values)))
    for place, values in ((name, rope), *others):
        _check_plain(path, place, values)
    theta = Fields(path, said, _WHAT).number("rope_theta")
    kind = said["rope_type"]
    if kind == "default":
        return Rope(theta, None)
    if kind != "llama3":
        raise DataError(f"{path}: rope type {shown(kind)} is not supported, expected default or llama3")
    if _ORIGINAL in raw:
        # transformers 5 lets the field beside the sizes win, the versions before it the one inside.
        _check_equal(path, ("the top level", {_ORIGINAL: raw[_ORIGINAL]}), (name, {_ORIGINAL: rope.get(_ORIGINAL)}))
    fields = Fields(path, rope, "rope scaling")
    scaling = RopeScaling(
        factor=fields.number("factor"),
        low_freq_factor=fields.number("low_freq_factor"),
        high_freq_factor=fields.number("high_freq_factor"),
        original_max_position_embeddings=fields.whole(_ORIGINAL, 1, most_positions),
    )
    return Rope(theta, scaling)


def _places(path: Path, raw: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Name and content of every place that describes rotary positions, the one that transformers 5 takes first."""
    fields = Fields(path, raw, _WHAT)
    found = [("rope_scaling", fields.object("rope_scaling"))] if raw.get("rope_scaling") else []
    if raw.get("rope_parameters") is not None and (new := fields.object("rope_parameters")):
        found.append(("rope_parameters", new))
    # One description for each type of layer, which is how models with several of them are written.
    nested = [
        (f"{name}.{key}", inner) for name, rope in found for key, inner in rope.items() if isinstance(inner, dict)
    ]
    return [*found, *nested] or [("", {})]


def _said(raw: Mapping[str, Any], rope: Mapping[str, Any]) -> dict[str, Any]:
    """What one place says, with the defaults of transformers: fields that have no effect are left out."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    said = {"rope_type": kind, "rope_theta": rope.get("rope_theta", raw.get("rope_theta", ROPE_THETA))}
    if kind == "default":
        return said
    names = [field.name for field in dataclasses.fields(RopeScaling)] if kind == "llama3" else rope
    return said | {name: rope.get(name) for name in names if name not in ("type", "rope_type", "rope_theta")}


def _check_equal(path: Path, a: tuple[str, Mapping[str, Any]], b: tuple[str, Mapping[str, Any]]) -> None:
    """DataError that names both places and the first value in which they differ."""
    for name in dict.fromkeys([*a[1], *b[1]]):
        if a[1].get(name) != b[1].get(name):
            ours, theirs = (shown(place[1].get(name)) for place in (a, b))
            raise DataError(
                f"{path}: {a[0]} and {b[0]} contradict each other: {name} is {ours} in {a[0]} and {theirs} in {b[0]}",
                _OF_LAYERS if "." in b[0] else _OF_PLACES,
            )


def _check_plain(path: Path, place: str, rope: Mapping[str, Any]) -> None:
    wrong = [
        f"rope parameter {name} {shown(rope[name])} (expected 1.0)"
        for name in ("partial_rotary_factor", "attention_factor", "mscale")
        if rope.get(name) not in (1.0, None)
    ]
    if wrong:
        raise DataError(f"{path}: {place}: not supported: {'; '.join(wrong)}")
