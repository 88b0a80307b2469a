"""Measures what the contract costs: the same updates by a build that sums in any order, in turns with the true one.

Usage: contract_price.py [--preset 3m] [--batch-size 32] [--threads 2] [--turns 15]. Builds both with cargo (the feature
`any-order` of rust/kernels says what the second one is free to do), gives both the same model and random tokens, lets
each train while the other waits, and prints the time of an update by either and the median over the turns of their
quotient: 1.03 means that the contract costs 3 %.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from symlm.bench.engines import HORIZON, timed_config
from symlm.config.engine import engine_settings, recorded
from symlm.config.presets import PRESETS
from symlm.config.train_config import TrainConfig

ROOT = Path(__file__).resolve().parent.parent
# Time for a turn of one build: long against a switch, short against the machine's changes of speed.
TURN_SECONDS = 0.5


def build(folder: Path, *features: str) -> Path:
    """Compiles the example that trains on demand and copies it, since the next features take its place."""
    command = ["cargo", "build", "--release", "--locked", "--package", "symlm-core", "--example", "step_times"]
    command += ["--features", ",".join(features), "--message-format", "json-render-diagnostics"]
    built = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    messages = [json.loads(line) for line in built.stdout.splitlines()]
    executables = [message["executable"] for message in messages if message.get("executable")]
    return Path(shutil.copy(executables[-1], folder / "-".join(["step_times", *features])))


class Trainer:
    """A build that trains on demand."""

    def __init__(self, program: Path, config: Path) -> None:
        self.process = subprocess.Popen(
            [program, config], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def train(self, updates: int) -> tuple[float, float]:
        """Seconds of an update, and the loss of the last one."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{updates}\n")
        answer = self.process.stdout.readline().split()
        if not answer:
            sys.exit(f"error: the trainer ended with code {self.process.wait()}")
        return float(answer[0]) / updates, float(answer[1])


def main() -> None:
    """Build, train in turns, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--preset", choices=PRESETS, default="3m")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        programs = {"contract": build(folder), "any order": build(folder, "any-order")}
        config = folder / "config.json"
        train = TrainConfig(preset=options.preset, batch_size=options.batch_size)
        train = timed_config(train, train.model.vocab_size)
        config.write_text(json.dumps(recorded(engine_settings(train, options.threads, max_steps=HORIZON))))
        trainers = {of: Trainer(program, config) for of, program in programs.items()}
        updates = max(1, round(TURN_SECONDS / max(trainer.train(2)[0] for trainer in trainers.values())))
        seconds: dict[str, list[float]] = {name: [] for name in trainers}
        for turn in range(options.turns):
            # Whoever comes second finds warmer caches and clocks: they take that place in turns, too.
            order = list(trainers.items())[:: 1 if turn % 2 else -1]
            for name, trainer in order:
                time, loss = trainer.train(updates)
                seconds[name].append(time)
                print(f"\rturn {turn + 1}: {name:<9} {1e3 * time:8.2f} ms, loss {loss:.4f}", end="", flush=True)
        print()
    for name, times in seconds.items():
        print(f"{name:<9} {1e3 * statistics.median(times):8.2f} ms an update (median of {options.turns} turns)")
    quotients = [a / b for a, b in zip(seconds["contract"], seconds["any order"], strict=True)]
    low, middle, high = statistics.quantiles(quotients, n=4) if len(quotients) > 1 else quotients * 3
    print(f"price of the contract: {middle:.3f} (quartiles {low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
