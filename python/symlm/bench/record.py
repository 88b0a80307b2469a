"""Task graphs with measured durations, recorded from engines for any number of workers."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import MemoryPlanError
from .cases import Case
from .engines import Engines
from .simulate import Prediction, TaskGraph, predict

WORKERS = (1, 2, 4, 8, 16, 32, 64, 128)
RECORDED_UPDATES, QUICK_RECORDED_UPDATES = 9, 3
MOST_SPANS = 900_000


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
    """A plan of tasks as `Engine.task_graph` gives it, and the median time of each over some updates."""

    nodes: list[tuple[str, str, list[int]]]
    graph: TaskGraph
    workers: int


def record(engines: Engines, case: Case, updates: int, known: list[Recording]) -> Recording:
    """Record some updates of a case, or find the plan among those that are known."""
    engine = engines.get(case)
    nodes = engine.task_graph()
    for recording in known:
        if recording.nodes == nodes:
            return recording
    engine.record(True)
    engines.advance(engine, max(min(updates, MOST_SPANS // len(nodes)), 1))
    engine.record(False)
    times: list[list[int]] = [[] for _ in nodes]
    for _, node, start, end in engine.take_trace().spans:
        times[node].append(end - start)
    seconds = [statistics.median(spans) / 1e9 if spans else 0.0 for spans in times]
    graph = TaskGraph([kind for kind, _, _ in nodes], [after for _, _, after in nodes], seconds)
    return Recording(nodes, graph, case.threads)


def simulate(
    engines: Engines, base: Case, *, quick: bool, progress: Callable[[int, int], None], warn: Callable[[str], None]
) -> list[Row]:
    """Replay the update on each of `WORKERS`, each with the plan that the engine makes for so many."""
    updates = QUICK_RECORDED_UPDATES if quick else RECORDED_UPDATES
    known: list[Recording] = []
    rows: list[Row] = []
    for done, workers in enumerate(WORKERS):
        case = dataclasses.replace(base, threads=workers)
        try:
            recording = record(engines, case, updates, known)
        except MemoryPlanError as error:
            warn(f"no simulation of {workers} workers and more: {error.message}")
            break
        finally:
            engines.release(case)
        known.append(recording)
        prediction = predict(recording.graph, workers)
        single = rows[0].prediction.seconds if rows else prediction.seconds
        speedup = single / prediction.seconds if prediction.seconds > 0 else 1.0
        rows.append(Row(prediction, recording.workers, len(recording.nodes), speedup, recording.graph.chain()))
        progress(done + 1, len(WORKERS))
    return rows
