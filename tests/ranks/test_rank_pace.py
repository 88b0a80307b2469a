"""How often the thread of a rank looks at what MPI has done."""

from __future__ import annotations

import pytest

from symlm.ranks.hello import Hello
from symlm.ranks.pace import Pace

EVER = 40
"""Looks after which the pause no longer grows."""


def pace(machines: str = "aa", cpus: int = 2, sharing: int | None = None) -> Pace:
    """Of rank 0, with a letter for the machine of each rank; those of its machine share memory unless it is said."""
    hellos = [Hello(of, of, tuple(range(cpus)), "", 0, {}, 15.0) for of in machines]
    return Pace(hellos, 0, machines.count(machines[0]) if sharing is None else sharing)


def pauses(of: Pace, looks: int = EVER) -> list[float]:
    """Those after looks that find nothing."""
    return [of.sleep(moved=False) for _ in range(looks)]


def test_it_looks_seldom_while_the_workers_have_sectors_to_compute() -> None:
    found = pace()
    waiting = max(pauses(found))
    found.begin(arriving=2, sums=2)
    computing = pauses(found)
    assert min(computing) > 4 * waiting
    found.leave(sums=True)
    # Whatever arrives or leaves meanwhile, the workers are not waiting for it.
    assert found.sleep(moved=True) > waiting
    found.left()
    found.arrived()
    assert found.sleep(moved=True) == computing[0]


def test_it_looks_often_once_the_workers_wait_for_others() -> None:
    found = pace()
    found.begin(arriving=1, sums=1)
    computing = found.sleep(moved=False)
    found.leave(sums=True)
    first = found.sleep(moved=True)
    later = pauses(found)
    assert first < later[0] < later[-1] < computing / 4
    assert later == sorted(later)
    assert found.sleep(moved=True) == first


def test_it_looks_often_between_updates() -> None:
    found = pace()
    found.begin(arriving=1, sums=0)
    found.leave(sums=False)
    found.left()
    found.arrived()
    assert found.flying == 0
    assert max(pauses(found)) < 0.005


@pytest.mark.parametrize(("machines", "cpus"), [("aaa", 2), ("aab", 1)])
def test_it_leaves_the_processor_to_ranks_that_share_it(machines: str, cpus: int) -> None:
    assert max(pauses(pace(machines, cpus))) > 2 * max(pauses(pace("ab", cpus)))


@pytest.mark.parametrize(("machines", "sharing"), [("ab", 1), ("aab", 2), ("aa", 1)])
def test_bytes_between_hosts_move_while_the_workers_compute(machines: str, sharing: int) -> None:
    here, far = pace("aa"), pace(machines, sharing=sharing)
    for of in (here, far):
        of.begin(arriving=1, sums=1)
    assert far.sleep(moved=False) < here.sleep(moved=False) / 4


def test_a_rank_without_sums_to_send_waits_from_the_beginning() -> None:
    found = pace()
    found.begin(arriving=3, sums=0)
    assert max(pauses(found)) < 0.005
