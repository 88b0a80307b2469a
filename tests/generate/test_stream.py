"""Text pieces from token bytes: whole characters, stop strings never shown."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from symlm.generate.text_stream import StopFilter, Utf8Stream, text_pieces


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


@given(st.text(), st.lists(st.integers(0, 1000), max_size=8))
def test_any_cut_gives_the_same_text(text: str, places: list[int]) -> None:
    raw = text.encode("utf-8", errors="replace")
    pieces = list(text_pieces(cut(raw, places)))
    assert "".join(pieces) == raw.decode()
    assert all(pieces)


@given(st.binary(), st.lists(st.integers(0, 1000), max_size=8))
def test_broken_bytes_decode_as_a_whole(raw: bytes, places: list[int]) -> None:
    assert "".join(text_pieces(cut(raw, places))) == raw.decode("utf-8", errors="replace")


@given(
    st.text("abc", max_size=30),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(0, 40), max_size=8),
)
def test_stop_strings_end_the_text_and_are_not_shown(text: str, stop: list[str], places: list[int]) -> None:
    shown = "".join(text_pieces(cut(text.encode(), places), stop))
    assert text.startswith(shown)
    assert not any(word in shown for word in stop)
    found = [text.find(word) for word in stop if word in text]
    if not found:
        assert shown == text
    else:
        # Some stop string begins right where the text ends.
        assert any(text.startswith(word, len(shown)) for word in stop)


def test_a_stop_string_that_spans_tokens_is_held_back() -> None:
    stops = StopFilter(["END"])
    assert stops.feed("hello E") == "hello "
    assert stops.feed("N") == ""
    assert stops.feed("X") == "ENX"
    assert stops.feed("EN") == ""
    assert stops.feed("D more") == ""
    assert stops.stopped
    assert stops.finish() == ""


def test_held_text_comes_out_at_the_end() -> None:
    assert "".join(text_pieces([b"almost EN"], ["END"])) == "almost EN"
    assert "".join(text_pieces([b"x"], [""])) == "x"


def test_a_character_appears_with_its_last_byte() -> None:
    stream = Utf8Stream()
    assert [stream.feed(bytes([byte])) for byte in "€".encode()] == ["", "", "€"]
    assert stream.feed("😀".encode()[:2]) == ""
    assert stream.finish() == "\N{REPLACEMENT CHARACTER}"


def test_nothing_is_drawn_after_the_stop() -> None:
    drawn = []

    def tokens() -> Iterator[bytes]:
        for chunk in (b"a", b"STOP", b"b"):
            drawn.append(chunk)
            yield chunk

    assert "".join(text_pieces(tokens(), ["STOP"])) == "a"
    assert drawn == [b"a", b"STOP"]
