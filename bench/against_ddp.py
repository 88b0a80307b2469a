"""Two ranks of one thread on two hosts against PyTorch's DistributedDataParallel over gloo on the same hosts, in turns.

Usage: PYTHONPATH=tests .venv-mpich/bin/python bench/against_ddp.py --torch-python PYTHON [--preset 3m] [--rate 1gbit]
                                                          [--batch-size 32] [--seq-len N].
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
from ranks import WARM_UP, Runs
from symlm.bench import peers
from symlm.bench.engines import timed_config

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
            "model": self.config.model.as_dict(), "compile": False, "updates": self.updates, "warm_up": WARM_UP,
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
        seconds: list[float] = said["seconds"]
        return statistics.median(seconds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch-python", required=True)
    parser.add_argument("--preset", default="3m")
    parser.add_argument("--rate", default="1gbit")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seq-len", type=int)
    parser.add_argument("--torch-only", action="store_true")
    asked = parser.parse_args()
    config = symlm.TrainConfig(preset=asked.preset, batch_size=asked.batch_size, seq_len=asked.seq_len)
    config = timed_config(config, config.model.vocab_size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Hosts(2, folder / "hosts", rate=asked.rate) as hosts:
            sitting = Sitting(hosts, folder, asked.torch_python, config, asked.updates)
            runs = Runs(folder, config, asked.updates, Launcher.here(), hosts)
            found: dict[str, list[float]] = {}
            if not asked.torch_only:
                runs.prepare()
            for _ in range(asked.rounds):
                for ranks in (1, 2):
                    before = hosts[0].traffic()[0]
                    found.setdefault(f"torch {ranks}", []).append(sitting.torch(ranks))
                    bytes_each = (hosts[0].traffic()[0] - before) / (WARM_UP + asked.updates)
                    print(f"torch {ranks}: {found[f'torch {ranks}'][-1] * 1e3:.1f} ms, {bytes_each / 1e6:.1f} MB sent")
                    if not asked.torch_only:
                        before = hosts[0].traffic()[0]
                        found.setdefault(f"symlm {ranks}", []).append(runs.update_seconds(ranks))
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
        added = statistics.median(b - a for a, b in zip(found["symlm 1"], found["symlm 2"], strict=True))
        print(f"on two machines an update of symlm takes {added * 1e3:.1f} ms longer than on one of two threads")
        print(f"symlm is {one:.2f} x torch on one machine, {two:.2f} x on two: {two / one:.2f} of it")


if __name__ == "__main__":
    main()
