"""How each rank spends its time, for display and metrics."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .. import _symlm
from .world import World

_SAY_S = 1.0


@dataclass
class Spent:
    """Sums over some updates of a rank: seconds, those inside tasks (mean over its workers), those in which bytes of it
    were on their way, and the bytes that it sent."""

    updates: int = 0
    seconds: float = 0.0
    busy_s: float = 0.0
    exchange_s: float = 0.0
    sent_bytes: int = 0

    def add(self, other: Spent) -> None:
        """Take in more updates."""
        self.updates += other.updates
        self.seconds += other.seconds
        self.busy_s += other.busy_s
        self.exchange_s += other.exchange_s
        self.sent_bytes += other.sent_bytes


class Meter:
    """Measures this rank."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._now = Spent()
        self._seen = world.traffic.seconds, world.traffic.bytes

    def add(self, report: _symlm.StepReport) -> None:
        """An update has ended."""
        busy = sum(report.busy_frac) / max(len(report.busy_frac), 1)
        self._now.add(Spent(1, report.seconds, busy * report.seconds))

    def take(self, *, all_of_it: bool = True) -> Spent | None:
        """What there is since the last call; None where it is nothing, or is to grow a little more."""
        now, traffic = self._now, self._world.traffic
        if now.updates == 0 or not (all_of_it or now.seconds >= _SAY_S):
            return None
        now.exchange_s, now.sent_bytes = traffic.seconds - self._seen[0], traffic.bytes - self._seen[1]
        self._seen, self._now = (traffic.seconds, traffic.bytes), Spent()
        return now

    def tell(self, *, all_of_it: bool) -> None:
        """Tell rank 0."""
        spent = self.take(all_of_it=all_of_it)
        if spent is not None:
            self._world.send(0, {"do": "spent", **asdict(spent)})


class Table:
    """On rank 0: what all ranks have spent since the last line of metrics."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._ranks = [Spent() for _ in range(world.size)]

    def add(self, rank: int, said: dict[str, Any]) -> None:
        """What a rank has said of itself."""
        self._ranks[rank].add(Spent(**{name: value for name, value in said.items() if name != "do"}))

    def take(self) -> dict[str, Any]:
        """For a line of metrics: a row for each rank, and the one with the most work in an update, for which the others
        wait. Empty before all have said something."""
        spent, self._ranks = self._ranks, [Spent() for _ in self._ranks]
        if not all(of.updates and of.seconds for of in spent):
            return {}
        rows = [
            {
                "rank": rank,
                "host": self._world.hellos[rank].host,
                "busy_frac": of.busy_s / of.seconds,
                "exchange_frac": min(of.exchange_s / of.seconds, 1.0),
                "wait_frac": max(1 - of.busy_s / of.seconds, 0.0),
                "sent_bytes_per_update": round(of.sent_bytes / of.updates),
            }
            for rank, of in enumerate(spent)
        ]
        slowest = max(range(len(spent)), key=lambda rank: spent[rank].busy_s / spent[rank].updates)
        return {"ranks": rows, "slowest_rank": slowest, "slowest_host": rows[slowest]["host"]}
