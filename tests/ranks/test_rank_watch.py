"""Which rank is to blame for silence, and when a rank may end the others: on a clock of the test."""

from __future__ import annotations

import pytest

from symlm.ranks.watch import GRACE_S, Watch

LIMIT = 15.0


def name(rank: int) -> str:
    return f"rank {rank} on host-{rank + 1}"


def watched(rank: int, last_heard: dict[int, float]) -> Watch:
    """A rank that has looked until 100 and heard the others at these times for the last time."""
    watch = Watch(rank, len(last_heard) + 1, LIMIT, 0.0)
    for now in range(1, 101):
        watch.look(float(now))
    for other, when in last_heard.items():
        watch.hear(other, when)
    return watch


def said(watch: Watch, now: float, gone: frozenset[int] = frozenset()) -> str | None:
    error = watch.silence(now, gone, name)
    return None if error is None else error.message


def test_a_rank_without_a_cable_blames_itself() -> None:
    # Signs of life come once a second, so those that are cut off together were not heard at the same instant.
    watch = watched(0, {1: 100.0, 2: 99.2})
    assert said(watch, 114.0) is None
    assert said(watch, 114.3) == "rank 0 on host-1 hears none of the other ranks: its own network, or all of theirs"


def test_all_that_are_late_are_named() -> None:
    watch = watched(0, {1: 100.0, 2: 99.2, 3: 114.0})
    assert said(watch, 114.3) == "rank 1 on host-2, rank 2 on host-3 have been silent for 15 s"
    assert said(watched(2, {0: 99.0, 1: 114.0}), 114.3) == "rank 0 on host-1 has been silent for 15 s"


def test_of_two_ranks_each_names_the_other() -> None:
    assert said(watched(0, {1: 99.0}), 114.3) == "rank 1 on host-2 has been silent for 15 s"


def test_who_has_said_goodbye_is_not_late() -> None:
    assert said(watched(0, {1: 50.0, 2: 100.0}), 114.3, frozenset({1})) is None


def test_a_process_that_was_stopped_does_not_blame_the_others() -> None:
    watch = watched(0, {1: 100.0, 2: 100.0})
    watch.look(200.0)
    assert said(watch, 200.0) is None


def test_rank_0_has_a_while_to_end_and_a_save_under_way_is_no_part_of_it() -> None:
    watch = watched(0, {1: 100.0})
    for now in (100.0, 150.0, 200.0):
        assert not watch.overdue(now, saving=True, leaving=False)
    assert not watch.overdue(200.0 + GRACE_S, saving=False, leaving=False)
    assert watch.overdue(200.1 + GRACE_S, saving=False, leaving=False)
    assert not watch.overdue(300.0, saving=False, leaving=True)


@pytest.mark.parametrize("leaving", [True, False])
def test_another_rank_ends_all_when_rank_0_is_done_or_silent(leaving: bool) -> None:
    watch = watched(1, {0: 100.0})
    watch.overdue(100.0, saving=False, leaving=leaving)
    for now in range(101, 200):
        # Rank 0 saves, and lives.
        watch.hear(0, float(now))
        assert not watch.overdue(float(now), saving=False, leaving=leaving)
        assert not watch.may_end.is_set()
    assert watch.overdue(200.0 + LIMIT, saving=False, leaving=leaving) != leaving
    assert watch.may_end.is_set()
