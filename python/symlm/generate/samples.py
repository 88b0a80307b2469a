"""Several texts behind one prompt, written together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from .. import _symlm
from ..errors import SymlmError
from .text_stream import TextWriter

MOST_TOGETHER = 32
"""Texts at a time: with more of them each comes later, and all are hardly faster."""


class _Sample:
    """One text under way."""

    def __init__(self, repeated: int, stop: Sequence[str]) -> None:
        self._skip = repeated
        self._writer = TextWriter(stop)
        self.pieces: deque[str] = deque()
        self.ended = False
        self.error: SymlmError | None = None

    def feed(self, data: bytes) -> None:
        """Takes the bytes of a token; `ended` is set when they complete a stop string."""
        self._put(self._writer.feed(data[self._skip :]))
        self._skip = max(self._skip - len(data), 0)
        self.ended = self._writer.stopped

    def finish(self) -> None:
        """Gives out what was held back."""
        self._put(self._writer.finish())
        self.ended = True

    def _put(self, piece: str) -> None:
        if piece:
            self.pieces.append(piece)


class Samples:
    """Texts 0 to `count - 1` behind `prompt`, each as it would be alone. They share what the model has read of it."""

    def __init__(
        self,
        batch: _symlm.Batch,
        tokenizer: _symlm.Tokenizer,
        prompt: str,
        stop: Sequence[str],
        settings: Callable[[int], _symlm.SampleSettings],
        count: int,
    ) -> None:
        self._batch, self._tokenizer, self._prompt = batch, tokenizer, prompt
        self._stop, self._settings, self._count = stop, settings, count
        self._samples: dict[int, _Sample] = {}
        self._slots: dict[int, _Sample] = {}
        self._begun = 0

    def pieces(self, index: int) -> Iterator[str]:
        """The pieces of a text as they come, none empty. Texts are asked for in their order, each once. One that fails
        ends in its error, and the others do not."""
        while True:
            sample = self._samples.get(index)
            if sample is not None and sample.pieces:
                yield sample.pieces.popleft()
            elif sample is not None and sample.ended:
                del self._samples[index]
                if sample.error is not None:
                    raise sample.error
                return
            else:
                self._step()

    def _step(self) -> None:
        while self._begun < self._count and self._batch.free:
            slot, repeated = self._batch.join_behind(self._tokenizer, self._prompt, self._settings(self._begun))
            self._samples[self._begun] = self._slots[slot] = _Sample(repeated, self._stop)
            self._begun += 1
        for drawn in self._batch.step():
            sample = self._slots[drawn.slot]
            if drawn.token is not None and drawn.why != "stop":
                sample.feed(self._tokenizer.decode_bytes([drawn.token]))
            if drawn.finished and not sample.ended:
                sample.error = drawn.error
                sample.finish()
            if sample.ended:
                del self._slots[drawn.slot]
                self._batch.leave(drawn.slot)
