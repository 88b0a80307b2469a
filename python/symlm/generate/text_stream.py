"""From token bytes to text pieces: whole characters only, and stop strings never shown."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Sequence


class Utf8Stream:
    """Decodes bytes that arrive in parts. A character is given out when its last byte has arrived; bytes that can
    never become a character give U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, data: bytes) -> str:
        """The characters that are complete now."""
        return self._decoder.decode(data)

    def finish(self) -> str:
        """What is left: U+FFFD for a character that was cut."""
        return self._decoder.decode(b"", final=True)


class StopFilter:
    """Passes text on up to the first stop string. The end of the text that could be the beginning of a stop string is
    held back until that is decided, so a stop string that spans pieces is never shown, not even in part."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(text for text in stop if text)
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """The text that can be shown now; `stopped` is set when a stop string was found."""
        if self.stopped:
            return ""
        self._held += text
        places = [place for place in (self._held.find(stop) for stop in self._stop) if place >= 0]
        if places:
            # A longer stop string that begins earlier and is not complete yet does not count: first complete wins.
            self.stopped = True
            shown, self._held = self._held[: min(places)], ""
            return shown
        keep = self._undecided()
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def _undecided(self) -> int:
        """Length of the longest end of the held text that begins some stop string."""
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stop):
                return length
        return 0

    def finish(self) -> str:
        """The text held back when nothing more comes."""
        shown, self._held = self._held, ""
        return "" if self.stopped else shown


def without_first(chunks: Iterable[bytes], count: int) -> Iterator[bytes]:
    """The bytes of all chunks but the first `count` ones."""
    for chunk in chunks:
        yield chunk[count:]
        count = max(count - len(chunk), 0)


class TextWriter:
    """From the bytes of consecutive tokens to text, ending before the first stop string."""

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._utf8, self._stops = Utf8Stream(), StopFilter(stop)

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found."""
        return self._stops.stopped

    def feed(self, data: bytes) -> str:
        """The text that can be shown now."""
        return self._stops.feed(self._utf8.feed(data))

    def finish(self) -> str:
        """What was held back, when nothing more comes."""
        return self._stops.feed(self._utf8.finish()) + self._stops.finish()


def text_pieces(chunks: Iterable[bytes], stop: Sequence[str] = ()) -> Iterator[str]:
    """Text pieces, none empty, of the bytes of consecutive tokens, ending before the first stop string."""
    writer = TextWriter(stop)
    for chunk in chunks:
        piece = writer.feed(chunk)
        if piece:
            yield piece
        if writer.stopped:
            return
    piece = writer.finish()
    if piece:
        yield piece
