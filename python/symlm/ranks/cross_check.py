"""`--cross-check`: two ranks compute the gradient of one sector and compare its bits.

Digests of what is sent find a bad copy, not a processor that adds wrongly. So now and then, between two updates, the
owner of a sector and another rank compute it once more, each with an engine that is "rank S of 12" and so has that
sector alone. That engine never hears of the others: what it would send them is the gradient.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from .. import _symlm
from ..config.engine import settings_of
from ..errors import RankError
from .division import SECTORS, rank_sectors
from .world import World

_WAIT_S = 0.05


@dataclass(frozen=True)
class Checker:
    """What a rank needs to compute a sector: the settings of its engine, and the text."""

    settings: dict[str, Any]
    train: _symlm.Shards
    rank: int

    wrong: ClassVar[Callable[..., bool] | None] = None
    """For tests: a method that says whether this rank gets a sector wrong, by step and sector."""

    def digest(self, engine: _symlm.Engine, exchange: _symlm.Exchange, sector: int) -> int:
        """A digest of the gradient of a sector of the batch that is next, by the weights of `engine`, which rests."""
        made = {**self.settings, "ranks": SECTORS, "rank": sector, "sectors_in_flight": 1}
        small = _symlm.Engine(settings_of(made), self.train)
        other = small.exchange()
        try:
            for there, here in zip(exchange.whole_state(), other.whole_state(), strict=True):
                ctypes.memmove(here.address, there.address, there.bytes)
            small.set_step(engine.step)
            small.run_until(engine.step + 1)
            due = {index for index, transfer in enumerate(other.plan()) if transfer.sums and not transfer.incoming}
            while due:
                small.poll(0.0)
                due -= set(other.wait(_WAIT_S).leaving)
            found = other.sums_digest()
            return found ^ int(self.wrong is not None and self.wrong(engine.step, sector))
        finally:
            small.close()


def pair(number: int, ranks: int) -> tuple[int, int, int]:
    """Sector, owner and the other rank of the check with this number: all pairs have their turn."""
    sector = number % SECTORS
    owner = next(rank for rank, sectors in enumerate(rank_sectors(ranks)) if sector in sectors)
    return sector, owner, (owner + 1 + number // SECTORS % (ranks - 1)) % ranks


def verdict(world: World, step: int, sector: int, digests: dict[int, int]) -> RankError:
    """The error for ranks that disagree about a sector: it names those that are alone with their bits."""
    (most, count), *rest = Counter(digests.values()).most_common()
    clear = count > max((of for _, of in rest), default=0)
    named = [world.name(rank) for rank, found in sorted(digests.items()) if not clear or found != most]
    who = " and ".join(named) if clear else f"one of {' and '.join(named)}"
    return RankError(
        f"{who} computes wrongly: the gradient of sector {sector} after update {step:,} is not what the others get",
        "its processor or memory is at fault; resume without it, and check the run with symlm verify",
    )
