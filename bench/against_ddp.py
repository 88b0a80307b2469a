"""Two ranks of one thread on two hosts against PyTorch's DistributedDataParallel over gloo on the same hosts, in turns.

Usage: PYTHONPATH=tests .venv-mpich/bin/python bench/against_ddp.py --torch-python PYTHON [--preset 3m] [--rate 1gbit].
Hosts are network namespaces (`tests/mpi/hosts.py`): needs root. Each turn starts new processes: one process of two
threads on one host, then two ranks of one thread, for symlm and for PyTorch. The last lines compare: how many times as
fast symlm is on one machine, and on two.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import symlm
from mpi.hosts import Hosts
from mpi.launch import Launcher
from symlm import _symlm
from symlm.bench import peers
from symlm.bench.engines import timed_config

WARM_UP = 3
BATCHES = 40
OPTIMIZER = ("batch_size", "learning_rate", "beta1", "beta2", "eps", "weight_decay", "grad_clip")


@dataclass
class Sitting:
    """What all turns share."""

    hosts: Hosts
    folder: Path
    torch_python: str
    config: symlm.TrainConfig
    updates: int
    number: int = 0

    def torch(self, ranks: int) -> float:
        """Median seconds of an update in PyTorch."""
        self.number += 1
        peer = Path(peers.__file__).with_name("torch_peer.py")
        spec: dict[str, Any] = {
            "model": self.config.model().as_dict(), "compile": False, "updates": self.updates, "warm_up": WARM_UP,
            "world": ranks, "threads": 2 // ranks, "address": self.hosts[0].address, "peer": str(peer),
            **{name: getattr(self.config, name) for name in OPTIMIZER},
        }  # fmt: skip
        threads = str(2 // ranks)
        env = {**os.environ, "GLOO_SOCKET_IFNAME": "eth0", "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        env["PYTHONSAFEPATH"] = "1"
        script = Path(__file__).with_name("ddp_rank.py")
        started = []
        for rank in range(ranks):
            words = [self.torch_python, script, json.dumps({**spec, "rank": rank})]
            started.append(self.hosts[rank].start(words, env, self.folder, f"torch-{self.number}-{rank}"))
        for rank, process in enumerate(started):
            if process.handle.wait() != 0:
                sys.exit((self.folder / f"torch-{self.number}-{rank}.err").read_text())
        said = json.loads((self.folder / f"torch-{self.number}-0.out").read_text().splitlines()[-1])
        return statistics.median(said["seconds"])

    def symlm(self, ranks: int, launcher: Launcher) -> float:
        """Median seconds of an update of symlm."""
        self.number += 1
        run = self.folder / f"run-{self.number}"
        words: list[object] = [sys.executable, "-m", "symlm", "train", self.folder / "text.txt", "--out-dir", run]
        words += [
            "--preset",
            self.config.preset,
            "--tokenizer",
            self.folder / "tokenizer.json",
            "--threads",
            2 // ranks,
        ]
        words += ["--max-steps", WARM_UP + self.updates, "--val-split", 0, "--sample-every", 0, "--log-interval", 1]
        words += ["--progress", "off"]
        env = {**os.environ, "SYMLM_CACHE_DIR": str(self.folder / "cache")}
        if ranks > 1:
            words, env = [*launcher.words(ranks, words, self.hosts)], {**env, **launcher.environment(self.hosts)}
        process = self.hosts[0].start(words, env, self.folder, f"symlm-{self.number}")
        if process.handle.wait() != 0:
            sys.exit((self.folder / f"symlm-{self.number}.err").read_text())
        lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        rates = [line["tok_s"] for line in lines if line["event"] == "train"][WARM_UP:]
        return self.config.batch_size * self.config.model().seq_len / statistics.median(rates)


def prepare(folder: Path, config: symlm.TrainConfig, tokens: int) -> None:
    """A text long enough, and its tokenizer."""
    from symlm.text.corpus import builtin_files

    text = "\n".join(Path(path).read_text(encoding="utf-8") for path in builtin_files())
    (folder / "text.txt").write_text((text * (1 + 8 * tokens // len(text)))[: 8 * tokens], encoding="utf-8")
    corpus = _symlm.Corpus.open([str(folder / "text.txt")])
    corpus.train_tokenizer(config.model().vocab_size, 2, None).save(str(folder / "tokenizer.json"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch-python", required=True)
    parser.add_argument("--preset", default="3m")
    parser.add_argument("--rate", default="1gbit")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--torch-only", action="store_true")
    asked = parser.parse_args()
    config = symlm.TrainConfig(preset=asked.preset)
    config = timed_config(config, config.model().vocab_size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Hosts(2, folder / "hosts", rate=asked.rate) as hosts:
            sitting = Sitting(hosts, folder, asked.torch_python, config, asked.updates)
            found: dict[str, list[float]] = {}
            if not asked.torch_only:
                prepare(folder, config, (WARM_UP + asked.updates) * config.batch_size * config.model().seq_len)
            for _ in range(asked.rounds):
                for ranks in (1, 2):
                    before = hosts[0].traffic()[0]
                    found.setdefault(f"torch {ranks}", []).append(sitting.torch(ranks))
                    bytes_each = (hosts[0].traffic()[0] - before) / (WARM_UP + asked.updates)
                    print(f"torch {ranks}: {found[f'torch {ranks}'][-1] * 1e3:.1f} ms, {bytes_each / 1e6:.1f} MB sent")
                    if not asked.torch_only:
                        before = hosts[0].traffic()[0]
                        found.setdefault(f"symlm {ranks}", []).append(sitting.symlm(ranks, Launcher.here()))
                        bytes_each = (hosts[0].traffic()[0] - before) / (WARM_UP + asked.updates)
                        last = found[f"symlm {ranks}"][-1]
                        print(f"symlm {ranks}: {last * 1e3:.1f} ms, {bytes_each / 1e6:.1f} MB sent", flush=True)
    for name, seconds in found.items():
        print(f"{name} ranks: {statistics.median(seconds) * 1e3:.1f} ms an update")
    if not asked.torch_only:
        one, two = (
            statistics.median(t / s for t, s in zip(found[f"torch {n}"], found[f"symlm {n}"], strict=True))
            for n in (1, 2)
        )
        print(f"symlm is {one:.2f} x torch on one machine, {two:.2f} x on two: {two / one:.2f} of it")


if __name__ == "__main__":
    main()
