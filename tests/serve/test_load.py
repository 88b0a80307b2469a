"""Many clients at once, a third of them leaving early: a short piece of what `make soak` does for ten minutes."""

from __future__ import annotations

from pathlib import Path

import pytest

from served import serving
from soak import LEAST_LOOKS, QUARTERS, Held, Soaked, Tally, soak

REQUESTS = 200


def test_many_clients_are_served_and_nothing_stays_taken(served_model: Path) -> None:
    with serving(served_model) as server:
        soaked = soak(server, 0.0, 0.0, REQUESTS)
        assert server.stop() == 0
    assert not soaked.wrong()
    assert soaked.tally.ended["whole"] > 0
    assert soaked.tally.ended["left"] > 0


def soaked(memory: list[int], after: int, files: int, *, free: bool = True) -> Soaked:
    """What might have been seen of a server with 50 MB and 8 files."""
    tally = Tally()
    tally.memory = memory
    return Soaked(tally, Held(50_000_000, 8, 10), Held(after, files, 10), free)


@pytest.mark.parametrize(("found", "what"), [
    (soaked([50_000_000] * LEAST_LOOKS * QUARTERS, 51_000_000, 8), ""),
    (soaked([50_000_000, 60_000_000], 51_000_000, 8), ""),
    (soaked([100_000 * look for look in range(LEAST_LOOKS * QUARTERS)], 51_000_000, 8), "still growing"),
    (soaked([], 90_000_000, 8), "has grown"),
    (soaked([], 50_000_000, 9), "files"),
    (soaked([], 50_000_000, 8, free=False), "taken"),
])  # fmt: skip
def test_what_a_soak_complains_of(found: Soaked, what: str) -> None:
    wrong = found.wrong()
    assert [what in line for line in wrong] == [True] * bool(what)
