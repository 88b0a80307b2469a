"""What a checkpoint costs training: the updates wait while a copy is taken, then continue beside the writing.

Usage: save_stall.py [--steps 13] [--every 4] [--out-dir FOLDER]. Trains a model of 29.5M parameters (8 layers, 8 heads,
hidden 512, intermediate 1376, vocabulary 8192, 16 windows of 256 tokens) on the standard library's sources. The stall
is the time from the end of an update to the start of the next, where a save lies between them, against one without.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import symlm
from symlm.layout import METRICS
from symlm.run.metrics import read_lines

WARM = 2
"""Updates at the start that are left out: fresh memory, cold caches."""


class Watch(symlm.Callback):
    """Notes when each update ended and how long it took."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.seconds: list[float] = []

    def on_step(self, metrics: Mapping[str, Any]) -> None:
        self.ends.append(time.monotonic())
        self.seconds.append(metrics["seconds"])


def train(folder: str, steps: int, every: int) -> tuple[Watch, list[dict[str, Any]], int]:
    """Train; gives the times, the save events in the middle of the run, and the number of parameters."""
    watch = Watch()
    config = symlm.TrainConfig(
        num_layers=8, num_heads=8, num_kv_heads=8, hidden_size=512, intermediate_size=1376, vocab_size=8192,
        seq_len=256, batch_size=16, max_steps=steps, decay_frac=0.0, save_interval=every, eval_interval=0,
        sample_every=0, val_split=0.0, keep_last=1, out_dir=folder,
    )  # fmt: skip
    run = symlm.Trainer(config, callbacks=[watch]).fit()
    records = list(read_lines(run.path / METRICS))
    saves = [record for record in records if record["event"] == "save" and record["step"] < steps]
    return watch, saves, int(records[0]["parameters"])


def main() -> None:
    """Train and print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=13)
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("--out-dir")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.out_dir or str(Path(scratch) / "run")
        watch, saves, parameters = train(folder, options.steps, options.every)
    saved = {int(record["step"]) for record in saves}
    # Entry i of the lists is update i + 1; the gap before it is what its report does not count.
    updates = range(max(WARM, 1), len(watch.ends))
    gaps = {i: watch.ends[i] - watch.ends[i - 1] - watch.seconds[i] for i in updates}
    plain = [i for i in updates if i not in saved]
    update = statistics.median(watch.seconds[i] for i in plain)
    usual = statistics.median(gaps[i] for i in plain)
    stalls = [gaps[i] - usual for i in sorted(saved) if i in gaps]
    beside = [watch.seconds[i] for i in sorted(saved) if i in gaps]
    print(f"{parameters / 1e6:.1f}M parameters, {len(plain)} updates without a save: median {update:.3f} s")
    print(f"gap between two updates: {1e3 * usual:.1f} ms without a save")
    print("stall by a save: " + ", ".join(f"{1e3 * stall:.0f} ms" for stall in stalls))
    print(f"worst stall: {max(stalls) / update:.3f} update times")
    print("update beside the writing: " + ", ".join(f"{seconds:.3f} s" for seconds in beside))
    print("from its begin to a complete checkpoint: " + ", ".join(f"{record['seconds']:.2f} s" for record in saves))


if __name__ == "__main__":
    main()
