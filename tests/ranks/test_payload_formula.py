"""Who computes what, and what travels: the chapter on ranks of the contract, from its own words."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest

import symlm
from symlm.ranks.division import SECTORS, buckets, nodes_of, payload, rank_sectors, sector_windows

TREE = [
    *({sector} for sector in range(12)), *({3 * j, 3 * j + 1} for j in range(4)),
    *(set(range(3 * j, 3 * j + 3)) for j in range(4)),
    set(range(6)), set(range(6, 12)), set(range(12)),
]  # fmt: skip
"""The sums that S2 makes on its way, as sets of sectors."""


def largest_nodes(sectors: set[int]) -> list[set[int]]:
    """P2 word for word."""
    inside = [node for node in TREE if node <= sectors]
    return sorted((node for node in inside if not any(node < other for other in inside)), key=min)


@pytest.mark.parametrize("ranks", range(1, 13))
def test_sectors_are_divided_as_the_contract_says(ranks: int) -> None:
    most = -(-SECTORS // ranks)
    every = []
    for cuts in combinations(range(1, SECTORS), ranks - 1):
        edges = [0, *cuts, SECTORS]
        ranges = [range(a, b) for a, b in pairwise(edges)]
        if max(map(len, ranges)) == most:
            sums = sum(len(largest_nodes(set(each))) for each in ranges)
            every.append((sums, [-len(each) for each in ranges], ranges))
    assert rank_sectors(ranks) == min(every)[2]


def test_partial_sums_are_the_largest_nodes() -> None:
    for start in range(SECTORS):
        for stop in range(start + 1, SECTORS + 1):
            assert [set(node) for node in nodes_of(range(start, stop))] == largest_nodes(set(range(start, stop)))


@pytest.mark.parametrize("ranks", [0, 13])
def test_other_numbers_of_ranks_are_refused(ranks: int) -> None:
    with pytest.raises(ValueError, match="1 to 12"):
        rank_sectors(ranks)


@pytest.mark.parametrize("tied", [True, False])
def test_buckets_hold_every_parameter(tied: bool) -> None:
    model = symlm.TrainConfig(preset="30m", tie_embeddings=tied).model
    assert sum(bucket.parameters for bucket in buckets(model)) == model.parameters
    assert next(bucket.folds for bucket in buckets(model)) == (2 if tied else 1)


@pytest.mark.parametrize("ranks", [2, 4])
def test_what_travels_is_little_more_than_gradients_and_values(ranks: int) -> None:
    model = symlm.TrainConfig(preset="30m").model
    table = model.vocab_size * model.hidden_size
    for rank in range(ranks):
        found = payload(model, 24, ranks, rank)
        assert found.gradients + found.values == 4 * (2 * model.parameters + table) * (ranks - 1) / ranks
        assert found.total == pytest.approx(found.gradients + found.values, rel=0.005)
    assert payload(model, 24, 1, 0).total == 0


def test_windows_of_sectors_cover_the_batch() -> None:
    for batch in (1, 7, 12, 32):
        windows = [window for sector in range(SECTORS) for window in sector_windows(batch, sector)]
        assert windows == list(range(batch))
