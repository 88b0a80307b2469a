"""Token ids are those of the `tokenizers` library, for every text."""

from __future__ import annotations

import random
import sys
import unicodedata
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from symlm import _symlm

CONTRACTIONS = ["'", "''", "'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'RE", "’s", "'x", "'r", "'l"]
NEWLINES = ["\n", "\r\n", "\r", "\n\n", " \n", "\n ", "\x85", "\u2028", "\u2029"]
SPACES = [chr(c) for c in range(sys.maxunicode + 1) if chr(c).isspace()]
LIKE_SPACES = ["\u180e", "\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\u00ad", "\x00", "\x1b"]
SPECIAL = ["<|endoftext|>", "<|", "|>"]
CHARACTERS = st.one_of(
    *(st.characters(categories=[group]) for group in ("L", "N", "M", "P", "S", "Z")),
    st.characters(categories=["Cn", "Co", "Cf", "Cc"]),
    st.characters(min_codepoint=0x2FF00, max_codepoint=0x40100),
)
"""Every class of the splitter, characters that are not assigned, and both sides of the end of its table."""

PARTS = st.one_of(
    st.sampled_from([*CONTRACTIONS, *NEWLINES, *SPACES, *LIKE_SPACES, *SPECIAL, " ", "  "]),
    CHARACTERS,
    st.text(st.characters(categories=["L"]), max_size=8),
    st.text("ethaon'0 1\n", max_size=12),
    st.builds(lambda c, n: c * n, CHARACTERS | st.sampled_from([" ", "'", "\n", "a", "0"]), st.integers(2, 2000)),
)  # fmt: skip
TEXTS = st.one_of(st.lists(PARTS, max_size=25).map("".join), st.text())

Pair = tuple[_symlm.Tokenizer, tokenizers.Tokenizer]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A tokenizer with merges of letters, marks, numbers and spaces of many scripts, and the library's of the file."""
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "text.txt").write_text(mixed(60_000, seed=1), encoding="utf-8")
    trained = _symlm.Corpus.open([str(folder / "text.txt")]).train_tokenizer(1500, 2, None)
    trained.save(str(folder / "tokenizer.json"))
    library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    # The characters of the special token are ordinary text here.
    library.encode_special_tokens = True
    return trained, library


def mixed(words: int, seed: int) -> str:
    """Text of words of many scripts, numbers, marks and all kinds of white space."""
    random_ = random.Random(seed)
    assigned = [chr(c) for c in range(0x21, 0x3000) if unicodedata.category(chr(c))[0] in "LNMPS"]
    stock = [
        "the",
        "it's",
        "they'll",
        "1984",
        "naïve",
        "weiß",
        "слово",
        "漢字",
        "한국어",
        "שלום",
        "e\u0301",
        "😀",
        "don't",
    ]
    stock += ["".join(random_.choices(assigned, k=random_.randint(1, 6))) for _ in range(1500)]
    gaps = [" "] * 30 + ["\n", "\n\n", "  ", "\t", "\r\n", "\u3000", "\u00a0", " \n "]
    return "".join(random_.choice(stock) + random_.choice(gaps) for _ in range(words))


@settings(max_examples=400)
@given(text=TEXTS)
def test_ids_are_those_of_the_library(pair: Pair, text: str) -> None:
    ours, library = pair
    ids = ours.encode(text)
    assert ids == library.encode(text, add_special_tokens=False).ids
    assert ours.decode(ids) == text


def test_every_character_has_the_ids_of_the_library(pair: Pair) -> None:
    """Each between two letters and after a blank, where its class decides about both neighbours."""
    ours, library = pair
    characters = [chr(c) for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000]
    # Nothing is assigned between the planes of ideographs and that of tags but private use: some of them are enough.
    characters = [c for c in characters if ord(c) < 0x32000 or 0xE0000 <= ord(c) < 0xE0400 or ord(c) % 997 == 0]
    for start in range(0, len(characters), 20_000):
        text = "".join(f"a{c}e {c}1" for c in characters[start : start + 20_000])
        assert ours.encode(text) == library.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("threads", [1, 3])
def test_files_have_the_ids_of_the_library(pair: Pair, tmp_path: Path, threads: int) -> None:
    """A file that is read in many pieces, and documents with the token between them."""
    ours, library = pair
    texts = [mixed(120_000, seed=2), "x", mixed(50, seed=3) + " " * 300_000 + "y"]
    assert len(texts[0].encode()) > 3 * 256 * 1024
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.txt").write_bytes(text.encode())
    corpus = _symlm.Corpus.open([str(tmp_path)])
    shards = corpus.prepare(ours, str(tmp_path / "cache"), 0.0, 8, threads, None).train
    expected: list[int] = []
    assert ours.eot_id is not None
    for number, text in enumerate(texts):
        expected += [ours.eot_id] * (number > 0) + library.encode(text, add_special_tokens=False).ids
    assert shards.ids(0, shards.tokens) == expected
