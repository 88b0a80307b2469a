"""An update on any number of workers, replayed from its task graph and the time that each task took.

The simulated pool is the real one without its costs: a worker takes the newest task of its deque, then the oldest
of the queue of the beginning, then the oldest of another's deque, and work that nothing waits for last. No worker
is idle while a task is ready, so the bounds of list scheduling hold (Graham, "Bounds on multiprocessing timing
anomalies", 1969): with W the sum of all times, C the longest chain and P workers, the time of the update is at least
max(W / P, C) and at most W / P + C.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TaskGraph:
    """Tasks in an order in which each comes after those in its `after`; `seconds` is the time that each takes, and the
    pool puts off those that are not `urgent` while others are ready."""

    kinds: Sequence[str]
    after: Sequence[Sequence[int]]
    seconds: Sequence[float]
    urgent: Sequence[bool]

    @property
    def work(self) -> float:
        """Seconds of all tasks together."""
        return sum(self.seconds)

    def critical_path(self) -> list[int]:
        """The tasks of the longest chain, first to last."""
        end: list[float] = []
        via: list[int] = []
        for task, after in enumerate(self.after):
            latest = max(after, key=end.__getitem__, default=-1)
            via.append(latest)
            end.append(self.seconds[task] + (end[latest] if latest >= 0 else 0.0))
        path = []
        task = max(range(len(end)), key=end.__getitem__, default=-1)
        while task >= 0:
            path.append(task)
            task = via[task]
        return path[::-1]

    def chain(self) -> list[tuple[str, int, float]]:
        """The longest chain by kinds: kind, number of tasks, seconds; most seconds first."""
        found: dict[str, tuple[int, float]] = {}
        for task in self.critical_path():
            count, seconds = found.get(self.kinds[task], (0, 0.0))
            found[self.kinds[task]] = (count + 1, seconds + self.seconds[task])
        return sorted(((kind, *rest) for kind, rest in found.items()), key=lambda row: -row[2])


@dataclass(frozen=True)
class Prediction:
    """The simulated update: its seconds, and the two lower bounds of them."""

    workers: int
    seconds: float
    work: float
    chain: float

    @property
    def limit(self) -> str:
        """The larger one of the two bounds."""
        return "work" if self.work / self.workers >= self.chain else "chain"


class _Pool:
    """Which worker takes which task; mirrors the order of the engine's pool."""

    def __init__(self, graph: TaskGraph, workers: int) -> None:
        self.graph = graph
        self.deques: list[deque[int]] = [deque() for _ in range(workers)]
        self.first: deque[int] = deque()
        self.later: deque[int] = deque()
        self.ready = 0

    def push(self, task: int, worker: int | None) -> None:
        """A task is ready; `worker` is the one that finished the last of those before it."""
        self.ready += 1
        if not self.graph.urgent[task]:
            self.later.append(task)
        elif worker is None:
            self.first.append(task)
        else:
            self.deques[worker].append(task)

    def take(self, worker: int) -> int:
        """The task that a worker without one turns to; there is one."""
        self.ready -= 1
        own = self.deques[worker]
        if own:
            return own.pop()
        if self.first:
            return self.first.popleft()
        for k in range(1, len(self.deques)):
            victim = self.deques[(worker + k) % len(self.deques)]
            if victim:
                return victim.popleft()
        return self.later.popleft()


def makespan(graph: TaskGraph, workers: int) -> float:
    """Seconds of an update on `workers` workers."""
    return max(finish_times(graph, workers), default=0.0)


def finish_times(graph: TaskGraph, workers: int) -> list[float]:
    """When each task ends in an update on `workers` workers, in seconds from its start."""
    successors: list[list[int]] = [[] for _ in graph.after]
    pending = [len(after) for after in graph.after]
    for task, after in enumerate(graph.after):
        for before in after:
            successors[before].append(task)
    pool = _Pool(graph, workers)
    for task, count in enumerate(pending):
        if count == 0:
            pool.push(task, None)
    idle = list(range(workers))
    running: list[tuple[float, int, int]] = []
    now = 0.0
    ends = [0.0] * len(graph.after)
    while True:
        # Those who finished just now are first in line, as in the real pool, where a sleeper has to wake up.
        while idle and pool.ready:
            worker = idle.pop()
            task = pool.take(worker)
            heapq.heappush(running, (now + graph.seconds[task], worker, task))
        if not running:
            return ends
        now = running[0][0]
        while running and running[0][0] == now:
            _, worker, task = heapq.heappop(running)
            ends[task] = now
            idle.append(worker)
            for following in successors[task]:
                pending[following] -= 1
                if pending[following] == 0:
                    pool.push(following, worker)


def predict(graph: TaskGraph, workers: int) -> Prediction:
    """Replay the graph and compute its bounds."""
    chain = sum(graph.seconds[task] for task in graph.critical_path())
    return Prediction(workers, makespan(graph, workers), graph.work, chain)
