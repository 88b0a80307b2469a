"""What the ranks after 0 do: they have an engine and no run folder, and follow what rank 0 tells them."""

from __future__ import annotations

from collections import deque
from typing import Any

from .. import _symlm
from ..config.train_config import TrainConfig
from ..errors import RankError, SymlmError
from ..system.signals import StopSignals
from . import trace
from .cross_check import Checker
from .digest import digest
from .engine import applied, failing
from .failures import failure_of, message_of
from .opening import Opening, follow_opening
from .spent import Meter
from .wire import Letter
from .world import World

_POLL_S = 0.1


class Ended(Exception):
    """Rank 0 has said how the run has ended; never leaves this package."""

    def __init__(self, letter: Letter) -> None:
        super().__init__()
        self.said = letter.said


def follow(world: World, config: TrainConfig, signals: StopSignals) -> dict[str, Any]:
    """Do what rank 0 says until it says how the run has ended: its result, or the exit code of an error that it has
    reported. RankError when a rank fails.

    `config` is what this rank was started with: its paths of the text count here, and its threads.
    """
    follower = Follower(world, config, signals)
    try:
        while True:
            follower.obey(follower.receive())
    except Ended as ended:
        return ended.said
    except Exception as error:
        if world.failure is None:
            # Before the first update rank 0 reports it; after that nothing can continue.
            if follower.engine is None and isinstance(error, SymlmError):
                return follower.report(error)
            world.fail(failure_of(world, world.rank, error))
        raise
    finally:
        follower.close()


class Follower:
    """A rank after 0. It is the display of what it prepares, too: rank 0 speaks for all."""

    def __init__(self, world: World, config: TrainConfig, signals: StopSignals) -> None:
        self._world = world
        self._config = config
        self._signals = signals
        self._told = False
        self._early: deque[Letter] = deque()
        self.engine: _symlm.Engine | None = None
        self._exchange: _symlm.Exchange | None = None
        self._checker: Checker | None = None
        self._meter = Meter(world)

    def receive(self) -> Letter:
        """The next word of rank 0; `Ended` where it is the last. A signal that came here goes to rank 0, who saves."""
        while True:
            self._tell_signal()
            letter = self._early.popleft() if self._early else self._world.receive(_POLL_S)
            if letter is not None and letter.do == "end":
                raise Ended(letter)
            if letter is not None:
                return letter

    def _tell_signal(self) -> None:
        if self._signals.received is not None and not self._told:
            self._told = True
            self._world.send(0, {"do": "signal", "signum": self._signals.received})

    def task(self, label: str) -> Any:
        """A bar that nobody sees. Long work asks here whether it is still wanted."""

        def move(done: int, total: int) -> None:
            self._tell_signal()
            letter = self._world.receive(0.0)
            if letter is not None and letter.do == "end":
                raise Ended(letter)
            if letter is not None:
                self._early.append(letter)

        return move

    def message(self, text: str) -> None:
        """Says nothing."""

    def warning(self, text: str) -> None:
        """Says nothing."""

    def report(self, error: SymlmError) -> dict[str, Any]:
        """Tell rank 0 of an error, and wait how it ends the run."""
        self._world.send(0, message_of(error))
        try:
            while True:
                self.receive()
        except Ended as ended:
            return ended.said

    def obey(self, letter: Letter) -> None:
        """Do what rank 0 says."""
        if letter.do == "open":
            self._open(Opening.of(letter))
            return
        engine, exchange = self.engine, self._exchange
        if engine is None or exchange is None:
            raise RankError(f"rank 0 asks for {letter.do!r} before there is an engine")
        if letter.do == "train":
            self._train(engine, exchange, letter.said["until"])
        elif letter.do == "state":
            same, own = exchange.whole_state(), exchange.owned_moments()[self._world.rank]
            self._world.move([(0, True, part) for part in (*same, *own)], exchange)
            engine.set_step(letter.said["step"])
            self._tell_digests(same, own)
        elif letter.do == "gather":
            owned = exchange.owned_moments() if letter.said["what"] == "moments" else exchange.owned_gradient()
            own = owned[self._world.rank]
            self._world.move([(0, False, part) for part in own], exchange)
            self._tell_digests(own)
        elif letter.do == "check" and self._checker is not None:
            digest = self._checker.digest(engine, exchange, letter.said["sector"])
            self._world.send(0, {"do": "checked", "digest": digest})
        elif letter.do == "record":
            engine.record(letter.said["on"])
        elif letter.do == "trace":
            trace.tell(self._world, engine.take_trace())
        elif letter.do == "clock":
            trace.answer_clock(self._world)
        elif letter.do == "restart":
            engine.restart()
            self._tell_digests(exchange.whole_state())
        elif letter.do == "pass_over":
            engine.pass_over()
        elif letter.do == "close":
            self.close()

    def _tell_digests(self, *each: list[_symlm.Memory]) -> None:
        """Of what has been moved or made, so that rank 0 can compare it with what it has."""
        self._world.send(0, {"do": "digests", "found": [digest(parts) for parts in each]})

    def _open(self, opening: Opening) -> None:
        engine, self._checker, identity = follow_opening(self._world, opening, self._config, self)
        self.engine, self._exchange = engine, engine.exchange()
        self._world.attach(self._exchange)
        # Rank 0 begins when all are ready: nothing that can fail comes after this.
        self._world.send(0, {"do": "ready", "identity": identity})

    def _train(self, engine: _symlm.Engine, exchange: _symlm.Exchange, until: int) -> None:
        engine.run_until(until)
        while True:
            self._tell_signal()
            report: _symlm.StepReport | None = failing(self._world, exchange, lambda: engine.poll(_POLL_S))
            if report is None:
                continue
            self._meter.add(report)
            last = report.step >= until or not applied(report)
            self._meter.tell(all_of_it=last)
            if last:
                return

    def close(self) -> None:
        """End the engine."""
        if self.engine is not None:
            if self._exchange is not None:
                # An update under way would wait for the others.
                self._exchange.fail("the engine is closed")
            self.engine.close()
            self._world.detach()
            self.engine = self._exchange = None
