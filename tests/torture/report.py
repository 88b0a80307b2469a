"""What came of each case, and the table at the end."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Case:
    """One fault: what was done, where it hit, what came of it; `problems` is empty when every promise held."""

    part: str
    number: int
    what: str
    where: str
    outcome: str
    problems: Sequence[str] = ()
    folder: str = ""


@dataclass
class Part:
    """The cases of one kind of fault, and sentences about all of them."""

    name: str
    cases: list[Case] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def failed(self) -> list[Case]:
        """The cases in which a promise did not hold."""
        return [case for case in self.cases if case.problems]


def in_parallel(
    items: Sequence[Item], jobs: int, work: Callable[[Item], list[Case]], say: Callable[[str], None]
) -> list[Case]:
    """The cases of all items, `jobs` at a time; failures are told at once, and how far it is now and then."""
    cases: list[Case] = []
    told = time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        for number, future in enumerate(as_completed([pool.submit(work, item) for item in items]), 1):
            found = future.result()
            cases += found
            for case in found:
                if case.problems:
                    say(describe(case))
            if time.monotonic() - told > 15:
                told = time.monotonic()
                say(f"{cases[-1].part}: {number} of {len(items)}")
    return sorted(cases, key=lambda case: case.number)


def describe(case: Case) -> str:
    """A case that failed, with all that is needed to look at it."""
    lines = [f"FAILED {case.part} {case.number}: {case.what}; {case.where}; {case.outcome}"]
    lines += [f"    {problem}" for problem in case.problems]
    lines.append(f"    kept in {case.folder}")
    return "\n".join(lines)


def table(parts: Sequence[Part]) -> str:
    """Counts by kind of fault, place and outcome."""
    rows = [("fault", "where it hit", "outcome", "cases")]
    for part in parts:
        counts = Counter((case.where, "FAILED" if case.problems else case.outcome) for case in part.cases)
        rows += [(part.name, where, outcome, str(count)) for (where, outcome), count in sorted(counts.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ["  ".join((*(row[i].ljust(widths[i]) for i in range(3)), row[3].rjust(5))) for row in rows]
    lines.insert(1, "-" * len(lines[0]))
    for part in parts:
        good = len(part.cases) - len(part.failed)
        lines += ["", f"{part.name}: {good} of {len(part.cases)} good, {part.seconds:.0f} s"]
        lines += [f"  {fact}" for fact in part.facts]
        lines += [f"  FAILED: {problem}" for problem in part.problems]
    return "\n".join(lines)


class Say:
    """Lines for the person who waits, from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began = time.monotonic()

    def __call__(self, text: str) -> None:
        with self._lock:
            print(f"[{time.monotonic() - self._began:5.0f} s] {text}", flush=True)
