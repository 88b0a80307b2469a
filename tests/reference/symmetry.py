"""Twelve-fold symmetry: the sectors of a batch and the fixed tree that folds their results."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

SECTORS = 12


class Addable(Protocol):
    """Anything with an addition."""

    def __add__(self, other: Self, /) -> Self:
        """Return the sum."""


Value = TypeVar("Value", bound=Addable)


def sector_windows(batch_size: int) -> list[range]:
    """Return the windows of each of the twelve sectors: from ceil(i B / 12) up to, not with, ceil((i + 1) B / 12)."""
    edges = [-(-index * batch_size // SECTORS) for index in range(SECTORS + 1)]
    return [range(first, end) for first, end in pairwise(edges)]


def fold(sectors: Sequence[Value]) -> Value:
    """Add twelve values: four triples, two pairs of triples, and the two halves."""
    if len(sectors) != SECTORS:
        raise ValueError(f"the tree has {SECTORS} leaves, not {len(sectors)}")
    triples = [(sectors[3 * j] + sectors[3 * j + 1]) + sectors[3 * j + 2] for j in range(4)]
    return (triples[0] + triples[1]) + (triples[2] + triples[3])
