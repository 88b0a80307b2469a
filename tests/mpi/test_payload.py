"""What crosses the cables is what the formula says: gradients and values once, and nothing else to speak of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import symlm
from symlm.ranks.division import payload
from torture.lab import write_text

from .hosts import Hosts
from .launch import Launcher
from .runs import Jobs

pytestmark = pytest.mark.mpi

SHORT, LONG = 4, 24
PRESET, BATCH = "1m", 12
# A frame of 1,500 bytes has 66 of headers, and every other one is acknowledged.
HEADERS = 1.10


@pytest.fixture
def jobs(launcher: Launcher, tmp_path: Path) -> Iterator[Jobs]:
    write_text(tmp_path / "text.txt", 200_000, 1)
    with Jobs(launcher, tmp_path) as started:
        yield started


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_bytes_of_an_update(jobs: Jobs, make_hosts: Callable[..., Hosts], ranks: int) -> None:
    hosts = make_hosts(ranks, rate=None)
    model = symlm.TrainConfig(preset=PRESET, seq_len=16).model
    sent = []
    for steps in (SHORT, LONG):
        before = [host.traffic()[0] for host in hosts.hosts]
        words = ["train", "text.txt", "--preset", PRESET, "--seq-len", 16, "--batch-size", BATCH, "--max-steps", steps]
        words += ["--threads", 1, "--val-split", 0, "--sample-every", 0, "--hash-interval", 0, "--progress", "off"]
        jobs.run(ranks, [*words, "--out-dir", f"run-{steps}"], hosts=hosts)
        sent.append([host.traffic()[0] - start for host, start in zip(hosts.hosts, before, strict=True)])
    for rank in range(ranks):
        each = (sent[1][rank] - sent[0][rank]) / (LONG - SHORT)
        formula = payload(model, BATCH, ranks, rank).total
        assert 0.99 < each / formula < HEADERS, (
            f"rank {rank} sends {each:,.0f} bytes an update, expected {formula:,.0f}"
        )
