"""Task graphs with measured durations, recorded from engines for any number of workers."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .. import _symlm
from ..errors import MemoryPlanError
from ..units import count_of
from .cases import Case
from .engines import Engines
from .simulate import Prediction, TaskGraph, predict

WORKERS = (1, 2, 4, 8, 16, 32, 64, 128)
RECORD_SECONDS, QUICK_RECORD_SECONDS = 3.5, 0.7
RECORD_ROUNDS = 7
MOST_UPDATES = 100
MOST_SPANS = 900_000
"""Of a turn; the engine's own log is a little longer."""


@dataclass(frozen=True)
class Row:
    """One number of simulated workers. `recorded_with` is the number of real ones that the durations come from, and
    `speedup` is over the simulated single worker."""

    prediction: Prediction
    recorded_with: int
    tasks: int
    speedup: float
    chain: list[tuple[str, int, float]]

    @property
    def efficiency(self) -> float:
        """Speed-up per worker."""
        return self.speedup / self.prediction.workers

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        chain = [{"kind": kind, "tasks": count, "seconds": seconds} for kind, count, seconds in self.chain]
        return {
            "workers": self.prediction.workers,
            "seconds": self.prediction.seconds,
            "speedup": self.speedup,
            "efficiency": self.efficiency,
            "work_s": self.prediction.work,
            "chain_s": self.prediction.chain,
            "limit": self.prediction.limit,
            "tasks": self.tasks,
            "recorded_with": self.recorded_with,
            "chain": chain,
        }


@dataclass
class Recording:
    """A plan of tasks as `Engine.task_graph` gives it, and the nanoseconds of each in `updates` of each round."""

    case: Case
    nodes: list[_symlm.Task]
    updates: int
    times: list[list[int]] = field(default_factory=list)

    def graph(self) -> TaskGraph:
        """The tasks with their median times."""
        seconds = [statistics.median(times) / 1e9 if times else 0.0 for times in self.times]
        kinds, after = [node.kind for node in self.nodes], [node.after for node in self.nodes]
        return TaskGraph(kinds, after, seconds, [node.urgent for node in self.nodes])


class Recorder:
    """Records each plan that engines make for these numbers of workers, on as many real ones, but not more than `base`
    has."""

    def __init__(self, engines: Engines, base: Case, *, quick: bool, workers: Sequence[int] = WORKERS) -> None:
        self.engines = engines
        self.workers = workers
        self.base = base
        self.turn_seconds = (QUICK_RECORD_SECONDS if quick else RECORD_SECONDS) / RECORD_ROUNDS
        self.recordings: list[Recording] = []
        self.by_workers: dict[int, Recording] = {}

    def run(self, progress: Callable[[int, int], None], warn: Callable[[str], None]) -> list[Row]:
        """Record in turns, then replay; a `MemoryPlanError` leaves the larger numbers of workers out."""
        for workers in self.workers:
            try:
                self._plan(workers)
            except MemoryPlanError as error:
                warn(f"no simulation of {count_of(workers, 'worker')} and more: {error.message}")
                break
        total = RECORD_ROUNDS * len(self.recordings)
        for number in range(RECORD_ROUNDS):
            for index, recording in enumerate(self.recordings):
                self._record(recording)
                progress(number * len(self.recordings) + index + 1, total)
        return self._rows()

    def _plan(self, workers: int) -> None:
        """Find out the plan for so many workers; many have the same one."""
        case = dataclasses.replace(self.base, threads=min(workers, self.base.threads), plan_threads=workers)
        engine = self.engines.get(case)
        nodes = engine.task_graph()
        for recording in self.recordings:
            if recording.case.threads == case.threads and recording.nodes == nodes:
                self.by_workers[workers] = recording
                self.engines.release(case)
                return
        _, seconds = self.engines.advance(engine, 1)
        updates = min(max(round(self.turn_seconds / seconds), 1), MOST_UPDATES, MOST_SPANS // len(nodes) or 1)
        recording = Recording(case, nodes, updates, [[] for _ in nodes])
        self.recordings.append(recording)
        self.by_workers[workers] = recording

    def _record(self, recording: Recording) -> None:
        engine = self.engines.get(recording.case)
        self.engines.advance(engine, 1)
        engine.record(True)
        self.engines.advance(engine, recording.updates)
        engine.record(False)
        for span in engine.take_trace().spans:
            recording.times[span.node].append(span.end_ns - span.start_ns)

    def _rows(self) -> list[Row]:
        rows: list[Row] = []
        graphs = {id(recording): recording.graph() for recording in self.recordings}
        for workers, recording in self.by_workers.items():
            graph = graphs[id(recording)]
            prediction = predict(graph, workers)
            single = rows[0].prediction.seconds if rows else prediction.seconds
            speedup = single / prediction.seconds if prediction.seconds > 0 else 1.0
            rows.append(Row(prediction, recording.case.threads, len(recording.nodes), speedup, graph.chain()))
        return rows
