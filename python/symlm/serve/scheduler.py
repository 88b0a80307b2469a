"""The engine's thread: it takes sequences from a queue into slots and steps them, whatever the clients do.

The event loop hands sequences over and takes tokens back; neither side ever waits for the other. What a step gives
reaches the loop as one call, so that a slow client costs the engine nothing: its tokens wait in its own queue.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .. import _symlm
from .waiting import Waiting

Told = _symlm.Drawn | Exception
"""What a sequence is told: a token, or that it cannot be written."""


@dataclass(eq=False)
class Sequenced:
    """A sequence to be written, and who is told about it."""

    prompt: list[int] | str
    """Ids, or a text whose white space at the end the first tokens repeat."""
    settings: _symlm.SampleSettings
    top: int | None
    """Alternatives of each token; None without logprobs."""
    told: Callable[[Told], None]
    """Called in the event loop for every token; the last one says that it is."""
    repeated: int = 0
    """Bytes of the tokens, the first ones, that repeat the prompt."""
    left: bool = False
    slot: int | None = None


class Scheduler:
    """Steps the sequences of a batch on a thread. All methods belong to the event loop."""

    def __init__(self, batch: _symlm.Batch, tokenizer: _symlm.Tokenizer) -> None:
        self._batch, self._tokenizer = batch, tokenizer
        self._wake = threading.Condition()
        self._waiting: Waiting[Sequenced] = Waiting()
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
        """Put the sequences of a request into the queue."""
        with self._wake:
            self._waiting.add(sequences)
            self._wake.notify()

    def leave(self, sequence: Sequenced) -> None:
        """End a sequence, wherever it is; it is told nothing more."""
        with self._wake:
            if not sequence.left:
                sequence.left = True
                if not self._waiting.drop(sequence):
                    self._leaving.append(sequence)
                    self._wake.notify()

    # --- on the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while self._orders():
            try:
                drawn = self._batch.step()
            except Exception as error:  # told to everyone it concerns: the thread lives on
                failed = list(self._running.values())
                self._tell([(sequence, error) for sequence in failed])
                for sequence in failed:
                    self._free(sequence)
                continue
            told: list[tuple[Sequenced, Told]] = [(self._running[one.slot], one.error or one) for one in drawn]
            for one in drawn:
                if one.finished:
                    self._free(self._running[one.slot])
            self._tell(told)

    def _orders(self) -> bool:
        """Take what the event loop has asked for, and wait while there is nothing to do. False ends the thread."""
        with self._wake:
            while True:
                for sequence in self._leaving:
                    self._free(sequence)
                self._leaving.clear()
                if self._closed:
                    return False
                joining: list[Sequenced] = []
                while len(self._running) + len(joining) < self._batch.slots and (one := self._waiting.take()):
                    joining.append(one)
                if joining or self._running:
                    break
                self._wake.wait()
        for sequence in joining:
            self._join(sequence)
        return True

    def _join(self, sequence: Sequenced) -> None:
        try:
            if isinstance(sequence.prompt, str):
                slot, sequence.repeated = self._batch.join_behind(
                    self._tokenizer, sequence.prompt, sequence.settings, sequence.top
                )
            else:
                slot = self._batch.join(sequence.prompt, sequence.settings, sequence.top)
        except Exception as error:  # told to whoever asked for it
            self._tell([(sequence, error)])
        else:
            self._running[slot], sequence.slot = sequence, slot

    def _free(self, sequence: Sequenced) -> None:
        slot, sequence.slot = sequence.slot, None
        if slot is not None:
            del self._running[slot]
            self._batch.leave(slot)

    def _tell(self, told: list[tuple[Sequenced, Told]]) -> None:
        assert self._loop is not None
        if told:
            try:
                self._loop.call_soon_threadsafe(_hand_over, told)
            except RuntimeError:
                # The loop has ended, and with it everyone who could be told.
                self._closed = True


def _hand_over(told: list[tuple[Sequenced, Told]]) -> None:
    for sequence, what in told:
        if not sequence.left:
            sequence.told(what)
