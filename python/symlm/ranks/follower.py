"""What the ranks after 0 do: they have an engine and no run folder, and follow what rank 0 tells them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .. import _symlm
from ..errors import RankError, SymlmError
from ..system.signals import StopSignals
from .engine import failing
from .opening import Opening, follow_opening
from .world import World

_POLL_S = 0.1


@dataclass(frozen=True)
class Ending:
    """How rank 0 says that the run has ended: its result, or the exit code of an error that it has reported."""

    code: int
    result: Any = None


def follow(world: World, data: tuple[str, ...], signals: StopSignals) -> Ending:
    """Do what rank 0 says until it says how the run has ended. RankError when a rank fails.

    `data` are the paths of the text as this rank was given them; without any they are those of rank 0.
    """
    follower = _Follower(world, data, signals)
    try:
        while True:
            received = follower.receive()
            if received["do"] == "end":
                return Ending(received["code"], received["result"])
            follower.obey(received)
    except SymlmError as error:
        if world.failure is None:
            # Before the first update rank 0 reports it; after that nothing can continue.
            message = {"do": "error", "message": error.message, "hint": error.hint, "code": error.exit_code}
            if follower.engine is None:
                world.send(0, message)
                return follower.wait_for_end()
            world.fail(RankError(f"{world.name(world.rank)}: {error.message}", error.hint))
        raise
    finally:
        follower.close()


class _Follower:
    def __init__(self, world: World, data: tuple[str, ...], signals: StopSignals) -> None:
        self._world = world
        self._data = data
        self._signals = signals
        self._told = False
        self.engine: _symlm.Engine | None = None
        self._exchange: _symlm.Exchange | None = None

    def receive(self) -> dict[str, Any]:
        """The next word of rank 0. A signal that came here goes to rank 0, which saves."""
        while True:
            self._tell_signal()
            received = self._world.receive(_POLL_S)
            if received is not None:
                message: dict[str, Any] = received[1]
                return message

    def _tell_signal(self) -> None:
        if self._signals.received is not None and not self._told:
            self._told = True
            self._world.send(0, {"do": "signal", "signum": self._signals.received})

    def wait_for_end(self) -> Ending:
        """How rank 0 ends the run after an error of this rank."""
        while True:
            received = self.receive()
            if received["do"] == "end":
                return Ending(received["code"], received["result"])

    def obey(self, message: dict[str, Any]) -> None:
        """Do what rank 0 says."""
        if message["do"] == "open":
            self._open(message["opening"])
            return
        engine, exchange = self.engine, self._exchange
        if engine is None or exchange is None:
            raise RankError("rank 0 asks for an update before there is an engine")
        if message["do"] == "train":
            self._train(engine, exchange, message["until"])
        elif message["do"] == "state":
            self._world.move([(0, True, part.address, part.bytes) for part in exchange.whole_state()])
            engine.set_step(message["step"])
        elif message["do"] == "gather":
            owned = exchange.owned_moments() if message["what"] == "moments" else exchange.owned_gradient()
            self._world.move([(0, False, part.address, part.bytes) for part in owned[self._world.rank]])
        elif message["do"] == "restart":
            engine.restart()
        elif message["do"] == "pass_over":
            engine.pass_over()
        elif message["do"] == "close":
            self.close()

    def _open(self, opening: Opening) -> None:
        self.engine = follow_opening(self._world, opening, self._data)
        self._exchange = self.engine.exchange()
        self._world.attach(self._exchange)

    def _train(self, engine: _symlm.Engine, exchange: _symlm.Exchange, until: int) -> None:
        engine.run_until(until)
        while True:
            self._tell_signal()
            report: _symlm.StepReport | None = failing(self._world, exchange, lambda: engine.poll(_POLL_S))
            if report is None:
                continue
            if report.step >= until or not (math.isfinite(report.loss) and math.isfinite(report.grad_norm)):
                # An update that is not applied ends the updates; rank 0 has the same numbers and says what is next.
                return

    def close(self) -> None:
        """End the engine."""
        if self.engine is not None:
            if self._exchange is not None and self._world.failure is not None:
                self._exchange.fail("another rank has failed")
            self.engine.close()
            self._world.detach()
            self.engine = self._exchange = None
