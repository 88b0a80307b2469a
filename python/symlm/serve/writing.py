"""From tokens to pieces of text: whole characters, up to a stop text, each with its tokens and their places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..generate.text_stream import StopFilter, Utf8Stream
from .logprobs import TokenLogprobs


@dataclass(frozen=True)
class Placed:
    """A token, and where its text begins."""

    id: int
    raw: bytes
    """What it adds to the text: nothing at the end of a text, and less than its bytes where it repeats the prompt."""
    offset: int
    """Characters before it, from the beginning of the prompt."""
    logprobs: TokenLogprobs | None
    """None of a first token, which nothing stands before."""
    repeats: bytes = b""
    """White space at the end of the prompt that the token begins with."""


@dataclass
class Piece:
    """What can be shown now."""

    text: str = ""
    tokens: list[Placed] = field(default_factory=list)
    """The tokens that begin in it; only with logprobs."""


class Writing:
    """The text of one sequence as it is drawn."""

    def __init__(self, stop: Sequence[str], *, offset: int = 0, keep_tokens: bool = False, strip: bool = False) -> None:
        """`offset` is where the text begins, `strip` leaves out white space at its beginning."""
        self._utf8, self._stops = Utf8Stream(), StopFilter(stop)
        self._read, self._shown = offset, offset
        self._waiting: list[Placed] = []
        self._keep, self._strip = keep_tokens, strip

    @property
    def stopped(self) -> bool:
        """Whether a stop text has been found."""
        return self._stops.stopped

    def feed(self, token: int, raw: bytes, logprobs: TokenLogprobs | None, repeats: bytes = b"") -> Piece:
        """The next token; gives what can be shown. `raw` are its bytes without what it `repeats` of the prompt."""
        if self._keep:
            self._waiting.append(Placed(token, raw, self._read, logprobs, repeats))
        text = self._utf8.feed(raw)
        self._read += len(text)
        return self._piece(self._stops.feed(text), last=False)

    def finish(self, end: int | None = None, logprobs: TokenLogprobs | None = None) -> Piece:
        """What is left when nothing more comes. `end` is the token that ended the text, to be told with the others."""
        if self.stopped:
            return Piece()
        text = self._utf8.finish()
        self._read += len(text)
        if self._keep and end is not None:
            self._waiting.append(Placed(end, b"", self._read, logprobs))
        text = self._stops.feed(text)
        text += self._stops.finish()
        return self._piece(text, last=not self.stopped)

    def _piece(self, text: str, last: bool) -> Piece:
        self._shown += len(text)
        ready = [one for one in self._waiting if last or one.offset < self._shown]
        self._waiting = self._waiting[len(ready) :]
        if self._strip:
            text = text.lstrip()
            self._strip = not text
        return Piece(text, ready)


def places(ids: Sequence[int], raw: Sequence[bytes], logprobs: Sequence[TokenLogprobs]) -> list[Placed]:
    """The tokens of a text that is there as a whole; `logprobs` are those of all but the first."""
    utf8, at = Utf8Stream(), 0
    found = []
    for number, (id_, data) in enumerate(zip(ids, raw, strict=True)):
        found.append(Placed(id_, data, at, logprobs[number - 1] if number else None))
        at += len(utf8.feed(data))
    return found
