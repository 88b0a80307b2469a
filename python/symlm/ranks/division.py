"""What ranks send each other in an update (the chapter "Ranks" of the contract): which sectors each computes, the
partial sums of the tree that leaves, and the bytes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from ..config.model_config import ModelConfig

SECTORS = 12
MOST_RANKS = SECTORS
UNIT = 4096
"""Elements that have one owner, and one sum of squares."""

_FLOAT_BYTES, _DOUBLE_BYTES = 4, 8
_NODES = ((12, 12), (6, 6), (3, 3), (3, 2), (1, 1))
"""The nodes of the tree, large ones first: each begins at a multiple of the first number and has as many sectors as the
second."""


def nodes_of(sectors: range) -> list[range]:
    """The partial sums that a rank with these sectors makes (P2)."""
    found = []
    at = sectors.start
    while at < sectors.stop:
        length = next(length for every, length in _NODES if at % every == 0 and at + length <= sectors.stop)
        found.append(range(at, at + length))
        at += length
    return found


@cache
def _lengths(start: int, ranks: int, most: int) -> tuple[int, tuple[int, ...]] | None:
    """The fewest partial sums of the sectors from `start` on, and the lengths of the ranges that have them."""
    left = SECTORS - start
    if ranks == 0:
        return None if left else (0, ())
    best: tuple[int, tuple[int, ...]] | None = None
    for length in range(min(most, left), 0, -1):
        rest = _lengths(start + length, ranks - 1, most)
        if rest is None:
            continue
        sums = rest[0] + len(nodes_of(range(start, start + length)))
        if best is None or sums < best[0]:
            best = sums, (length, *rest[1])
    return best


def rank_sectors(ranks: int) -> list[range]:
    """The sectors of each rank (P1)."""
    found = _lengths(0, ranks, -(-SECTORS // ranks)) if ranks > 0 else None
    if found is None:
        raise ValueError(f"expected 1 to {MOST_RANKS} ranks, found {ranks}")
    starts = [sum(found[1][:rank]) for rank in range(ranks)]
    return [range(start, start + length) for start, length in zip(starts, found[1], strict=True)]


def sector_windows(batch: int, sector: int) -> range:
    """The windows of a sector (S1)."""
    return range(-(-sector * batch // SECTORS), -(-(sector + 1) * batch // SECTORS))


@dataclass(frozen=True)
class Bucket:
    """Parameters that travel together. `folds` is how many gradients they have that are folded apart (L6)."""

    name: str
    parameters: int
    folds: int = 1


def buckets(model: ModelConfig) -> list[Bucket]:
    """What travels as a whole, in table order (P4)."""
    table = model.vocab_size * model.hidden_size
    layer = (model.parameters - model.hidden_size - table * (1 if model.tie_embeddings else 2)) // model.num_layers
    found = [Bucket("embedding", table, 2 if model.tie_embeddings else 1)]
    found += [Bucket(f"layer {number}", layer) for number in range(model.num_layers)]
    found.append(Bucket("norm", model.hidden_size))
    return found if model.tie_embeddings else [*found, Bucket("head", table)]


@dataclass(frozen=True)
class Payload:
    """Bytes that one rank gives to MPI in an update, by what they are."""

    gradients: float
    values: float
    losses: int
    squares: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.gradients + self.values + self.losses + self.squares


def payload(model: ModelConfig, batch: int, ranks: int, rank: int) -> Payload:
    """What a rank sends in an update of all parameters (P5, P6, P8), the parts of the owners taken as equal."""
    others = ranks - 1
    folded = sum(bucket.parameters * bucket.folds for bucket in buckets(model))
    return Payload(
        gradients=_FLOAT_BYTES * _sums(ranks, rank) * folded * others / ranks,
        values=_FLOAT_BYTES * model.parameters * others / ranks,
        losses=_losses(model, batch, ranks, rank),
        squares=_DOUBLE_BYTES * model.parameters / UNIT * others / ranks,
    )


def adapter_payload(
    model: ModelConfig, adapted: Sequence[tuple[int, int]], lora_rank: int, batch: int, ranks: int, rank: int
) -> Payload:
    """What a rank sends in an update of adapters of projections with these inputs and outputs, in table order."""
    others = ranks - 1
    whole = [inputs * outputs for inputs, outputs in adapted]
    own = [index for index, owner in enumerate(_owners(whole, ranks)) if owner == rank]
    factors = [lora_rank * side for index in own for side in adapted[index]]
    return Payload(
        gradients=_FLOAT_BYTES * _sums(ranks, rank) * (sum(whole) - sum(whole[index] for index in own)),
        values=_FLOAT_BYTES * sum(factors) * others,
        losses=_losses(model, batch, ranks, rank),
        squares=_DOUBLE_BYTES * sum(-(-factor // UNIT) for factor in factors) * others,
    )


def _owners(sizes: Sequence[int], ranks: int) -> list[int]:
    """The owner of each of some units of these sizes (P4)."""
    found, before, rank = [], 0, 0
    for size in sizes:
        while rank + 1 < ranks and before * ranks >= (rank + 1) * sum(sizes):
            rank += 1
        found.append(rank)
        before += size
    return found


def _sums(ranks: int, rank: int) -> int:
    return len(nodes_of(rank_sectors(ranks)[rank]))


def _losses(model: ModelConfig, batch: int, ranks: int, rank: int) -> int:
    windows = sum(len(sector_windows(batch, sector)) for sector in rank_sectors(ranks)[rank])
    return _FLOAT_BYTES * windows * model.seq_len * (ranks - 1)
