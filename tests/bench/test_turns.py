"""Turns of peers: stopped outside of them, never left behind; best turns and quartiles."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import HANG_S
from symlm.bench.cases import plan
from symlm.bench.figures import Figures, Spread
from symlm.bench.peers import Peer
from symlm.bench.report import against_peers, factors_of_peers
from symlm.bench.rounds import Entry, Turn
from symlm.system.signals import StopSignals

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads states of processes from /proc")

SPINS = """
import json, os, subprocess, sys, threading

def spin():
    while True:
        pass

# As the threads of a library that look for work, and a process that compiles.
threading.Thread(target=spin, daemon=True).start()
child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
print(json.dumps({"version": str(child.pid), "parameters": os.getpid()}), flush=True)
for line in sys.stdin:
    print(json.dumps({"seconds": float(line)}), flush=True)
"""
"""A peer that never rests: its version is the process that it has started, its parameters its own."""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "spins.py"
    path.write_text(SPINS, encoding="utf-8")
    return path


@pytest.fixture
def peer(script: Path) -> Iterator[Peer]:
    made = Peer("peer", sys.executable, str(script), {}, 1, StopSignals())
    yield made
    made.close()


def state(pid: int) -> tuple[str, int] | None:
    """State of a process and its processor time; None where there is none, or only its entry is left."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else (fields[0], int(fields[11]) + int(fields[12]))


def wait_for(what: Callable[[], bool]) -> None:
    until = time.monotonic() + HANG_S
    while not what():
        assert time.monotonic() < until
        time.sleep(0.01)


def stopped(pids: tuple[int, ...]) -> bool:
    """Whether every thread of them is: each takes the signal in when it is next on a processor."""
    tasks = [task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
    return all((task / "stat").read_text().rpartition(")")[2].split()[0] in "Tt" for task in tasks)


@needs_proc
def test_a_peer_runs_in_its_turn_and_at_no_other_time(peer: Peer) -> None:
    peer.start()
    pids = peer.parameters, int(peer.version)
    for seconds in (0.25, 0.5):
        wait_for(lambda: stopped(pids))
        before = [state(pid) for pid in pids]
        time.sleep(0.2)
        assert [state(pid) for pid in pids] == before
        assert peer.run(str(seconds)) == seconds
    peer.close()
    wait_for(lambda: [state(pid) for pid in pids] == [None, None])


@needs_proc
def test_a_peer_does_not_outlive_a_benchmark_that_is_killed(script: Path) -> None:
    code = (
        "import sys, time\nfrom symlm.bench.peers import Peer\nfrom symlm.system.signals import StopSignals\n"
        "peer = Peer('peer', sys.executable, sys.argv[1], {}, 1, StopSignals())\n"
        "peer.start()\nprint(peer.parameters, peer.version, flush=True)\ntime.sleep(3600)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", code, str(script)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pids = tuple(map(int, owner.stdout.readline().split()))
    try:
        wait_for(lambda: stopped(pids))
        owner.kill()
        owner.wait()
        wait_for(lambda: [state(pid) for pid in pids] == [None, None])
    finally:
        owner.stdout.close()
        for pid in pids:
            if state(pid) is not None:
                os.kill(pid, signal.SIGKILL)


# --- figures ----------------------------------------------------------------------------------------------------------


def test_quartiles() -> None:
    assert Spread.of([]) is None
    assert Spread.of([3.0]) == Spread(best=3.0, lower=3.0, median=3.0, upper=3.0)
    assert Spread.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(best=5.0, lower=2.0, median=3.0, upper=4.0)


def test_tables_of_a_peer_have_best_turns_and_quartiles() -> None:
    found = plan(2, ["portable"], [], False)
    rates = {found.base.name: [400, 200, 600, 500, 300], "other": [200, 100, 200, 250, 100]}
    cases = {found.base.name: found.base, "other": None}
    entries = [
        Entry(name, cases[name], turns=[Turn(r, 1, rate, 1.0, 10.0) for r, rate in enumerate(of)])
        for name, of in rates.items()
    ]
    figures = Figures(found, entries, 1e9)
    (ratio,) = figures.peers()
    assert (ratio.factor, ratio.of_best) == (2.0, 2.4)
    assert ratio.as_dict()["quartiles"] == [2.0, 2.0, 3.0]
    rows = [list(zip(*(column.cells for column in table.columns), strict=True)) for table in
            (against_peers(figures), factors_of_peers(figures))]  # fmt: skip
    assert rows[0] == [("symlm", "600", "500", "400", "300", "10"), ("other", "250", "200", "200", "100", "10")]
    assert rows[1] == [("other", "3.00 x", "2.00 x", "2.00 x", "2.40 x", "5")]
