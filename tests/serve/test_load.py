"""Many clients at once, a third of them leaving early: a short piece of what `make soak` does for ten minutes."""

from __future__ import annotations

from pathlib import Path

from served import serving
from soak import soak

SECONDS, REQUESTS = 2.0, 200


def test_many_clients_are_served_and_nothing_stays_taken(served_model: Path) -> None:
    with serving(served_model) as server:
        soaked = soak(server, SECONDS, 0.0, REQUESTS)
        assert server.stop() == 0
    assert not soaked.tally.errors
    assert soaked.free
    assert soaked.after.files <= soaked.warm.files
    assert soaked.tally.ended["whole"] > 0
    assert soaked.tally.ended["left"] > 0
