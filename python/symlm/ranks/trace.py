"""Recordings of several ranks in one file: a process for each, on the clock of rank 0."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import _symlm
from ..errors import UserError, reason
from ..system.files import temporary_folder
from .wire import Letter
from .world import World

_PINGS = 8
_LOOK_S = 0.1


@dataclass(frozen=True)
class Recording:
    """The events of a rank, and the origin of their times by its clock, in nanoseconds."""

    events: list[dict[str, Any]]
    origin_ns: int


def tell(world: World, trace: _symlm.Trace) -> None:
    """Give rank 0 the recording of this rank."""
    with tempfile.TemporaryDirectory(dir=temporary_folder()) as folder:
        path = Path(folder) / "trace.json"
        trace.write_chrome(str(path))
        world.send(0, {"do": "traced", "origin_ns": trace.origin_ns}, path.read_bytes())


def answer_clock(world: World) -> None:
    """Tell rank 0 what time it is here."""
    world.send(0, {"do": "time", "ns": time.monotonic_ns()})


def gather(world: World, path: str, origin_ns: int) -> None:
    """Put the recordings of all other ranks into the file of rank 0, whose times count from `origin_ns`.

    UserError where it cannot be written.
    """
    recordings, ahead = [Recording(_events(Path(path).read_bytes()), origin_ns)], [0]
    for rank in world.others:
        ahead.append(_ahead(world, rank))
        world.send(rank, {"do": "trace"})
        letter = _await(world, rank, "traced")
        recordings.append(Recording(_events(letter.payload), letter.said["origin_ns"]))
    origins = [of.origin_ns - offset for of, offset in zip(recordings, ahead, strict=True)]
    first = min(origins)
    events: list[dict[str, Any]] = []
    for rank, (of, origin) in enumerate(zip(recordings, origins, strict=True)):
        events += _placed(of.events, rank, world.hellos[rank].host, (origin - first) / 1e3)
    try:
        temporary = Path(path).with_name(f".{Path(path).name}.tmp")
        temporary.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {reason(error)}") from None


def _events(content: bytes) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(content)["traceEvents"]
    return found


def _placed(events: list[dict[str, Any]], rank: int, host: str, later_us: float) -> list[dict[str, Any]]:
    """The events of a rank as a separate process, so much later."""
    name = {"name": "process_name", "ph": "M", "pid": rank + 1, "tid": 0, "args": {"name": f"rank {rank} on {host}"}}
    placed = [name]
    for event in events:
        if event["name"] != "process_name":
            moved = {"ts": event["ts"] + later_us} if "ts" in event else {}
            placed.append({**event, **moved, "pid": rank + 1})
    return placed


def _ahead(world: World, rank: int) -> int:
    """Nanoseconds that the clock of a rank is ahead of this one's, within half of the shortest way there and back."""
    if world.hellos[rank].machine == world.hellos[world.rank].machine:
        return 0
    found = []
    for _ in range(_PINGS):
        before = time.monotonic_ns()
        world.send(rank, {"do": "clock"})
        there = _await(world, rank, "time").said["ns"]
        after = time.monotonic_ns()
        found.append((after - before, there - (before + after) // 2))
    return int(min(found)[1])


def _await(world: World, rank: int, what: str) -> Letter:
    """The answer of a rank. All rest, so nothing else that matters comes."""
    while True:
        letter = world.receive(_LOOK_S)
        if letter is not None and (letter.source, letter.do) == (rank, what):
            return letter
        if letter is not None:
            world.put_back(letter)
            time.sleep(_LOOK_S / 100)
