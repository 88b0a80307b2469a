"""The engine's thread: it takes sequences from a queue into slots and steps them, whatever the clients do.

The event loop hands sequences over and takes tokens back; neither side ever waits for the other. What a step gives
reaches the loop as one call, so that a slow client costs the engine nothing: its tokens wait in its own queue.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .. import _symlm
from .streams import Batch, Drawn


@dataclass(eq=False)
class Sequenced:
    """A sequence to be written, and who is told about it."""

    ids: list[int]
    settings: _symlm.SampleSettings
    top: int | None
    told: Callable[[Drawn], None]
    """Called in the event loop for every token, and once for the end."""
    left: bool = False


class Scheduler:
    """Steps sequences on a thread. `start` and `close` belong to the event loop, as does everything else here."""

    def __init__(self, batch: Batch, slots: int) -> None:
        self._batch, self._slots = batch, slots
        self._wake = threading.Condition()
        self._waiting: deque[Sequenced] = deque()
        self._leaving: list[Sequenced] = []
        self._running: dict[int, Sequenced] = {}
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="symlm-serve", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def close(self) -> None:
        """End the thread after the step under way; sequences that are left get no more tokens."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def waiting(self) -> int:
        """Sequences without a slot."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Sequences in slots."""
        return len(self._running)

    def add(self, sequences: Sequence[Sequenced]) -> None:
        """Put sequences at the end of the queue."""
        with self._wake:
            self._waiting.extend(sequences)
            self._wake.notify()

    def leave(self, sequence: Sequenced) -> None:
        """End a sequence, wherever it is; it is told nothing more."""
        with self._wake:
            if not sequence.left:
                sequence.left = True
                self._leaving.append(sequence)
                self._wake.notify()

    # --- on the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while self._orders():
            told = [(self._running[drawn.slot], drawn) for drawn in self._batch.step()]
            for sequence, drawn in told:
                if drawn.token is None:
                    self._free(sequence)
            self._tell(told)

    def _orders(self) -> bool:
        """Take what the event loop has asked for, and wait while there is nothing to do. False ends the thread."""
        with self._wake:
            while True:
                for sequence in self._leaving:
                    self._free(sequence)
                    if sequence in self._waiting:
                        self._waiting.remove(sequence)
                self._leaving.clear()
                if self._closed:
                    return False
                joining: list[Sequenced] = []
                while self._waiting and len(self._running) + len(joining) < self._slots:
                    joining.append(self._waiting.popleft())
                if joining or self._running:
                    break
                self._wake.wait()
        for sequence in joining:
            self._join(sequence)
        return True

    def _join(self, sequence: Sequenced) -> None:
        try:
            slot = self._batch.join(sequence.ids, sequence.settings, sequence.top)
        except Exception as error:  # told to whoever asked for it
            self._tell([(sequence, Drawn(-1, None, error=error))])
        else:
            self._running[slot] = sequence

    def _free(self, sequence: Sequenced) -> None:
        slot = next((slot for slot, one in self._running.items() if one is sequence), None)
        if slot is not None:
            del self._running[slot]
            self._batch.leave(slot)

    def _tell(self, told: list[tuple[Sequenced, Drawn]]) -> None:
        assert self._loop is not None
        if told:
            try:
                self._loop.call_soon_threadsafe(_hand_over, told)
            except RuntimeError:
                # The loop has ended, and with it everyone who could be told.
                self._closed = True


def _hand_over(told: list[tuple[Sequenced, Drawn]]) -> None:
    for sequence, drawn in told:
        if not sequence.left:
            sequence.told(drawn)
