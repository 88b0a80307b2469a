"""Sequences that are stepped together. This is all that the scheduler knows of the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .. import _symlm
from .logprobs import TokenLogprobs, of_row


@dataclass(frozen=True)
class Drawn:
    """What a step did to one sequence."""

    slot: int
    token: int | None
    """None when the sequence has ended: at a token that ends a text, or at its last one."""
    logprobs: TokenLogprobs | None = None
    """Where they were asked for."""
    error: Exception | None = None


class Batch(Protocol):
    """Sequences in slots."""

    def join(self, ids: list[int], settings: _symlm.SampleSettings, top: int | None) -> int:
        """Begin a sequence behind `ids`; gives its slot. `top` asks for logprobs, with so many alternatives."""
        ...

    def step(self) -> Sequence[Drawn]:
        """One token for every sequence; one that has ended keeps its slot until it leaves."""
        ...

    def leave(self, slot: int) -> None:
        """End a sequence."""
        ...


@dataclass
class _Sequence:
    stream: _symlm.TokenStream
    context: list[int]
    top: int | None
    ended: bool = False


class Streams:
    """A `Batch` of one stream of the generator for each sequence, stepped one after the other."""

    def __init__(self, engine: _symlm.Generator) -> None:
        self._engine = engine
        self._running: dict[int, _Sequence] = {}

    def join(self, ids: list[int], settings: _symlm.SampleSettings, top: int | None) -> int:
        """As `Batch.join`."""
        slot = next(number for number in range(len(self._running) + 1) if number not in self._running)
        self._running[slot] = _Sequence(self._engine.stream(ids, settings), list(ids), top)
        return slot

    def step(self) -> list[Drawn]:
        """As `Batch.step`."""
        return [self._step(slot, one) for slot, one in self._running.items() if not one.ended]

    def _step(self, slot: int, one: _Sequence) -> Drawn:
        try:
            token = next(one.stream, None)
            if token is None:
                one.ended = True
                return Drawn(slot, None)
            logprobs = None
            if one.top is not None:
                logprobs = of_row(self._engine.logits(one.context, 1), token, one.top)
                one.context.append(token)
            return Drawn(slot, token, logprobs)
        except Exception as error:  # one sequence must not end the others
            one.ended = True
            return Drawn(slot, None, error=error)

    def leave(self, slot: int) -> None:
        """As `Batch.leave`."""
        del self._running[slot]
