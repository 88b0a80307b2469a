"""Encoding of a text by symlm against the `tokenizers` library, in turns, with the ids of both compared.

Usage: encode.py TEXT [--vocab-size 1024] [--tokenizer FILE] [--threads 2] [--bytes N] [--fast].

The text goes through both in slices of some 8 MB, one after the other, so that a change of the machine's speed meets
both. symlm does the same as training: it reads and hashes the file, encodes it and writes the ids to the disk. Of the
library only `encode_batch` of pieces of 100 kB is timed (with --fast `encode_batch_fast`, which leaves out offsets),
not the reading of its answers.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SLICE_BYTES = 8_000_000
PIECE_BYTES = 100_000
PIECES_AT_ONCE = 20
"""The library keeps some hundred bytes for each token of its answers."""


def slices(text: str, size: int) -> Iterator[str]:
    """Parts of about `size` characters that have the same ids apart as together: cut where a blank follows a word."""
    start = 0
    while start < len(text):
        end = min(start + size, len(text))
        while end < len(text) and not (text[end] == " " and not text[end - 1].isspace()):
            end += 1
        yield text[start:end]
        start = end


def library_ids(encode: Callable[[list[str]], list[Any]], text: str) -> tuple[list[int], float]:
    """Ids of a text by the library, and the seconds that it took."""
    pieces, ids, seconds = list(slices(text, PIECE_BYTES)), [], 0.0
    for start in range(0, len(pieces), PIECES_AT_ONCE):
        began = time.perf_counter()
        encodings = encode(pieces[start : start + PIECES_AT_ONCE])
        seconds += time.perf_counter() - began
        for encoding in encodings:
            ids += encoding.ids
    return ids, seconds


def main() -> None:
    """Encode, compare, print the speeds and the ratio of their medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("text", type=Path)
    parser.add_argument("--vocab-size", type=int, default=1024)
    parser.add_argument("--tokenizer")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bytes", type=int)
    parser.add_argument("--fast", action="store_true")
    options = parser.parse_args()
    # Read by the library when it starts its threads.
    os.environ.update(RAYON_NUM_THREADS=str(options.threads), TOKENIZERS_PARALLELISM="true")
    import tokenizers

    from symlm import _symlm

    text = options.text.read_bytes()[: options.bytes].decode(errors="ignore")
    speeds: list[tuple[float, float]] = []
    same, count = True, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.tokenizer:
            tokenizer = _symlm.Tokenizer.from_file(options.tokenizer)
        else:
            corpus = _symlm.Corpus.open([str(options.text)])
            tokenizer = corpus.train_tokenizer(options.vocab_size, options.threads, None)
        tokenizer.save(str(folder / "tokenizer.json"))
        library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        library.encode_special_tokens = True
        encode = library.encode_batch_fast if options.fast else library.encode_batch
        for number, part in enumerate(slices(text, SLICE_BYTES)):
            path = folder / f"{number}.txt"
            path.write_text(part, encoding="utf-8", newline="")
            megabytes = path.stat().st_size / 1e6
            began = time.perf_counter()
            corpus = _symlm.Corpus.open([str(path)])
            shards, _ = corpus.prepare(tokenizer, str(folder / "cache"), 0.0, 1, options.threads, None)
            own = time.perf_counter() - began
            expected, other = library_ids(encode, part)
            same &= shards.ids(0, shards.tokens) == expected
            count += len(expected)
            speeds.append((megabytes / own, megabytes / other))
            print(
                f"{megabytes:5.1f} MB: symlm {speeds[-1][0]:6.1f} MB/s, {encode.__name__} {speeds[-1][1]:6.2f} MB/s",
                flush=True,
            )
    own, other = (statistics.median(column) for column in zip(*speeds, strict=True))
    print(f"tokenizers {tokenizers.__version__}, {options.threads} threads, vocabulary {tokenizer.vocab_size:,}")
    print(f"medians: symlm {own:.1f} MB/s, the library {other:.2f} MB/s: {own / other:.1f} x as fast")
    print(f"{count:,} ids: {'identical' if same else 'DIFFERENT'}")
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
