"""What rank 0 shows while it prepares the text, and hears of the other ranks meanwhile."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import Interrupted
from ..system.signals import StopSignals
from ..text.corpus import ProgressFactory
from .failures import error_of
from .wire import Letter
from .world import World


class Hearing:
    """A display whose bars ask, whenever they move, whether the work is still wanted: what has failed on another rank
    is raised, and a signal that another one got counts as one here."""

    def __init__(self, display: ProgressFactory, world: World, signals: StopSignals) -> None:
        self._display = display
        self._world = world
        self._signals = signals

    def task(self, label: str) -> Callable[[int, int], None]:
        """As the display's."""
        move = self._display.task(label)

        def moved(done: int, total: int) -> None:
            self._hear()
            move(done, total)

        return moved

    def message(self, text: str) -> None:
        """As the display's."""
        self._display.message(text)

    def warning(self, text: str) -> None:
        """As the display's."""
        self._display.warning(text)

    def _hear(self) -> None:
        kept: list[Letter] = []
        while (letter := self._world.receive(0.0)) is not None:
            if letter.do == "error":
                raise error_of(self._world, letter.source, letter.said)
            if letter.do == "signal":
                self._signals.received = letter.said["signum"]
                raise Interrupted(letter.said["signum"])
            kept.append(letter)
        for letter in kept:
            self._world.put_back(letter)
