"""What training will see of a text: the tokens themselves, counted and compared.

Everything is taken from the encoded text that a training run reads, so it holds whatever the text was packed in.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .. import _symlm

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Words = npt.NDArray[np.uint32]
    Hashes = npt.NDArray[np.uint64]
    Flags = npt.NDArray[np.bool_]

CONTEXT = 1 << 31
"""Marks a word that does not count as a target."""

_BLOCK = 1 << 18
"""Words that are read together; a document may be longer."""

RUN = 32
"""Tokens of a run that stands in both parts: held-out text with many of those says little about new text."""

_FACTOR = 0x9E3779B97F4A7C15
_MIX = 0xD6E8FEB86659FD93
_MOST_BLOCKS = 32
"""Blocks of the held-out text that are looked for in the training text, evenly spread where there are more."""


@dataclass(frozen=True)
class Part:
    """One part of a text, for training or held out. `lengths` has the tokens of each document, example or
    conversation."""

    documents: int
    tokens: int
    targets: int
    text_bytes: int
    cut: int
    duplicates: int
    lengths: array[int] = field(repr=False)


@dataclass(frozen=True)
class Survey:
    """Both parts, and what stands in both: documents, examples or conversations, and the share of the held-out tokens
    that were compared, `compared_tokens`, in runs."""

    data_format: str
    seq_len: int
    train: Part
    val: Part | None
    shared_documents: int
    shared_tokens: float
    compared_tokens: int
    empty: int
    halves: int


Lengths = tuple["array[int] | None", "array[int] | None"]
"""The tokens of each example of the training and the held-out part; None for texts."""


def survey(
    train: _symlm.Shards,
    val: _symlm.Shards | None,
    tokenizer: _symlm.Tokenizer,
    data_format: str,
    seq_len: int,
    empty: int,
    halves: int,
    lengths: Lengths = (None, None),
) -> Survey:
    """Count and compare the tokens of a run: `empty` and `halves` are what reading the text told."""
    import numpy as np

    between = _between(tokenizer)
    part, hashes = _part(train, between, lengths[0])
    held, shared, share, compared = None, 0, 0.0, 0
    if val is not None:
        held, held_hashes = _part(val, between, lengths[1])
        shared = int(np.isin(_numbers(held_hashes), _numbers(hashes)).sum())
        share, compared = _shared_tokens(train, val, between)
    return Survey(data_format, seq_len, part, held, shared, share, compared, empty, halves)


def first_pieces(
    shards: _symlm.Shards, tokenizer: _symlm.Tokenizer, count: int, most: int, lengths: array[int] | None = None
) -> Iterator[Words]:
    """The words of the first `count` documents, examples or conversations, at most `most` of each."""
    import numpy as np

    done, kept, size = 0, [], 0
    if count < 1:
        return
    for words, ends in _parts(shards, _between(tokenizer), lengths):
        kept.append(words[: most - size])
        size += len(kept[-1])
        if not ends and not (done == count - 1 and size == most):
            continue
        if size:
            yield np.concatenate(kept)
            done += 1
        kept, size = [], 0
        if done == count:
            return


def split_lengths(raw: bytes, documents: int) -> Lengths:
    """What the core tells of the examples of a text, of which the first `documents` are to train on."""
    every = array("I", raw)
    return every[:documents], every[documents:]


def _between(tokenizer: _symlm.Tokenizer) -> int:
    """The token between documents. It begins each where the tokenizer begins texts with it."""
    return -1 if tokenizer.eot_id is None else tokenizer.eot_id


def _numbers(numbers: array[int]) -> Hashes:
    import numpy as np

    return np.frombuffer(numbers, dtype=np.uint64) if numbers else np.zeros(0, dtype=np.uint64)


def _block(shards: _symlm.Shards, at: int, size: int) -> Words:
    import numpy as np

    return np.frombuffer(shards.words(at, min(size, shards.tokens - at)), dtype="<u4")


def _block_size(shards: _symlm.Shards) -> int:
    """Words of a block, which has whole windows."""
    return _BLOCK if shards.window is None else max(_BLOCK // shards.window, 1) * shards.window


def _blocks(shards: _symlm.Shards) -> Iterator[Words]:
    size = _block_size(shards)
    for at in range(0, shards.tokens, size):
        yield _block(shards, at, size)


def _parts(shards: _symlm.Shards, between: int, lengths: array[int] | None) -> Iterator[tuple[Words, bool]]:
    """The documents of a text in parts, each with whether it ends there; of examples each is one part."""
    if shards.window is not None:
        for words in _examples(shards, shards.window, lengths or array("I")):
            yield words, True
        return
    import numpy as np

    for block in _blocks(shards):
        begin = 0
        for end in np.flatnonzero(block == between).tolist():
            yield block[begin:end], True
            begin = end + 1
        yield block[begin:], False
    yield np.zeros(0, dtype=np.uint32), True


def _examples(shards: _symlm.Shards, window: int, lengths: array[int]) -> Iterator[Words]:
    """The examples: each in the window at hand if that has room, else in the next one (contract T10)."""
    number = 0
    for block in _blocks(shards):
        for words in block.reshape(-1, window):
            used = 0
            while number < len(lengths) and used + lengths[number] <= window:
                yield words[used : used + lengths[number]]
                used += lengths[number]
                number += 1


def _part(shards: _symlm.Shards, between: int, lengths: array[int] | None) -> tuple[Part, array[int]]:
    import hashlib

    import numpy as np

    found, hashes = array("Q"), array("Q")
    hasher, size = hashlib.blake2b(digest_size=8), 0
    for words, ends in _parts(shards, between, lengths):
        hasher.update(words.tobytes())
        size += len(words)
        # Nothing stands before a token that begins the first document too.
        if ends and size:
            found.append(size)
            hashes.append(int.from_bytes(hasher.digest(), "little"))
            hasher, size = hashlib.blake2b(digest_size=8), 0
    part = Part(
        documents=shards.documents, tokens=shards.tokens, targets=shards.targets, text_bytes=shards.bytes,
        cut=shards.cut, duplicates=len(hashes) - len(np.unique(_numbers(hashes))), lengths=found,
    )  # fmt: skip
    return part, hashes


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


def _filled(block: Words, window: int | None, between: int) -> Words:
    """How many words from each place on are of the text: up to the end of the window, without what fills it."""
    import numpy as np

    if window is None:
        return np.arange(len(block), 0, -1, dtype=np.uint32)
    fill = block.reshape(-1, window) == (between | CONTEXT if between >= 0 else CONTEXT)
    filling = np.logical_and.accumulate(fill[:, ::-1], axis=1).sum(axis=1)
    left = np.arange(window, 0, -1)[None, :] - filling[:, None]
    room: Words = np.maximum(left, 0).astype(np.uint32).ravel()
    return room


def _spread(shards: _symlm.Shards) -> list[int]:
    """Where the blocks begin that are compared: all, or some that are evenly spaced."""
    size = _block_size(shards)
    count = -(-shards.tokens // size)
    if count <= _MOST_BLOCKS:
        return [number * size for number in range(count)]
    return [number * (count - 1) // (_MOST_BLOCKS - 1) * size for number in range(_MOST_BLOCKS)]


def _shared_tokens(train: _symlm.Shards, val: _symlm.Shards, between: int) -> tuple[float, int]:
    """The share of held-out tokens that stand in a run of `RUN` tokens of the training text too, and of how many. What
    fills a window does not count as text."""
    import numpy as np

    runs_of, places_of, sizes, compared = [], [], [], 0
    for at in _spread(val):
        block = _block(val, at, _block_size(val))
        filled = _filled(block, val.window, between)
        compared += int((filled > 0).sum())
        if len(block) >= RUN:
            places = np.flatnonzero(filled[: len(block) - RUN + 1] >= RUN)
            runs_of.append(_runs(block)[places])
            places_of.append(places)
            sizes.append(len(block))
    if not compared or not any(map(len, runs_of)):
        return 0.0, compared
    known = np.unique(np.concatenate(runs_of))
    found = _found_in(train, known, between)
    covered = 0
    for runs, places, size in zip(runs_of, places_of, sizes, strict=True):
        begins = places[found[np.searchsorted(known, runs)]]
        steps = np.zeros(size + RUN, dtype=np.int32)
        steps[begins] += 1
        steps[begins + RUN] -= 1
        covered += int((np.cumsum(steps) > 0).sum())
    return covered / compared, compared


def _found_in(train: _symlm.Shards, known: Hashes, between: int) -> Flags:
    """Which of the runs stand in the training text."""
    import numpy as np

    found = np.zeros(len(known), dtype=bool)
    # Most runs of the training text are passed over by a look at a bit of a table.
    table = np.zeros(1 << 24, dtype=bool)
    table[known >> np.uint64(40)] = True
    before = np.zeros(0, dtype=np.uint32)
    for block in _blocks(train):
        words = block
        if train.window is None:
            # A run may begin in one block and end in the next.
            words = np.concatenate([before, block])
            before = words[-(RUN - 1) :]
        if len(words) < RUN:
            continue
        runs = _runs(words)[_filled(words, train.window, between)[: len(words) - RUN + 1] >= RUN]
        runs = runs[table[runs >> np.uint64(40)]]
        at = np.minimum(np.searchsorted(known, runs), len(known) - 1)
        found[at[known[at] == runs]] = True
    return found
