"""Engines of several ranks in one process: what MPI does between processes, done by copying."""

from __future__ import annotations

import ctypes
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from symlm import _symlm
from symlm.config.engine import settings_of
from symlm.errors import InternalError

MODEL: dict[str, Any] = {
    "vocab_size": 301, "hidden_size": 72, "intermediate_size": 100, "num_layers": 3, "num_heads": 6, "num_kv_heads": 2,
    "seq_len": 37, "rope_theta": 1e4, "rms_norm_eps": 1e-5, "tie_embeddings": True, "rope_scaling": None,
}  # fmt: skip
TRAIN: dict[str, Any] = {
    "batch_size": 13, "max_steps": 9, "learning_rate": 3e-3, "warmup_steps": 2, "decay_start": 6, "schedule": "wsd",
    "min_lr_ratio": 0.1, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "grad_clip": 0.5, "seed": 5,
}  # fmt: skip
LORA: dict[str, Any] = {"rank": 3, "alpha": 6.0, "targets": ["q_proj", "v_proj", "up_proj", "down_proj"]}


def shards(folder: Path) -> _symlm.Shards:
    """Some random tokens."""
    return _symlm.Shards.random(str(folder / "random.shards"), 301, 6000, 11)


class Ranks:
    """Some engines that compute one run together."""

    def __init__(
        self,
        tokens: _symlm.Shards,
        count: int,
        threads: int = 1,
        isas: tuple[str, ...] = (),
        model: dict[str, Any] | None = None,
        train: dict[str, Any] | None = None,
        sectors_in_flight: int = 0,
    ) -> None:
        made = {
            "model": {**MODEL, **(model or {})}, "train": {**TRAIN, **(train or {})}, "threads": threads,
            "sectors_in_flight": sectors_in_flight, "ranks": count,
        }  # fmt: skip
        self.engines = [
            _symlm.Engine(settings_of({**made, "rank": rank}), tokens, isa=isas[rank % len(isas)] if isas else None)
            for rank in range(count)
        ]
        self.exchanges = [engine.exchange() for engine in self.engines] if count > 1 else []
        self.plans = [exchange.plan() for exchange in self.exchanges]
        self.reports: list[list[_symlm.StepReport]] = [[] for _ in self.engines]
        self._sent: dict[tuple[int, int, int], deque[int]] = defaultdict(deque)
        self._due: set[tuple[int, int]] = set()
        self.copied = 0

    def train(self, until: int) -> None:
        """Updates until so many are done."""
        for engine in self.engines:
            engine.run_until(until)
        while any(not reports or reports[-1].step < until for reports in self.reports):
            for rank in range(len(self.exchanges)):
                self._move(rank)
            for engine, reports in zip(self.engines, self.reports, strict=True):
                report = engine.poll(0.0 if self.exchanges else 1.0)
                if report is not None:
                    reports.append(report)

    def _move(self, rank: int) -> None:
        out = self.exchanges[rank].wait(0.001)
        plan = self.plans[rank]
        if out.begun:
            self._due |= {(rank, index) for index, transfer in enumerate(plan) if transfer.incoming}
        for index in out.leaving:
            self._sent[rank, plan[index].peer, plan[index].tag].append(index)
        for at, index in sorted(self._due):
            transfer = self.plans[at][index]
            queue = self._sent[transfer.peer, at, transfer.tag]
            if queue:
                sender = queue.popleft()
                source = self.plans[transfer.peer][sender]
                assert source.bytes == transfer.bytes
                ctypes.memmove(transfer.address, source.address, transfer.bytes)
                self.copied += transfer.bytes
                self._due.remove((at, index))
                self.delivered(at, index)
                self.exchanges[at].done([index])
                self.exchanges[transfer.peer].done([sender])

    def delivered(self, rank: int, index: int) -> None:
        """Called when the bytes of a transfer are there, before its engine knows."""

    def gather_moments(self) -> None:
        """Give the first engine the moments of all."""
        for rank, exchange in enumerate(self.exchanges):
            for there, here in zip(
                exchange.owned_moments()[rank], self.exchanges[0].owned_moments()[rank], strict=True
            ):
                ctypes.memmove(here.address, there.address, there.bytes)

    def hashes(self) -> tuple[str, str]:
        """Of weights and moments; the weights must be the same on all ranks."""
        self.gather_moments()
        found = {engine.weights_sha256() for engine in self.engines}
        assert len(found) == 1
        return found.pop(), self.engines[0].moments_sha256()

    def metrics(self) -> list[tuple[int, float, float, float]]:
        """Step, loss, gradient norm and learning rate of each update; the same on all ranks."""
        found = [[(r.step, r.loss, r.grad_norm, r.lr) for r in reports] for reports in self.reports]
        assert all(of == found[0] for of in found)
        return found[0]

    def close(self) -> None:
        """End all threads."""
        for exchange in self.exchanges:
            exchange.fail("closed")
        for engine in self.engines:
            engine.close()


__all__ = ["LORA", "MODEL", "TRAIN", "InternalError", "Ranks", "shards"]


@contextmanager
def maker(tokens: _symlm.Shards) -> Iterator[Callable[..., Ranks]]:
    """What makes ranks on these tokens; they are closed in the end."""
    made: list[Ranks] = []

    def one(count: int, **how: Any) -> Ranks:
        made.append(Ranks(tokens, count, **how))
        return made[-1]

    yield one
    for ranks in made:
        ranks.close()
