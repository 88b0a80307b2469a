"""Turns of all cases and peers, round after round, so that a change of the machine's speed meets all of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

from .. import _symlm
from ..errors import MemoryPlanError
from ..system.signals import Stopped, StopSignals
from .cases import Case
from .engines import Engines
from .peers import PeerFailed, TorchPeer
from .settings import BenchConfig

PEAK_SECONDS, QUICK_PEAK_SECONDS = 0.1, 0.05


@dataclass(frozen=True)
class Turn:
    """What some updates in a row took. The peaks are those of the same threads just afterwards, in billions of
    operations a second: fused multiply-adds, and products of integers where the updates use them. The busy
    fraction is the mean over workers and updates, None for a peer."""

    round: int
    updates: int
    tokens: int
    seconds: float
    peak_gflops: float
    busy_frac: float | None = None
    prefetch_wait_s: float | None = None
    integer_peak_gops: float | None = None


@dataclass
class Entry:
    """Something that takes turns, and its turns so far."""

    name: str
    case: Case | None = None
    peer: TorchPeer | None = None
    turns: list[Turn] = field(default_factory=list)


class Rounds:
    """The turns of a benchmark. `warn` is called with what could not be measured."""

    def __init__(
        self,
        config: BenchConfig,
        engines: Engines,
        entries: list[Entry],
        *,
        base: Case,
        tokens_per_update: int,
        signals: StopSignals,
        warn: Callable[[str], None],
    ) -> None:
        self.config = config
        self.engines = engines
        self.entries = entries
        self.base = base
        self.tokens_per_update = tokens_per_update
        self.signals = signals
        self.warn = warn
        self.cores = _symlm.available_cpus().count

    def run(self, progress: Callable[[int, int], None]) -> bool:
        """All rounds; False when a signal ended them before."""
        total = self.config.round_count * len(self.entries)
        done = 0
        try:
            for number in range(self.config.round_count):
                for entry in self._order(number):
                    self._turn(entry, number)
                    done += 1
                    progress(done, total)
        except Stopped:
            return False
        return True

    def _order(self, number: int) -> list[Entry]:
        """Everyone once; each round begins elsewhere, and every other one runs backwards."""
        shift = number * len(self.entries) // self.config.round_count
        order = [*self.entries[shift:], *self.entries[:shift]]
        return order if number % 2 == 0 else order[::-1]

    def _turn(self, entry: Entry, number: int) -> None:
        try:
            if entry.peer is not None:
                turn = self._peer_turn(entry.peer, number)
            else:
                assert entry.case is not None
                turn = self._own_turn(entry.case, number)
        except PeerFailed as failed:
            self.entries = [other for other in self.entries if other is not entry]
            self.warn(f"{entry.name} is left out: {failed}")
            return
        except MemoryPlanError as error:
            if entry.case == self.base:
                raise
            self.entries = [other for other in self.entries if other is not entry]
            self.warn(f"{entry.name} is left out: {error.message}")
            return
        entry.turns.append(turn)

    def _own_turn(self, case: Case, number: int) -> Turn:
        engine = self.engines.get(case)
        # The first update after the others' turns finds the caches full of their data; it does not count.
        _, seconds = self.engines.advance(engine, 1)
        updates = self.config.updates_for(seconds)
        reports, seconds = self.engines.advance(engine, updates)
        busy = statistics.fmean(statistics.fmean(report.busy_frac) for report in reports)
        waited = sum(report.prefetch_wait_s for report in reports)
        peak, integer_peak = self._peak(case), self._integer_peak(case)
        tokens = sum(report.tokens for report in reports)
        return Turn(number, updates, tokens, seconds, peak, busy, waited, integer_peak)

    def _peer_turn(self, peer: TorchPeer, number: int) -> Turn:
        updates = self.config.updates_for(peer.run(1))
        seconds = peer.run(updates)
        return Turn(number, updates, updates * self.tokens_per_update, seconds, self._peak(self.base))

    def _peak(self, case: Case) -> float:
        return _symlm.fma_peak(min(case.threads, self.cores), self._peak_seconds, case.isa)

    def _integer_peak(self, case: Case) -> float | None:
        if case.precision == "f32":
            return None
        return _symlm.integer_peak(min(case.threads, self.cores), self._peak_seconds, case.isa)

    @property
    def _peak_seconds(self) -> float:
        return QUICK_PEAK_SECONDS if self.config.quick else PEAK_SECONDS
