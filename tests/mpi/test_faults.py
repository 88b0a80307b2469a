"""A rank is killed, hangs, or its cable is cut: the others end in time, say whose fault it was, and nothing is lost.

`SYMLM_MPI_STRIKES` is the number of kills, hangs and cuts, such as `20,5,5`.
"""

from __future__ import annotations

import os
import random
import signal
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
GRACE_S = 120
"""For a machine that is slow: what a strike takes beside the limit."""

COUNTS = (2, 3, 4)
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
    job = jobs.start(ranks, words(reference), hosts=hosts)
    target = min(before + updates, reference.truth.step)

    def there() -> bool:
        found = job.trained()
        assert job.process.poll() is None or found >= target, f"it ended: {job.err[-2000:]}"
        return found >= target

    wait_for(there, f"update {target}")
    return job


def finish(jobs: Jobs, reference: Reference, hosts: Hosts, ranks: int) -> None:
    """Resume to the end, which is that of a run that nobody disturbed."""
    jobs.run(ranks, words(reference, PATIENT_S), hosts=hosts)
    assert reference.truth.differences(jobs.folder / "run") == []


def check_end(job: Job, folder: Path, named: tuple[str, ...] = ()) -> None:
    """It ends in time, says who is to blame, and its checkpoints are whole."""
    wait_for(job.gone, "the end of all ranks", RANK_TIMEOUT_S + GRACE_S)
    assert job.process.returncode != 0
    assert not look(folder).faults
    assert "Traceback" not in job.err
    assert "panicked" not in job.err
    for word in named:
        assert word in job.err, job.err[-3000:]


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
        os.kill(victim[1], signal.SIGKILL)
        check_end(job, jobs.folder / "run")
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
        os.kill(job.ranks()[rank], signal.SIGSTOP)
        check_end(job, jobs.folder / "run", (f"rank {rank}", f"host-{rank + 1}"))
    finish(jobs, reference, hosts, 4)


def test_rank_0_hangs(jobs: Jobs, make_hosts: Callable[..., Hosts], reference: Reference) -> None:
    hosts = make_hosts(3)
    job = begun(jobs, reference, hosts, 3, 5)
    os.kill(job.ranks()[0], signal.SIGSTOP)
    check_end(job, jobs.folder / "run", ("rank 0", "host-1"))
    finish(jobs, reference, hosts, 2)


def test_a_cable_is_cut(jobs: Jobs, make_hosts: Callable[..., Hosts], reference: Reference) -> None:
    hosts, rng = make_hosts(3), random.Random("cuts")
    for _ in range(CUTS):
        ranks = rng.choice((2, 3))
        job = begun(jobs, reference, hosts, ranks, rng.randint(1, 40))
        rank = rng.randrange(1, ranks)
        hosts[rank].cut()
        # Those on both sides end: nobody can tell the launcher's helper on that host, but it has no rank left.
        wait_for(job.without_ranks, "the end of all ranks", RANK_TIMEOUT_S + GRACE_S)
        assert f"rank {rank}" in job.err, job.err[-3000:]
        assert not look(jobs.folder / "run").faults
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
        wait_for(job.gone, "the end of all ranks", RANK_TIMEOUT_S + GRACE_S)
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
    wait_for(job.gone, "the end of all ranks", RANK_TIMEOUT_S + GRACE_S)
    assert not look(jobs.folder / "run").faults
    finish(jobs, reference, hosts, 3)
