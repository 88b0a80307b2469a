"""`RankedEngine`: the engine of rank 0, which tells the other ranks what it does.

To the training loop it is an engine like any other. Weights are the same on all ranks, so what only reads them stays
here; what changes them is told to all; moments and gradients are gathered before somebody looks at them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from .. import _symlm
from ..errors import DataError, InternalError, RankError
from ..system.signals import StopSignals
from . import trace
from .cross_check import Checker, pair, verdict
from .digest import differs, digest
from .failures import error_of, failure_of
from .spent import Meter, Table
from .wire import Letter
from .world import World

_LOOK_S = 0.1


class RankedEngine:
    """As `_symlm.Engine`. Attributes that are not here are those of the engine of this rank."""

    def __init__(self, world: World, engine: _symlm.Engine, signals: StopSignals, checker: Checker) -> None:
        self._world = world
        self._engine = engine
        self._signals = signals
        self._exchange = engine.exchange()
        self._gathered: int | None = None
        self._until = 0
        self._meter, self._table = Meter(world), Table(world)
        self._checker = checker
        world.attach(self._exchange)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def run_until(self, step: int) -> None:
        """As the engine's."""
        self._tell({"do": "train", "until": step})
        self._world.busy, self._until = True, step
        self._engine.run_until(step)

    def poll(self, timeout_s: float) -> _symlm.StepReport | None:
        """As the engine's; RankError where another rank has failed. A signal at another rank counts as one here."""
        self._hear()
        try:
            report: _symlm.StepReport | None = failing(
                self._world, self._exchange, lambda: self._engine.poll(timeout_s)
            )
        except DataError as error:
            # The others are in an update that this rank has no batch for.
            self._world.fail(failure_of(self._world, self._world.rank, error))
            self._world.check()
            raise
        if report is not None:
            self._meter.add(report)
            if report.step >= self._until or not applied(report):
                self._world.busy = False
        return report

    def take_spent(self) -> dict[str, Any]:
        """How the ranks spent their time since the last call, for a line of metrics; empty before all have said it."""
        own = self._meter.take()
        if own is not None:
            self._table.add(self._world.rank, vars(own))
        return self._table.take()

    def record(self, on: bool) -> None:
        """As the engine's, for all ranks."""
        if self._world.failure is None and not self._world.busy:
            self._world.tell({"do": "record", "on": on})
        self._engine.record(on)

    def gather_traces(self, path: str, origin_ns: int) -> None:
        """Add what the other ranks have recorded to the file of this one, unless they cannot be asked any more."""
        if self._world.failure is None and not self._world.busy:
            trace.gather(self._world, path, origin_ns)

    def cross_check(self, number: int) -> None:
        """Have two ranks compute a sector of the next batch, while all rest. RankError where their bits differ: all
        compute it then, and those that are alone with theirs are named."""
        world, step = self._world, self._engine.step
        sector, *two = pair(number, world.size)
        digests = self._digests(sector, two)
        if len(set(digests.values())) > 1:
            others = [rank for rank in range(world.size) if rank not in two]
            error = verdict(world, step, sector, {**digests, **self._digests(sector, others)})
            world.fail(error)
            raise error

    def _digests(self, sector: int, ranks: list[int]) -> dict[int, int]:
        """Of a sector, by some ranks at the same time."""
        self._world.check()
        others = [rank for rank in ranks if rank != self._world.rank]
        for rank in others:
            self._world.send(rank, {"do": "check", "sector": sector})
        found: dict[int, int] = {}
        if self._world.rank in ranks:
            found[self._world.rank] = self._checker.digest(self._engine, self._exchange, sector)
        answers = self._answers("checked", others)
        return {**found, **{rank: said["digest"] for rank, said in answers.items()}}

    def _answers(self, do: str, ranks: Collection[int]) -> dict[int, dict[str, Any]]:
        """What some ranks answer, each of them once."""
        found: dict[int, dict[str, Any]] = {}
        while len(found) < len(ranks):
            letter = self._world.receive(_LOOK_S)
            if letter is not None and letter.do == do:
                found[letter.source] = letter.said
            elif letter is not None:
                self._take(letter)
        return found

    def _compare(self, what: str, expected: Mapping[int, list[str]]) -> None:
        """RankError unless the digests of all other ranks are these; nothing is saved or trained then."""
        for rank, said in self._answers("digests", expected).items():
            if said["found"] != expected[rank]:
                error = differs(self._world, rank, what)
                self._world.fail(error)
                raise error

    def _hear(self) -> None:
        """Take over what the other ranks say."""
        while (letter := self._world.receive(0.0)) is not None:
            self._take(letter)

    def _take(self, letter: Letter) -> None:
        """A signal that another rank got, an error of it, or what it has spent."""
        if letter.do == "signal" and self._signals.received is None:
            self._signals.received = letter.said["signum"]
        elif letter.do == "error":
            raise error_of(self._world, letter.source, letter.said)
        elif letter.do == "spent":
            self._table.add(letter.source, letter.said)

    def evaluate(self, shards: _symlm.Shards, max_windows: int, progress: Any) -> _symlm.EvalReport:
        """As the engine's, on this rank alone: the figures are the same."""
        self._world.check()

        def move(done: int, total: int) -> None:
            self._world.check()
            self._hear()
            if progress is not None:
                progress(done, total)

        return self._engine.evaluate(shards, max_windows, move)

    def load(self, folder: str, state: _symlm.EngineState) -> None:
        """As the engine's, for all ranks."""
        self._engine.load(folder, state)
        self._share()

    def load_weights(self, path: str) -> None:
        """As the engine's, for all ranks."""
        self._engine.load_weights(path)
        self._share()

    def restart(self) -> None:
        """As the engine's, for all ranks."""
        self._tell({"do": "restart"})
        self._engine.restart()
        same = digest(self._exchange.whole_state())
        self._compare("the weights that it begins from", {rank: [same] for rank in self._world.others})

    def pass_over(self) -> None:
        """As the engine's, for all ranks."""
        self._tell({"do": "pass_over"})
        self._engine.pass_over()

    def save_begin(self, folder: str) -> _symlm.Saving:
        """As the engine's, with the moments of all ranks."""
        self._gather_moments()
        return self._engine.save_begin(folder)

    def moments_sha256(self) -> str:
        """As the engine's, of the moments of all ranks."""
        self._gather_moments()
        return self._engine.moments_sha256()

    def tensor_numbers(self, *, gradients: bool = True) -> list[_symlm.TensorNumbers]:
        """As the engine's, of all ranks; without `gradients` nothing that it says of them counts."""
        self._gather_moments()
        if gradients:
            self._gather("gradient", self._exchange.owned_gradient())
        return self._engine.tensor_numbers()

    def close(self) -> None:
        """End the engines of all ranks, unless they are in an update: that ends with an error."""
        if self._world.failure is None and not self._world.busy:
            self._world.tell({"do": "close"})
        # An update under way would wait for the others.
        self._exchange.fail("the engine is closed")
        self._engine.close()
        self._world.detach()

    def _tell(self, said: dict[str, Any]) -> None:
        self._world.check()
        self._gathered = None
        self._world.tell(said)

    def _share(self) -> None:
        """Give all ranks what this one has loaded: the moments to their owners."""
        self._tell({"do": "state", "step": self._engine.step})
        world, same, owned = self._world, self._exchange.whole_state(), self._exchange.owned_moments()
        world.move([(rank, False, part) for rank in world.others for part in (*same, *owned[rank])], self._exchange)
        of_all = digest(same)
        expected = {rank: [of_all, digest(owned[rank])] for rank in world.others}
        self._compare("the weights and moments that were sent to it", expected)

    def _gather_moments(self) -> None:
        # They are those of the last update until the next one.
        if self._gathered != self._engine.step:
            self._gather("moments", self._exchange.owned_moments())
            self._gathered = self._engine.step

    def _gather(self, what: str, owned: list[list[_symlm.Memory]]) -> None:
        self._world.check()
        self._world.tell({"do": "gather", "what": what})
        parts = [(rank, True, part) for rank in self._world.others for part in owned[rank]]
        self._world.move(parts, self._exchange)
        expected = {rank: [digest(owned[rank])] for rank in self._world.others}
        self._compare(f"its {what} as they were gathered", expected)


def applied(report: _symlm.StepReport) -> bool:
    """Whether an update was applied. One that was not ends those that were asked for; all ranks have its numbers."""
    return math.isfinite(report.loss) and math.isfinite(report.grad_norm)


def failing(world: World, exchange: _symlm.Exchange, call: Callable[[], Any]) -> Any:
    """The result of a call of an engine; where it fails because of another rank the error says so."""
    try:
        return call()
    except InternalError:
        world.check()
        owner = exchange.wrong_copy
        if owner is None:
            raise
        world.fail(
            RankError(
                f"{world.name(world.rank)}: its copy of the new values of {world.name(owner)} is not what was sent",
                "the memory or the network of one of the two hosts is at fault; resume without it",
            )
        )
        world.check()
        raise
    finally:
        world.check()


def gather_traces(engine: object, path: str, origin_ns: int) -> None:
    """Add the recordings of the other ranks of an engine; nothing where it has none."""
    if isinstance(engine, RankedEngine):
        engine.gather_traces(path, origin_ns)


def state_numbers(engine: RankedEngine | _symlm.Engine) -> list[_symlm.TensorNumbers]:
    """Of the weights and moments of an engine. Several ranks spare the way of the gradients, which nobody looks at."""
    return engine.tensor_numbers(gradients=False) if isinstance(engine, RankedEngine) else engine.tensor_numbers()


def take_spent(engine: object) -> dict[str, Any]:
    """How the ranks of an engine spent their time; empty where it has none."""
    return engine.take_spent() if isinstance(engine, RankedEngine) else {}
