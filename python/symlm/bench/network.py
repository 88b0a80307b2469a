"""An update on several machines, predicted from one that was recorded on this one.

Each machine does its own sectors of the recorded tasks on the simulated workers of `simulate`. Gradients leave bucket
by bucket as they become ready, the owner folds them, sums of squares go round, each owner updates its part, and the new
values go to all others. A machine sends one message at a time and receives one at a time, at the rate of its link.

What one process does not do is taken from what it does: a fold reads as much for each partial sum as the sums of
squares read once, and packing weights that arrived takes `PACKING` of the time of an update.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..config.model_config import ModelConfig
from ..ranks.division import SECTORS, Bucket, buckets, nodes_of, payload, rank_sectors, sector_windows
from .simulate import TaskGraph, finish_times

MACHINES = tuple(range(1, 13))
PACKING = 0.4
FLOAT_BYTES = 4
LARGEST_FACTOR = 4096.0
USED = 0.5
"""The part of each machine that has to be used for more of them to pay. Half of two is as fast as one."""

_WINDOW = re.compile(r"window (\d+)")
_SECTORS = re.compile(r"sectors? (\d+)(?: to (\d+))?")
_LAYER = re.compile(r"layer (\d+)")
_AFTERWARDS = ("squares", "finish", "update")


class Node(Protocol):
    """A task of a plan, as the engine gives it."""

    @property
    def kind(self) -> str: ...
    @property
    def detail(self) -> str: ...


@dataclass(frozen=True)
class Link:
    """What joins a machine to the switch: bytes a second in each direction, and seconds until the first byte."""

    rate: float
    latency: float


@dataclass(frozen=True)
class Scale:
    """Another batch or another model than the recorded one: how many times as many windows, and parameters."""

    batch: float = 1.0
    model: float = 1.0


@dataclass(frozen=True)
class Forecast:
    """An update on so many machines: its seconds, and those for which the last machine waits for bytes."""

    machines: int
    seconds: float
    exchange: float


class Machines:
    """A recorded update, and what it becomes on several machines with `workers` workers each."""

    def __init__(self, nodes: Sequence[Node], graph: TaskGraph, model: ModelConfig, batch: int, workers: int) -> None:
        self.nodes, self.graph, self.model, self.batch, self.workers = nodes, graph, model, batch, workers
        self.buckets = buckets(model)
        self._bucket_of = [self._bucket(node) for node in nodes]
        self._work = {kind: self._seconds(kind) for kind in _AFTERWARDS}
        self._gradients: dict[int, list[tuple[float, dict[str, float]]]] = {}

    def _seconds(self, kind: str) -> float:
        return sum(s for node, s in zip(self.nodes, self.graph.seconds, strict=True) if node.kind == kind)

    def _bucket(self, node: Node) -> str | None:
        """The bucket whose gradient a task makes."""
        if node.kind == "head gradient":
            return "embedding" if self.model.tie_embeddings else "head"
        if node.kind == "embedding gradient":
            return "embedding"
        if node.kind == "norm gradient":
            number = int(node.detail.rpartition(" ")[2]) // 2
            return f"layer {number}" if number < self.model.num_layers else "norm"
        layer = _LAYER.search(node.detail) if node.kind == "matrix gradient" else None
        return None if layer is None else f"layer {layer[1]}"

    def share(self, node: Node, sectors: range) -> float:
        """The part of a task that a machine with these sectors does, before the gradients are exchanged."""
        windows = [len(sector_windows(self.batch, sector)) for sector in range(SECTORS)]
        window, named = _WINDOW.search(node.detail), _SECTORS.search(node.detail)
        if node.kind in _AFTERWARDS:
            return 0.0
        if window is not None:
            return float(any(int(window[1]) in sector_windows(self.batch, sector) for sector in sectors))
        within = range(SECTORS) if named is None else range(int(named[1]), int(named[2] or named[1]) + 1)
        all_of_it = sum(windows[sector] for sector in within)
        return sum(windows[sector] for sector in within if sector in sectors) / all_of_it if all_of_it else 0.0

    def gradients(self, machines: int) -> list[tuple[float, dict[str, float]]]:
        """For each machine, when its gradients are done, and when those of each bucket are, in seconds."""
        if machines not in self._gradients:
            self._gradients[machines] = [self._gradients_of(sectors) for sectors in rank_sectors(machines)]
        return self._gradients[machines]

    def _gradients_of(self, sectors: range) -> tuple[float, dict[str, float]]:
        seconds = [
            duration * self.share(node, sectors) for node, duration in zip(self.nodes, self.graph.seconds, strict=True)
        ]
        graph = TaskGraph(self.graph.kinds, self.graph.after, seconds, self.graph.urgent)
        ends = finish_times(graph, self.workers)
        ready = {bucket.name: 0.0 for bucket in self.buckets}
        for bucket, end in zip(self._bucket_of, ends, strict=True):
            if bucket is not None:
                ready[bucket] = max(ready[bucket], end)
        return max(ready.values()), ready

    def forecast(self, machines: int, link: Link, scale: Scale = Scale()) -> Forecast:
        """One update on so many machines."""
        windows, size = scale.batch * scale.model, scale.model
        begun = [
            (end * windows, {name: time * windows for name, time in ready.items()})
            for end, ready in self.gradients(machines)
        ]
        work = {kind: seconds * size / self.workers / machines for kind, seconds in self._work.items()}
        if machines == 1:
            return Forecast(1, begun[0][0] + sum(work.values()), 0.0)
        arrived = self._gather(begun, link, size)
        sums = sum(len(nodes_of(sectors)) for sectors in rank_sectors(machines))
        updating = []
        for owner in range(machines):
            now = begun[owner][0]
            for bucket in self.buckets:
                part = bucket.parameters * bucket.folds / self.model.parameters
                now = max(now, arrived[owner][bucket.name]) + part * sums * work["squares"]
            updating.append(now + work["squares"])
        squares = payload(self.model, self.batch, machines, 0).squares * size / link.rate
        start = max(updating) + link.latency + squares + self._work["finish"]
        end = self._spread(machines, start, work["update"], link, size)
        alone = (
            max(time for time, _ in begun)
            + (sums + 1) * work["squares"]
            + work["update"] * (1 + PACKING * (machines - 1))
        )
        return Forecast(machines, end, max(end - alone - self._work["finish"], 0.0))

    def _gather(self, begun: list[tuple[float, dict[str, float]]], link: Link, size: float) -> list[dict[str, float]]:
        """When the partial sums of each bucket are at each owner."""
        machines = len(begun)
        leaving, coming = [0.0] * machines, [0.0] * machines
        arrived = [{bucket.name: 0.0 for bucket in self.buckets} for _ in begun]
        messages = [
            (ready[bucket.name], source, (source + step) % machines, bucket)
            for source, (_, ready) in enumerate(begun)
            for bucket in self.buckets
            for step in range(1, machines)
        ]
        messages.sort(key=lambda message: message[0])
        sectors = rank_sectors(machines)
        for ready, source, owner, bucket in messages:
            sums = len(nodes_of(sectors[source]))
            seconds = self._bytes(bucket, machines, size) * sums * bucket.folds / link.rate
            end = max(ready, leaving[source], coming[owner]) + seconds
            leaving[source] = coming[owner] = end
            arrived[owner][bucket.name] = max(arrived[owner][bucket.name], end + link.latency)
        return arrived

    def _spread(self, machines: int, start: float, update: float, link: Link, size: float) -> float:
        """When all machines have all new values, packed."""
        leaving, coming = [start] * machines, [start] * machines
        done = [start] * machines
        now = start
        for bucket in self.buckets:
            part = update * bucket.parameters / self.model.parameters
            now += part
            seconds = self._bytes(bucket, machines, size) / link.rate
            for step in range(1, machines):
                for source in range(machines):
                    to = (source + step) % machines
                    end = max(now, leaving[source], coming[to]) + seconds
                    leaving[source] = coming[to] = end
                    done[to] = max(done[to], end + link.latency) + part * PACKING
        return max(*done, now)

    def _bytes(self, bucket: Bucket, machines: int, size: float) -> float:
        """Of the part of a bucket that one owner has."""
        return FLOAT_BYTES * bucket.parameters * size / machines

    def speedup(self, machines: int, link: Link, scale: Scale = Scale()) -> float:
        """How many times as fast an update is as on one machine."""
        return self.forecast(1, link, scale).seconds / self.forecast(machines, link, scale).seconds

    def pays_from(self, machines: int, link: Link, *, batch: bool) -> float | None:
        """From how many times the batch (or else the model) on so many machines are faster than one, and at least
        half of each is used: 0 if always, None if never."""

        def pays(factor: float) -> bool:
            scale = Scale(batch=factor) if batch else Scale(model=factor)
            return self.speedup(machines, link, scale) > machines * USED

        low, high = 1.0 / LARGEST_FACTOR, LARGEST_FACTOR
        if not pays(high):
            return None
        if pays(low):
            return 0.0
        while high / low > 1.02:
            middle = (low * high) ** 0.5
            low, high = (low, middle) if pays(middle) else (middle, high)
        return high


@dataclass(frozen=True)
class NetworkRow:
    """A number of machines at one rate; `pays_from_batch` is in windows and at least 12, so that
    every sector has one; `pays_from_parameters` is for the recorded batch, 0 for a model of any size."""

    forecast: Forecast
    gbit_s: float
    tok_s: float
    speedup: float
    sent_bytes: float
    pays_from_batch: int | None
    pays_from_parameters: int | None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "machines": self.forecast.machines,
            "gbit_s": self.gbit_s,
            "seconds": self.forecast.seconds,
            "exchange_s": self.forecast.exchange,
            "tok_s": self.tok_s,
            "speedup": self.speedup,
            "sent_bytes": self.sent_bytes,
            "pays_from_batch": self.pays_from_batch,
            "pays_from_parameters": self.pays_from_parameters,
        }


def rows(simulated: Machines, tok_s: float, gbit_s: Sequence[float], latency: float) -> list[NetworkRow]:
    """All numbers of machines at all rates; `tok_s` is the measured speed of one machine."""
    found = []
    for rate in gbit_s:
        link = Link(rate * 1e9 / 8, latency)
        for machines in MACHINES:
            speedup = simulated.speedup(machines, link)
            batch = parameters = None
            sent = 0.0
            if machines > 1:
                sent = max(payload(simulated.model, simulated.batch, machines, r).total for r in range(machines))
                factor = simulated.pays_from(machines, link, batch=True)
                batch = None if factor is None else max(round(factor * simulated.batch), SECTORS)
                factor = simulated.pays_from(machines, link, batch=False)
                parameters = None if factor is None else round(factor * simulated.model.parameters)
            forecast = simulated.forecast(machines, link)
            found.append(NetworkRow(forecast, rate, tok_s * speedup, speedup, sent, batch, parameters))
    return found
