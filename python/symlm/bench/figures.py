"""From turns to figures: medians over rounds, ratios per round and then their median; the JSON file."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .cases import Case, Plan
from .rounds import Entry, Turn

SCHEMA = 1


def median(values: Iterable[float | None]) -> float | None:
    """The median of the values that are there, None if there are none."""
    present = [value for value in values if value is not None]
    return statistics.median(present) if present else None


@dataclass(frozen=True)
class Spread:
    """The largest of some values, and their quartiles."""

    best: float
    lower: float
    median: float
    upper: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        """Of some values, None if there are none."""
        present = sorted(values)
        if not present:
            return None
        # One value alone has no quartiles but itself.
        lower, middle, upper = statistics.quantiles(present if len(present) > 1 else present * 2, method="inclusive")
        return cls(present[-1], lower, middle, upper)


@dataclass(frozen=True)
class Ratio:
    """How many times as fast `of` is as `to`: per round in which both had a turn, and the median of these.
    `of_best` is the best turn of the one against the best of the other."""

    of: str
    to: str
    rounds: dict[int, float] = field(default_factory=dict)
    of_best: float | None = None

    @property
    def factor(self) -> float | None:
        """The median over the rounds, None without any."""
        return median(self.rounds.values())

    @property
    def spread(self) -> Spread | None:
        """Over the rounds, None without any."""
        return Spread.of(self.rounds.values())

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        rounds = [{"round": number, "factor": factor} for number, factor in self.rounds.items()]
        spread = self.spread
        quartiles = None if spread is None else [spread.lower, spread.median, spread.upper]
        about = {"of": self.of, "to": self.to, "factor": self.factor, "quartiles": quartiles, "of_best": self.of_best}
        return {**about, "rounds": rounds}


class Figures:
    """All figures of a benchmark, from what its entries measured. Rates are per second, shares are 0 to 1."""

    def __init__(self, plan: Plan, entries: list[Entry], flops_per_token: float) -> None:
        self.plan = plan
        self.entries = entries
        self.flops_per_token = flops_per_token
        self._by_name = {entry.name: entry for entry in entries}

    def turn(self, turn: Turn) -> dict[str, Any]:
        """The figures of one turn."""
        tok_s = turn.tokens / turn.seconds
        gflops = tok_s * self.flops_per_token / 1e9
        return {
            **dataclasses.asdict(turn),
            "tok_s": tok_s,
            "gflops": gflops,
            "peak_frac": gflops / turn.peak_gflops if turn.peak_gflops > 0 else None,
            "integer_peak_frac": gflops / turn.integer_peak_gops if turn.integer_peak_gops else None,
        }

    def medians(self, name: str) -> dict[str, float | None]:
        """Medians over the rounds of an entry."""
        turns = [self.turn(turn) for turn in self._by_name[name].turns]
        keys = (
            "tok_s", "gflops", "peak_gflops", "peak_frac", "integer_peak_gops", "integer_peak_frac", "busy_frac",
        )  # fmt: skip
        return {key: median(turn[key] for turn in turns) for key in keys}

    def spread(self, name: str) -> Spread | None:
        """Tokens a second over the turns of an entry, None without any."""
        return Spread.of(turn.tokens / turn.seconds for turn in self._by_name[name].turns)

    def ratio(self, of: str, to: str) -> Ratio:
        """How many times as many tokens a second the entry `of` does as `to`."""
        rates: list[dict[int, float]] = [
            {turn.round: turn.tokens / turn.seconds for turn in self._by_name[name].turns} for name in (of, to)
        ]
        rounds = {number: rate / rates[1][number] for number, rate in rates[0].items() if number in rates[1]}
        best = max(rates[0].values()) / max(rates[1].values()) if all(rates) else None
        return Ratio(of, to, rounds, best)

    @property
    def base(self) -> str:
        """The entry that training corresponds to."""
        return self.plan.base.name

    def scaling(self) -> list[tuple[Case, Ratio]]:
        """Speed-up over one thread for each number of threads."""
        cases = self.plan.scaling
        return [(case, self.ratio(case.name, cases[0].name)) for case in cases]

    def comparisons(self) -> list[tuple[str, str, Ratio]]:
        """Name of the optimisation, the state of the others (`on`, `off`; empty for all together), and its factor."""
        return [(c.name, c.rest, self.ratio(c.on.name, c.off.name)) for c in self.plan.comparisons]

    def peers(self) -> list[Ratio]:
        """How many times as fast symlm is as each peer."""
        return [self.ratio(self.base, entry.name) for entry in self.entries if entry.case is None]

    def measured_speedup(self, threads: int) -> float | None:
        """The measured speed-up with so many threads, None if that was not measured."""
        return next((ratio.factor for case, ratio in self.scaling() if case.threads == threads), None)

    def as_dict(self) -> dict[str, Any]:
        """The measured part of `bench.json`."""
        return {
            "schema": SCHEMA,
            "flops_per_token": self.flops_per_token,
            "base": self.base,
            "cases": [self._entry(entry) for entry in self.entries],
            "scaling": [{"threads": case.threads, **ratio.as_dict()} for case, ratio in self.scaling()],
            "optimisations": [
                {"name": name, "others": rest or None, **ratio.as_dict()} for name, rest, ratio in self.comparisons()
            ],
            "peers": [ratio.as_dict() for ratio in self.peers()],
        }

    def _entry(self, entry: Entry) -> dict[str, Any]:
        about: dict[str, Any] = {"name": entry.name}
        if entry.case is not None:
            case = entry.case
            about |= {key: getattr(case, key) for key in ("threads", "isa", "precision", "prefetch", "barriers")}
        if entry.peer is not None:
            about |= {"version": entry.peer.version}
        spread = self.spread(entry.name)
        about |= {"tok_s": None if spread is None else dataclasses.asdict(spread)}
        return {**about, "median": self.medians(entry.name), "turns": [self.turn(turn) for turn in entry.turns]}
