"""The queue of sequences that wait for a slot."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Waiting(Generic[T]):
    """Sequences that wait: those of a request in their order, requests in turn, so that one with many texts does not
    hold up one with few. Nothing here takes longer the more there are."""

    def __init__(self) -> None:
        self._requests: OrderedDict[int, OrderedDict[T, None]] = OrderedDict()
        self._place: dict[T, int] = {}
        """The number of each one's request."""
        self._begun = 0

    def __len__(self) -> int:
        return len(self._place)

    def add(self, sequences: Sequence[T]) -> None:
        """Those of one more request."""
        if sequences:
            self._begun += 1
            self._requests[self._begun] = OrderedDict.fromkeys(sequences)
            self._place.update(dict.fromkeys(sequences, self._begun))

    def drop(self, sequence: T) -> bool:
        """Take one out, wherever it is; False if it does not wait."""
        number = self._place.pop(sequence, None)
        if number is None:
            return False
        of_request = self._requests[number]
        del of_request[sequence]
        if not of_request:
            del self._requests[number]
        return True

    def take(self) -> T | None:
        """The next one; None if nobody waits."""
        number = next(iter(self._requests), None)
        if number is None:
            return None
        self._requests.move_to_end(number)
        sequence = next(iter(self._requests[number]))
        self.drop(sequence)
        return sequence
