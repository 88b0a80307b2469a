"""What training will see of a text: the tokens themselves, counted and compared.

Everything is taken from the encoded text that a training run reads, so it holds whatever the text was packed in.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .. import _symlm

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Words = npt.NDArray[np.uint32]
    Hashes = npt.NDArray[np.uint64]

CONTEXT = 1 << 31
"""Marks a word that does not count as a target."""

_BLOCK = 1 << 20
"""Words that are read together; a document may be longer."""

RUN = 32
"""Tokens of a run that stands in both parts: held-out text with many of those says little about new text."""

_FACTOR = 0x9E3779B97F4A7C15
_MIX = 0xD6E8FEB86659FD93
_MOST_RUNS = 1 << 24
"""Places of the held-out text that are looked for in the training text, evenly spread where there are more."""


@dataclass(frozen=True)
class Part:
    """One part of a text, for training or held out. `lengths` has the tokens of each document or example."""

    documents: int
    tokens: int
    targets: int
    text_bytes: int
    cut: int
    duplicates: int
    lengths: list[int] = field(repr=False)


@dataclass(frozen=True)
class Survey:
    """Both parts, and what stands in both: documents or examples, and the share of held-out tokens in runs."""

    data_format: str
    seq_len: int
    train: Part
    val: Part | None
    shared_documents: int
    shared_tokens: float
    empty: int
    halves: int


def survey(
    train: _symlm.Shards, val: _symlm.Shards | None, tokenizer: _symlm.Tokenizer, seq_len: int, empty: int, halves: int
) -> Survey:
    """Count and compare the tokens of a run: `empty` and `halves` are what reading the text told."""
    import numpy as np

    between = _between(tokenizer)
    part, hashes = _part(train, between)
    held, shared, tokens = None, 0, 0.0
    if val is not None:
        held, held_hashes = _part(val, between)
        shared = int(np.isin(held_hashes, hashes).sum())
        tokens = _shared_tokens(train, val)
    data_format = "text" if train.window is None else "completion"
    return Survey(data_format, seq_len, part, held, shared, tokens, empty, halves)


def first_pieces(shards: _symlm.Shards, tokenizer: _symlm.Tokenizer, count: int, most: int) -> Iterator[Words]:
    """The words of the first `count` documents or examples, at most `most` of each."""
    for words in itertools.islice(_pieces(shards, _between(tokenizer)), count):
        yield words[:most]


def _between(tokenizer: _symlm.Tokenizer) -> int:
    """The token between documents. It begins each where the tokenizer begins texts with it."""
    return -1 if tokenizer.eot_id is None else tokenizer.eot_id


def _blocks(shards: _symlm.Shards, size: int) -> Iterator[Words]:
    import numpy as np

    for at in range(0, shards.tokens, size):
        yield np.frombuffer(shards.words(at, min(size, shards.tokens - at)), dtype="<u4")


def _pieces(shards: _symlm.Shards, between: int) -> Iterator[Words]:
    """The documents of a text one by one, or the examples in windows."""
    if shards.window is not None:
        size = max(_BLOCK // shards.window, 1) * shards.window
        for block in _blocks(shards, size):
            for window in block.reshape(-1, shards.window):
                yield from _examples(window)
        return
    import numpy as np

    rest: list[Words] = []
    for block in _blocks(shards, _BLOCK):
        ends = np.flatnonzero(block == between)
        begin = 0
        for end in ends.tolist():
            rest.append(block[begin:end])
            # Nothing stands before a token that begins the first document too.
            if any(len(part) for part in rest):
                yield np.concatenate(rest)
            rest, begin = [], end + 1
        rest.append(block[begin:])
    if any(len(part) for part in rest):
        yield np.concatenate(rest)


def _examples(window: Words) -> Iterator[Words]:
    """The examples of a window: each begins with context and ends with targets; context behind the last fills it."""
    import numpy as np

    counts = (window & CONTEXT) == 0
    ends = np.flatnonzero(counts[:-1] & ~counts[1:]) + 1
    if counts[-1]:
        ends = np.append(ends, len(window))
    begin = 0
    for end in ends.tolist():
        yield window[begin:end]
        begin = end


def _hash(words: Words) -> int:
    import hashlib

    return int.from_bytes(hashlib.blake2b(words.tobytes(), digest_size=8).digest(), "little")


def _part(shards: _symlm.Shards, between: int) -> tuple[Part, Hashes]:
    import numpy as np

    lengths: list[int] = []
    hashes: list[int] = []
    for words in _pieces(shards, between):
        lengths.append(len(words))
        hashes.append(_hash(words))
    every = np.array(hashes, dtype=np.uint64)
    different = len(np.unique(every))
    part = Part(
        documents=shards.documents, tokens=shards.tokens, targets=shards.targets, text_bytes=shards.bytes,
        cut=shards.cut, duplicates=len(every) - different, lengths=lengths,
    )  # fmt: skip
    return part, every


def _runs(words: Words) -> Hashes:
    """A hash of the `RUN` ids from each place on: products are modulo 2^64."""
    import numpy as np

    ids = (words & ~np.uint32(CONTEXT)).astype(np.uint64) * np.uint64(_MIX)
    ids ^= ids >> np.uint64(29)
    total, step = ids.copy(), 1
    factor = _FACTOR
    # Twice as long in each round: RUN is a power of two.
    while step < RUN:
        total = total[:-step] * np.uint64(factor) + total[step:]
        factor = factor * factor % (1 << 64)
        step *= 2
    return total


def _shared_tokens(train: _symlm.Shards, val: _symlm.Shards) -> float:
    """The share of held-out tokens that stand in a run of `RUN` tokens of the training text too."""
    import numpy as np

    if val.tokens < RUN:
        return 0.0
    held = _runs(np.concatenate(list(_blocks(val, _BLOCK))[: _MOST_RUNS // _BLOCK]))
    known, places = np.unique(held, return_inverse=True)
    found = np.zeros(len(known), dtype=bool)
    # Most runs of the training text are passed over by a look at a bit of a table.
    table = np.zeros(1 << 24, dtype=bool)
    table[known >> np.uint64(40)] = True
    before = np.zeros(0, dtype=np.uint32)
    for block in _blocks(train, _BLOCK):
        words = np.concatenate([before, block])
        before = words[-(RUN - 1) :]
        if len(words) < RUN:
            continue
        runs = _runs(words)
        runs = runs[table[runs >> np.uint64(40)]]
        at = np.minimum(np.searchsorted(known, runs), len(known) - 1)
        found[at[known[at] == runs]] = True
    begins = found[places]
    covered = np.zeros(len(held) + RUN, dtype=np.int64)
    covered[: len(held)] += begins
    covered[RUN:] -= begins
    return float((np.cumsum(covered)[: len(held) + RUN - 1] > 0).mean())
