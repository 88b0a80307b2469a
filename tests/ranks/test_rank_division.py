"""Any number of ranks computes the bits of one process: engines in one process, bytes copied by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from beside_ranks import LORA, MODEL, Ranks, maker, shards
from symlm import _symlm
from symlm.errors import InternalError

STEPS = 4
KINDS: dict[str, dict[str, Any]] = {
    "tied": {},
    "untied": {"model": {"tie_embeddings": False}},
    "adapters": {"train": {"lora": LORA}},
}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> _symlm.Shards:
    return shards(tmp_path_factory.mktemp("ranks"))


@pytest.fixture
def make(tokens: _symlm.Shards) -> Iterator[Callable[..., Ranks]]:
    with maker(tokens) as made:
        yield made


@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_ranks_gives_the_bits_of_one(make: Callable[..., Ranks], kind: str) -> None:
    alone = make(1, **KINDS[kind])
    alone.train(STEPS)
    expected = alone.hashes(), alone.metrics()
    isas = tuple(_symlm.available_isas())
    # Multiply-adds in software are slow: with as many ranks as there are instruction sets they take part.
    quick = tuple(isa for isa in isas if not isa.endswith("soft"))
    for count in (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12):
        together = isas if count == len(isas) else quick
        ranks = make(count, threads=1 + count % 2, isas=together, sectors_in_flight=count % 4, **KINDS[kind])
        ranks.train(STEPS)
        assert (ranks.hashes(), ranks.metrics()) == expected, count


@pytest.mark.parametrize("batch_size", [1, 5, 12, 31])
def test_sectors_without_windows(make: Callable[..., Ranks], batch_size: int) -> None:
    train = {"batch_size": batch_size, "grad_clip": 0.0}
    alone, many = make(1, train=train), make(5, train=train)
    for ranks in (alone, many):
        ranks.train(2)
    assert (many.hashes(), many.metrics()) == (alone.hashes(), alone.metrics())


def test_bytes_of_an_update_are_those_of_the_formula(make: Callable[..., Ranks]) -> None:
    """2 x 4 x parameters x (R-1)/R, the second fold of a tied head, and the sums that the tree adds."""
    model = {"vocab_size": 301, "hidden_size": 144, "intermediate_size": 400}
    for count, sums in ((2, 2), (4, 4), (3, 7)):
        ranks = make(count, model=model)
        ranks.train(1)
        rows = 4 * model["vocab_size"] * model["hidden_size"]
        parameters = 4 * ranks.engines[0].parameters
        # Of each partial sum all but the own part, of each new value all copies but the own one.
        expected = (parameters + rows) * sums * (count - 1) / count + parameters * (count - 1)
        assert ranks.copied == pytest.approx(expected, rel=0.05)


def test_a_copy_that_is_not_what_its_owner_sent_is_found(make: Callable[..., Ranks]) -> None:
    import ctypes

    ranks = make(3)
    ranks.train(1)

    def flip(rank: int, index: int) -> None:
        transfer = ranks.plans[rank][index]
        if rank == 1 and transfer.values_of == 2 and transfer.bytes:
            byte = ctypes.c_uint8.from_address(transfer.address + transfer.bytes // 2)
            byte.value ^= 4

    ranks.delivered = flip  # type: ignore[method-assign]
    with pytest.raises(InternalError, match="the new values of rank 2 differ from their digest"):
        ranks.train(2)
    assert ranks.exchanges[1].wrong_copy == 2
    assert ranks.exchanges[0].wrong_copy is None


def test_a_failure_outside_ends_the_update_under_way_and_those_to_come(make: Callable[..., Ranks]) -> None:
    ranks = make(2)
    ranks.train(1)
    engine, exchange = ranks.engines[0], ranks.exchanges[0]
    engine.run_until(2)
    while not exchange.wait(1.0).begun:
        pass
    exchange.fail("rank 1 has gone")
    with pytest.raises(InternalError, match="rank 1 has gone"):
        while True:
            engine.poll(1.0)
    # An update that is asked for later ends too.
    other = ranks.engines[1]
    ranks.exchanges[1].fail("rank 0 has gone")
    other.run_until(2)
    with pytest.raises(InternalError, match="rank 0 has gone"):
        while True:
            other.poll(1.0)


def test_ranks_of_an_engine_are_checked(tokens: _symlm.Shards) -> None:
    from symlm.errors import UserError

    with pytest.raises(UserError, match="rank 0 of 13, expected 1 to 12 ranks"):
        Ranks(tokens, 13, model=MODEL)
