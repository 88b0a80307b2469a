"""What `--attend document` costs: processor time of updates with it over those without, in turns.

Usage: attend.py [TURNS [UPDATES [PRESET]]]. Documents of about 40 and of about 1,000 tokens, one thread; a turn is some
updates of each of the two engines, which take turns at going first.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import symlm
from symlm import _symlm
from symlm.config.engine import engine_settings

LENGTHS = (40, 1000)
"""Tokens of a document, about."""
WORDS = 3000
TOKENS = 400_000


def write(path: Path, length: int) -> Path:
    """Documents of random words, each of which is a token or two."""
    draw = random.Random(length)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(draw.choices(letters, k=draw.randint(2, 5))) for _ in range(WORDS)]
    # A preference for the first words, so that they become tokens.
    text = [
        " ".join(words[int(WORDS * draw.random() ** 4)] for _ in range(length * 2 // 3))
        for _ in range(TOKENS // length)
    ]
    path.write_text("".join(json.dumps({"text": each}) + "\n" for each in text), encoding="utf-8")
    return path


def updates(engine: _symlm.Engine, count: int) -> float:
    """Seconds of processor time that an update takes."""
    until, began = engine.step + count, time.process_time()
    engine.run_until(until)
    while (report := engine.poll(60.0)) is None or report.step < until:
        pass
    return (time.process_time() - began) / count


def measure(length: int, turns: int, count: int, preset: str) -> None:
    """Print the ratio for documents of one length."""
    with tempfile.TemporaryDirectory() as folder:
        config = symlm.TrainConfig(preset=preset, attend="document", learning_rate=1e-3).with_model()
        corpus = _symlm.Corpus.open([write(Path(folder, "text.jsonl"), length)])
        tokenizer = corpus.train_tokenizer(config.model.vocab_size, 1, None)
        shards = corpus.prepare(tokenizer, folder, 0.0, config.model.seq_len, 1, None).train
        engines = {}
        for attend in ("window", "document"):
            settings = engine_settings(symlm.TrainConfig(**{**config.values(), "attend": attend}), 1, max_steps=10**6)
            engines[attend] = _symlm.Engine(settings, shards)
            updates(engines[attend], 1)
        ratios, seconds = [], {name: [] for name in engines}
        for turn in range(turns):
            order = list(engines) if turn % 2 else list(reversed(engines))
            found = {name: updates(engines[name], count) for name in order}
            ratios.append(found["document"] / found["window"])
            for name, each in found.items():
                seconds[name].append(each)
        for engine in engines.values():
            engine.close()
    of = ", ".join(f"{name} {1e3 * statistics.median(each):.1f} ms" for name, each in seconds.items())
    print(
        f"{preset}, {shards.tokens / shards.documents:.0f} tokens a document, windows of {config.model.seq_len}: {of}; "
        f"ratio {statistics.median(ratios):.4f} ({min(ratios):.4f} to {max(ratios):.4f}), {turns} turns of {count}"
    )


def main() -> None:
    """Measure both lengths."""
    numbers = [int(word) for word in sys.argv[1:3]]
    turns, count = [*numbers, *(20, 3)[len(numbers) :]]
    for length in LENGTHS:
        measure(length, turns, count, sys.argv[3] if len(sys.argv) > 3 else "3m")


if __name__ == "__main__":
    main()
