"""How fast texts are read and encoded from each format, and the memory that takes, beside plain text.

Usage: formats.py TEXT.jsonl [ROUNDS [FORMAT..]], objects with the field `text`. Writes the same documents in other
formats beside it (needs pyarrow, and zstd on the path), all of them or those named beside plain text, unless they are
there; then reads and encodes each in turns: best of the rounds; no rounds only write. Seconds are of the clock and of
processors, the process that reads tables included; memory is the peak of both processes together, less what the
parent held before.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from symlm.text.opening import open_corpus

VOCABULARY = 1024
ROW_GROUP = 1 << 20
"""Rows of a group in Parquet, as pyarrow writes them by itself."""


NAMES = {"plain": "txt", "csv": "csv", "parquet": "parquet", "zst": "jsonl.zst", "txt.zst": "txt.zst"}


def texts_of(source: Path) -> Iterator[str]:
    """The documents, one by one."""
    with source.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            yield json.loads(line)["text"]


def write_form(source: Path, name: str, path: Path, plain: Path) -> None:
    """The same documents in one format."""
    if name == "plain":
        with path.open("w", encoding="utf-8", newline="") as file:
            file.writelines(texts_of(source))
    elif name == "csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["id", "text"])
            writer.writerows(enumerate(texts_of(source)))
    elif name == "parquet":
        schema, texts, done = pa.schema({"id": pa.int64(), "text": pa.string()}), texts_of(source), 0
        with pq.ParquetWriter(path, schema, compression="zstd") as file:
            while some := list(itertools.islice(texts, ROW_GROUP)):
                file.write_table(pa.table([range(done, done + len(some)), some], schema=schema))
                done += len(some)
    else:
        packed = source if name == "zst" else plain
        subprocess.run(["zstd", "-q", "-f", str(packed), "-o", str(path)], check=True)


def write_forms(source: Path, wanted: list[str]) -> dict[str, Path]:
    """The same documents as one text for each format."""
    paths = {name: source.with_name(f"{source.stem}-form.{extension}") for name, extension in NAMES.items()}
    chosen = ["plain", *(name for name in wanted or ["jsonl", *NAMES] if name != "plain")]
    for name in chosen:
        if name != "jsonl" and not paths[name].exists():
            write_form(source, name, paths[name], paths["plain"])
    return {name: source if name == "jsonl" else paths[name] for name in chosen}


def resident(pid: int | str) -> int:
    """Bytes that a process and those below it hold, shared pages of libraries counted for each."""
    try:
        own = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, IndexError):
        return 0
    return own + sum(resident(child) for child in children)


def measured(work: object) -> tuple[float, float, int]:
    """Seconds of the clock and of processors that a call takes, and the peak of memory above that before it."""
    before, peak, running = resident(os.getpid()), 0, True

    def watch() -> None:
        nonlocal peak
        while running:
            peak = max(peak, resident(os.getpid()))
            time.sleep(0.01)

    thread = threading.Thread(target=watch)
    thread.start()
    cpu, began = sum(os.times()[:4]), time.monotonic()
    try:
        assert callable(work)
        work()
    finally:
        running = False
    took = time.monotonic() - began
    thread.join()
    return took, sum(os.times()[:4]) - cpu, peak - before


def main() -> None:
    """Measure and print."""
    source, rounds = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3
    forms = write_forms(source, sys.argv[3:])
    if rounds == 0:
        return
    size = forms["plain"].stat().st_size
    tokenizer = open_corpus([forms["plain"]]).train_tokenizer(VOCABULARY, 2, None)
    best: dict[tuple[str, str], tuple[float, float, int]] = {}
    for _ in range(rounds):
        for name, path in forms.items():
            corpus = open_corpus([path])
            with tempfile.TemporaryDirectory(dir=source.parent) as cache:
                works = {
                    "read": lambda corpus=corpus: corpus.read_through(None),
                    "encode": lambda corpus=corpus, cache=cache: corpus.prepare(tokenizer, cache, 0.05, 128, 2, None),
                }
                for kind, work in works.items():
                    found = measured(work)
                    known = best.get((name, kind), found)
                    best[name, kind] = (min(known[0], found[0]), min(known[1], found[1]), max(known[2], found[2]))
    print(f"{size / 1e6:.0f} MB of text")
    for (name, kind), (took, cpu, memory) in best.items():
        plain = best["plain", kind]
        print(
            f"{name:8} {kind:7} {size / took / 1e6:7.0f} MB/s  {plain[0] / took:5.2f} of plain  cpu {cpu:6.2f} s, "
            f"{plain[1] / cpu:5.2f} of plain  +{memory / 1e6:.0f} MB"
        )


if __name__ == "__main__":
    main()
