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
RECORD_SECONDS, QUICK_RECORD_SECONDS = 3.0, 1.0
LEAST_UPDATES, MOST_UPDATES = 5, 100
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
    """A plan of tasks as `Engine.task_graph` gives it, and the median time of each over some updates of `workers`."""

    nodes: list[tuple[str, str, list[int]]]
    graph: TaskGraph
    workers: int


def record(engines: Engines, case: Case, quick: bool, known: list[Recording]) -> Recording:
    """Record some updates of a case, or find its plan among those that are known for as many real workers."""
    engine = engines.get(case)
    nodes = engine.task_graph()
    for recording in known:
        if recording.workers == case.threads and recording.nodes == nodes:
            return recording
    _, seconds = engines.advance(engine, 1)
    wanted = round((QUICK_RECORD_SECONDS if quick else RECORD_SECONDS) / seconds)
    updates = min(max(wanted, LEAST_UPDATES), MOST_UPDATES, MOST_SPANS // len(nodes) or 1)
    engine.record(True)
    engines.advance(engine, updates)
    engine.record(False)
    times: list[list[int]] = [[] for _ in nodes]
    for _, node, start, end in engine.take_trace().spans:
        times[node].append(end - start)
    medians = [statistics.median(spans) / 1e9 if spans else 0.0 for spans in times]
    graph = TaskGraph([kind for kind, _, _ in nodes], [after for _, _, after in nodes], medians)
    return Recording(nodes, graph, case.threads)


def simulate(
    engines: Engines, base: Case, *, quick: bool, progress: Callable[[int, int], None], warn: Callable[[str], None]
) -> list[Row]:
    """Replay the update on each of `WORKERS`, each with the plan that the engine makes for so many. The times come from
    as many real workers, but not more than `base` has."""
    known: list[Recording] = []
    rows: list[Row] = []
    for done, workers in enumerate(WORKERS):
        case = dataclasses.replace(base, threads=min(workers, base.threads), plan_threads=workers)
        try:
            recording = record(engines, case, quick, known)
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
