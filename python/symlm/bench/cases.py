"""Which engines take part in a benchmark, and which of them are compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..config.sections.learning import Precision
from ..units import count_of


@dataclass(frozen=True)
class Case:
    """One way to run the same updates. None of the settings but `precision` changes a bit of the result."""

    threads: int
    isa: str
    prefetch: bool = True
    barriers: bool = False
    plan_threads: int | None = None
    """Workers that the tasks are cut for, None for as many as there are."""
    precision: Precision = "f32"

    @property
    def name(self) -> str:
        """The settings that take part in a comparison, as text."""
        integers = "" if self.precision == "f32" else f", {self.precision}"
        cut = "prefetch" if self.prefetch else "no prefetch"
        order = "barriers" if self.barriers else "deques"
        return f"{count_of(self.threads, 'thread')}, {self.isa}{integers}, {cut}, {order}"


@dataclass(frozen=True)
class Comparison:
    """An optimisation (`on`) and its baseline (`off`), with everything else on or off (`rest`)."""

    name: str
    rest: str
    on: Case
    off: Case


@dataclass
class Plan:
    """Everything to measure: `base` is what training uses, and is always among the cases."""

    base: Case
    scaling: list[Case] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)

    @property
    def cases(self) -> list[Case]:
        """Every case once: those of the scaling, then those of the comparisons."""
        found = dict.fromkeys([self.base, *self.scaling])
        for comparison in self.comparisons:
            found |= dict.fromkeys((comparison.on, comparison.off))
        return list(found)


def plan(threads: int, isas: list[str], counts: Iterable[int], switches: bool, precision: Precision = "f32") -> Plan:
    """The cases for a machine. `isas` are its instruction sets, fastest first; the first one is the one in use.

    Each optimisation is compared twice: taken away while all others stay on, and added while all others are off.
    """
    base = Case(threads, isas[0], precision=precision)
    found = Plan(base, [dataclasses.replace(base, threads=count) for count in counts])
    add = found.comparisons.append
    if precision != "f32":
        for isa in isas[: None if switches else 1]:
            case = dataclasses.replace(base, isa=isa)
            add(Comparison(f"{precision}, not f32, {isa}", "on", case, dataclasses.replace(case, precision="f32")))
    if not switches:
        return found
    bare = Case(1, isas[-1], prefetch=False, barriers=True, precision=precision)

    def compare(name: str, on: dict[str, object], off: dict[str, object]) -> None:
        for rest, case in (("on", base), ("off", bare)):
            add(Comparison(name, rest, dataclasses.replace(case, **on), dataclasses.replace(case, **off)))  # type: ignore[arg-type]

    compare("prefetch", {"prefetch": True}, {"prefetch": False})
    compare("deques, not barriers", {"barriers": False}, {"barriers": True})
    for slower in isas[1:]:
        compare(f"{isas[0]}, not {slower}", {"isa": isas[0]}, {"isa": slower})
    if threads > 1:
        compare(f"{count_of(threads, 'thread')}, not 1", {"threads": threads}, {"threads": 1})
    add(Comparison("all together", "", base, bare))
    return found


def instruction_sets(active: str, available: list[str]) -> list[str]:
    """The one in use and the slower ones, for comparison. (`portable-soft` emulates what every such machine has.)"""
    ordered = available[available.index(active) :] if active in available else [active]
    return [active, *(isa for isa in ordered[1:] if isa != "portable-soft")]
