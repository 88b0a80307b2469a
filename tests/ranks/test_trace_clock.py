"""Recordings of ranks on hosts whose clocks differ stand on one clock in the file."""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from symlm.ranks import trace
from symlm.ranks.wire import Letter
from symlm.ranks.world import World

MS = 1_000_000
SHIFT = 7_000_000_000_123
"""Nanoseconds that the other clock is ahead."""

WAYS = [(9, 3), (2, 8), (1, 1), (4, 4), (40, 2), (3, 30), (5, 5), (2, 2)]
"""Milliseconds there and back of each question for the time."""


class Hosts:
    """Rank 0's view of another rank: letters take their time, on a clock of the test."""

    rank, others = 0, [1]

    def __init__(self, machine: str, origin_ns: int) -> None:
        self.now = 50 * MS
        self.hellos = [
            SimpleNamespace(machine="one", host="host-1"), SimpleNamespace(machine=machine, host="host-2"),
        ]  # fmt: skip
        self.shift = SHIFT if machine != "one" else 0
        self.origin_ns = origin_ns + self.shift
        self.ways = deque(WAYS)
        self.letters: deque[Letter] = deque()
        self.asked: list[str] = []

    def send(self, rank: int, said: dict[str, Any]) -> None:
        self.asked.append(said["do"])
        if said["do"] == "trace":
            content = json.dumps({"traceEvents": [event("theirs", 2000.0)]}).encode()
            self.letters.append(Letter(1, {"do": "traced", "origin_ns": self.origin_ns}, content))
            return
        there, _ = self.ways[0]
        self.now += there * MS
        # Something else that it has to say comes first.
        self.letters.append(Letter(1, {"do": "signal", "signum": 15}))
        self.letters.append(Letter(1, {"do": "time", "ns": self.now + self.shift}))

    def receive(self, timeout: float) -> Letter:
        letter = self.letters.popleft()
        if letter.do == "time":
            self.now += self.ways.popleft()[1] * MS
        return letter

    def put_back(self, letter: Letter) -> None:
        self.letters.append(letter)


def event(name: str, ts: float) -> dict[str, Any]:
    return {"name": name, "ph": "X", "pid": 1, "tid": 1, "ts": ts, "dur": 1.0}


def gathered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str, later_ms: int
) -> tuple[Hosts, float, float]:
    """Times of an event of rank 0, 1 ms after it began to record, and of one of rank 1, 2 ms after it did."""
    hosts = Hosts(machine, 10 * MS + later_ms * MS)
    clock = SimpleNamespace(monotonic_ns=lambda: hosts.now, sleep=lambda _: None)
    monkeypatch.setattr(trace, "time", clock)
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({"traceEvents": [event("ours", 1000.0)]}))
    trace.gather(cast(World, hosts), str(path), 10 * MS)
    found = {of["name"]: of for of in json.loads(path.read_text())["traceEvents"]}
    assert (found["ours"]["pid"], found["theirs"]["pid"]) == (1, 2)
    return hosts, found["ours"]["ts"], found["theirs"]["ts"]


@pytest.mark.parametrize("later_ms", [5, 0, -3])
def test_another_clock_is_set_by_the_shortest_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later_ms: int
) -> None:
    hosts, ours, theirs = gathered(tmp_path, monkeypatch, "two", later_ms)
    assert hosts.asked == ["clock"] * len(WAYS) + ["trace"]
    # The shortest way took as long there as back, so nothing is left of the shift, which no float would show.
    assert theirs - ours == pytest.approx(1000 + 1000 * later_ms)
    assert min(ours - 1000, theirs - 2000) == pytest.approx(0)


def test_an_uneven_way_is_wrong_by_half_of_it_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.WAYS", [(9, 3), (2, 0), *WAYS[3:], (2, 2)])
    _, ours, theirs = gathered(tmp_path, monkeypatch, "two", 5)
    assert theirs - ours == pytest.approx(1000 + 5000, abs=1001)
    assert theirs - ours != pytest.approx(1000 + 5000, abs=1)


def test_ranks_of_one_machine_have_one_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts, ours, theirs = gathered(tmp_path, monkeypatch, "one", 5)
    assert hosts.asked == ["trace"]
    assert theirs - ours == pytest.approx(1000 + 5000)
