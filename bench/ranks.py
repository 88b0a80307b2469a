"""Two ranks of one thread against one process of two threads, in turns.

Usage: PYTHONPATH=tests .venv-mpich/bin/python bench/ranks.py [--preset 3m] [--rate 1gbit] [--rounds 9] [--updates 20]
                                                           [--batch-size 32] [--seq-len N].
Without --rate both ranks are processes of this machine; with it each has a separate host, and a switch of that rate
joins them (network namespaces, `tests/mpi/hosts.py`: needs root). Each turn is a new run. The last lines say how fast
the ranks are, how much longer an update takes on them, and which part of it the digests take (from a trace).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import string
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import symlm
from mpi.hosts import Hosts
from mpi.launch import Launcher
from symlm import _symlm
from symlm.bench.engines import timed_config
from symlm.ranks.division import payload
from symlm.text.corpus import builtin_files

WARM_UP = 3
WORDS = 100_000
DIGESTS = ("digest", "check")


@dataclass
class Runs:
    """Short training runs of one configuration, by one process or by ranks."""

    folder: Path
    config: symlm.TrainConfig
    updates: int
    launcher: Launcher
    hosts: Hosts | None = None
    number: int = 0

    def prepare(self) -> None:
        """A text long enough, and its tokenizer."""
        tokens = (WARM_UP + self.updates) * self.config.batch_size * self.config.model.seq_len
        text = "\n".join(Path(path).read_text(encoding="utf-8") for path in builtin_files())
        # Enough words for the vocabulary of any preset.
        chance = random.Random(1)
        letters = string.ascii_lowercase
        text += " ".join("".join(chance.choices(letters, k=chance.randrange(3, 9))) for _ in range(WORDS))
        long = (text * (1 + 8 * tokens // len(text)))[: max(8 * tokens, len(text))]
        (self.folder / "text.txt").write_text(long, encoding="utf-8")
        corpus = _symlm.Corpus.open([str(self.folder / "text.txt")])
        vocab_size = self.config.model.vocab_size
        corpus.train_tokenizer(vocab_size, 2, None).save(str(self.folder / "tokenizer.json"))

    def update_seconds(self, ranks: int, *more: object) -> float:
        """Median seconds of an update."""
        self.number += 1
        run = self.folder / f"run-{self.number}"
        words: list[object] = [sys.executable, "-m", "symlm", "train", "text.txt", "--out-dir", run]
        words += ["--preset", self.config.preset, "--batch-size", self.config.batch_size]
        words += ["--seq-len", self.config.model.seq_len, "--tokenizer", "tokenizer.json", "--threads", 2 // ranks]
        words += ["--max-steps", WARM_UP + self.updates, "--val-split", 0, "--sample-every", 0, "--log-interval", 1]
        words += ["--progress", "off", *more]
        env = {**os.environ, "SYMLM_CACHE_DIR": str(self.folder / "cache")}
        if ranks > 1:
            words = [*self.launcher.words(ranks, words, self.hosts)]
            env |= self.launcher.environment(self.hosts)
        self._call(words, env)
        lines = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        rates: list[float] = [line["tok_s"] for line in lines if line["event"] == "train"][WARM_UP:]
        return self.config.batch_size * self.config.model.seq_len / statistics.median(rates)

    def _call(self, words: list[object], env: dict[str, str]) -> None:
        name = f"symlm-{self.number}"
        if self.hosts is None:
            done = subprocess.run([*map(str, words)], env=env, cwd=self.folder, capture_output=True, check=False)
            code, said = done.returncode, done.stderr.decode(errors="replace")
        else:
            code = self.hosts[0].start(words, env, self.folder, name).handle.wait()
            said = (self.folder / f"{name}.err").read_text(encoding="utf-8")
        if code != 0:
            sys.exit(said)


def share_of(names: tuple[str, ...], trace: Path) -> float:
    """The part of the time inside tasks of the first rank that tasks with these names take."""
    events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    spans = [event for event in events if event["ph"] == "X" and event["pid"] == 1]
    part: float = sum(span["dur"] for span in spans if span["name"].split()[0] in names)
    whole: float = sum(span["dur"] for span in spans)
    return part / whole


@contextlib.contextmanager
def cables(rate: str | None, folder: Path) -> Iterator[Hosts | None]:
    """Two hosts at this rate; None without one."""
    if rate is None:
        yield None
        return
    with Hosts(2, folder, rate=rate) as hosts:
        yield hosts


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="3m")
    parser.add_argument("--rate")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seq-len", type=int)
    asked = parser.parse_args()
    config = symlm.TrainConfig(preset=asked.preset, batch_size=asked.batch_size, seq_len=asked.seq_len)
    config = timed_config(config, config.model.vocab_size)
    with tempfile.TemporaryDirectory() as name, cables(asked.rate, Path(name) / "hosts") as hosts:
        runs = Runs(Path(name), config, asked.updates, Launcher.here(), hosts)
        runs.prepare()
        rows = []
        for number in range(asked.rounds):
            order = (1, 2) if number % 2 == 0 else (2, 1)
            seconds = {ranks: runs.update_seconds(ranks) for ranks in order}
            rows.append((seconds[1], seconds[2]))
            print(f"one process {seconds[1] * 1e3:.1f} ms, two ranks {seconds[2] * 1e3:.1f} ms an update", flush=True)
        trace = Path(name) / "trace.json"
        runs.update_seconds(2, "--trace", trace)
        digests = share_of(DIGESTS, trace)
    ratios = sorted(one / two for one, two in rows)
    added = statistics.median(two - one for one, two in rows)
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    sent = max(payload(config.model, config.batch_size, 2, rank).total for rank in range(2))
    print(f"ranks are {quartiles[1]:.3f} x one process (quartiles {quartiles[0]:.3f} to {quartiles[2]:.3f})")
    print(f"an update takes {added * 1e3:.1f} ms longer; each rank sends {sent / 1e6:.1f} MB of payload in it")
    print(f"digests take {100 * digests:.2f} % of the time inside tasks")


if __name__ == "__main__":
    main()
