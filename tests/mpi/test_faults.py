"""A rank is killed, hangs, or its cable is cut: the others end in time, say whose fault it was, and nothing is lost.

`SYMLM_MPI_STRIKES` is the number of kills, hangs and cuts, such as `20,5,5`.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from torture.lab import Reference, look, make_reference, make_training

from .hosts import Hosts
from .launch import Launcher
from .runs import Job, Jobs, wait_for

pytestmark = pytest.mark.mpi

KILLS, HANGS, CUTS = map(int, os.environ.get("SYMLM_MPI_STRIKES", "20,5,5").split(","))
RANK_TIMEOUT_S = 15
PATIENT_S = 600
ENDINGS_S = 45
"""From the limit to the last process: twice what the endings may take one after the other. Rank 0 has ten seconds to
end by itself, news of a failure two to go out, another rank waits three for the last words of rank 0, the launcher
three to end what is left; signs of life come every second."""

CUT = ((3, 0), (2, 1), (3, 2), (2, 0), (3, 1))
"""Ranks of a job, and the one whose cable is cut, in turn."""

COUNTS = (2, 3, 4)
LATE = "the other ranks have not started within"
SHAPE = ("--seq-len", 32, "--batch-size", 12, "--vocab-size", 400, "--hidden-size", 64, "--intermediate-size", 160)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder = tmp_path_factory.mktemp("reference")
    training = make_training(folder, size=200_000, steps=400, save=40, shape=SHAPE)
    return make_reference(training, folder / "reference")


@pytest.fixture
def jobs(launcher: Launcher, tmp_path: Path) -> Iterator[Jobs]:
    with Jobs(launcher, tmp_path) as started:
        yield started


def words(reference: Reference, timeout: int = RANK_TIMEOUT_S) -> list[object]:
    again = ["--resume", "auto", "--out-dir", "run", "--threads", 1, "--rank-timeout", timeout]
    return ["train", *reference.training.words, *again]


def begun(jobs: Jobs, reference: Reference, hosts: Hosts, ranks: int, updates: int) -> Job:
    """A job that has done so many updates more than before."""
    before = look(jobs.folder / "run").newest
    target = min(before + updates, reference.truth.step)
    started: list[Job] = []

    def there() -> bool:
        # The limit bounds the start too, and a busy machine takes longer for that than for what is tried here.
        if not started or (started[-1].gone() and LATE in started[-1].err):
            started.append(jobs.start(ranks, words(reference), hosts=hosts))
        found = started[-1].trained()
        ended = started[-1].process.poll() is not None and LATE not in started[-1].err
        assert not ended or found >= target, f"it ended: {started[-1].err[-2000:]}"
        return found >= target

    wait_for(there, f"update {target}")
    return started[-1]


def finish(jobs: Jobs, reference: Reference, hosts: Hosts, ranks: int) -> None:
    """Resume to the end, which is that of a run that nobody disturbed."""
    jobs.run(ranks, words(reference, PATIENT_S), hosts=hosts)
    assert reference.truth.differences(jobs.folder / "run") == []


def in_time(holds: Callable[[], bool], struck: float) -> None:
    """Wait until all ranks have ended, which has to be soon after the limit of time since the strike."""
    wait_for(holds, "the end of all ranks", struck + RANK_TIMEOUT_S + ENDINGS_S - time.monotonic())


def check_end(job: Job, folder: Path, struck: float, named: str = "") -> None:
    """It ends in time, says who is to blame, and its checkpoints are whole."""
    in_time(job.gone, struck)
    assert job.process.returncode != 0
    check_words(job, folder, named)


def check_words(job: Job, folder: Path, named: str) -> None:
    """What it has said, and what it leaves behind."""
    assert not look(folder).faults
    assert "Traceback" not in job.err
    assert "panicked" not in job.err
    assert not named or "error: " in job.err
    assert named in job.err, job.err[-3000:]


def test_a_rank_is_killed(jobs: Jobs, make_hosts: Callable[..., Hosts], reference: Reference) -> None:
    hosts, rng = make_hosts(3), random.Random("kills")
    for _ in range(KILLS):
        ranks = rng.choice(COUNTS)
        job = begun(jobs, reference, hosts, ranks, rng.randint(1, 60))
        if job.gone():
            # It was quicker than the strike: the run is done.
            finish_run(jobs)
            continue
        victim = rng.choice(list(job.ranks().items()) or [(0, job.process.pid)])
        struck = time.monotonic()
        os.kill(victim[1], signal.SIGKILL)
        # Most launchers notice at once, and end the others before they can say anything.
        check_end(job, jobs.folder / "run", struck)
    finish(jobs, reference, hosts, rng.choice(COUNTS))


def finish_run(jobs: Jobs) -> None:
    """Put a finished run aside, so that another one begins."""
    (jobs.folder / "run").rename(jobs.folder / f"done-{len(jobs.started)}")


def test_a_rank_hangs(jobs: Jobs, make_hosts: Callable[..., Hosts], reference: Reference) -> None:
    hosts, rng = make_hosts(3), random.Random("hangs")
    for _ in range(HANGS):
        ranks = rng.choice((2, 3))
        job = begun(jobs, reference, hosts, ranks, rng.randint(1, 40))
        rank = rng.randrange(1, ranks)
        victim, struck = job.ranks()[rank], time.monotonic()
        os.kill(victim, signal.SIGSTOP)
        check_end(job, jobs.folder / "run", struck, f"rank {rank} on host-{rank + 1} has been silent")
    finish(jobs, reference, hosts, 4)


def test_rank_0_hangs(jobs: Jobs, make_hosts: Callable[..., Hosts], reference: Reference) -> None:
    hosts = make_hosts(3)
    job = begun(jobs, reference, hosts, 3, 5)
    victim, struck = job.ranks()[0], time.monotonic()
    os.kill(victim, signal.SIGSTOP)
    check_end(job, jobs.folder / "run", struck, "rank 0 on host-1 has been silent")
    finish(jobs, reference, hosts, 2)


def blamed(ranks: int, cut: int) -> str:
    """Whom rank 0 names: only its words get through to the launcher, which is on its host."""
    if cut == 0 and ranks > 2:
        return "rank 0 on host-1 hears none of the other ranks"
    # Of two ranks each sees the other one go.
    return f"rank {cut or 1} on host-{(cut or 1) + 1} has been silent"


def test_a_cable_is_cut(jobs: Jobs, make_hosts: Callable[..., Hosts], reference: Reference) -> None:
    hosts, rng = make_hosts(3), random.Random("cuts")
    for number in range(CUTS):
        ranks, rank = CUT[number % len(CUT)]
        job = begun(jobs, reference, hosts, ranks, rng.randint(1, 40))
        struck = time.monotonic()
        hosts[rank].cut()
        # Those on both sides end: nobody can tell the launcher's helper on that host, but it has no rank left.
        in_time(job.without_ranks, struck)
        check_words(job, jobs.folder / "run", blamed(ranks, rank))
        assert job.process.poll() != 0
        hosts.restore(hosts[rank])
        job.end()
    finish(jobs, reference, hosts, 4)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_a_rank_saves(
    jobs: Jobs, make_hosts: Callable[..., Hosts], reference: Reference, signum: signal.Signals
) -> None:
    hosts = make_hosts(3)
    for rank in (0, 2):
        job = begun(jobs, reference, hosts, 3, 10)
        os.kill(job.ranks()[rank], signum)
        wait_for(job.gone, "the end of all ranks")
        sight = look(jobs.folder / "run")
        assert not sight.faults
        assert sight.newest == sight.trained, "every update is saved"
    finish(jobs, reference, hosts, 2)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_the_launcher_loses_nothing_that_was_saved(
    jobs: Jobs, make_hosts: Callable[..., Hosts], reference: Reference, signum: signal.Signals
) -> None:
    hosts = make_hosts(3)
    job = begun(jobs, reference, hosts, 3, 50)
    os.kill(job.launcher, signum)
    wait_for(job.gone, "the end of all ranks")
    assert not look(jobs.folder / "run").faults
    finish(jobs, reference, hosts, 3)
