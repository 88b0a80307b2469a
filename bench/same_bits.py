"""Shows on a text of yours that threads, instruction set, sectors in flight and a stop do not change the model.

Usage: same_bits.py TEXT [--steps 20]. Trains the reference model (and, on every instruction set, a small one of awkward
shapes) again and again and prints the SHA-256 of model.safetensors of each; exits with 1 if they differ.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from symlm import _symlm

AWKWARD = [
    *(
        "--preset",
        "tiny",
        "--hidden-size",
        "72",
        "--num-heads",
        "6",
        "--num-kv-heads",
        "2",
        "--intermediate-size",
        "100",
    ),
    *("--num-layers", "2", "--vocab-size", "301", "--seq-len", "37", "--batch-size", "7"),
]
REFERENCE = ["--preset", "3m", "--batch-size", "32"]


class Runs:
    """Runs on one text into a temporary folder."""

    def __init__(self, text: str, folder: Path) -> None:
        self.text, self.folder, self.count = text, folder, 0

    def train(self, flags: list[str], steps: int, isa: str, out: Path | None = None) -> Path:
        """One run; returns its folder."""
        if out is None:
            self.count += 1
            out = self.folder / str(self.count)
        command = [sys.executable, "-m", "symlm", "train", self.text, "--max-steps", str(steps), "--val-split", "0"]
        command += ["--progress", "off", "--sample-every", "0", "--out-dir", str(out), *flags]
        subprocess.run(command, check=True, env={**os.environ, "SYMLM_ISA": isa})
        return out

    @staticmethod
    def digest(run: Path, step: int) -> str:
        """SHA-256 of the weights of a step."""
        return hashlib.sha256((run / f"checkpoints/step-{step:08}/model.safetensors").read_bytes()).hexdigest()


def main() -> None:
    """Train, print, compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("text")
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    fast = [isa for isa in _symlm.available_isas() if not isa.startswith("portable")]
    steps, failed = options.steps, False
    with tempfile.TemporaryDirectory() as temporary:
        runs = Runs(options.text, Path(temporary))
        for name, flags, isas in (("reference", REFERENCE, fast), ("awkward", AWKWARD, [*fast, "portable"])):
            digests = set()
            for isa in isas:
                for threads in (1, 2, 3, 5, 12, 63):
                    run = runs.train([*flags, "--threads", str(threads)], steps, isa)
                    digests.add(digest := runs.digest(run, steps))
                    print(f"{digest}  {name}, {isa}, {threads} threads", flush=True)
            for sectors in (1, 4, 12):
                run = runs.train([*flags, "--sectors-in-flight", str(sectors)], steps, isas[0])
                digests.add(digest := runs.digest(run, steps))
                print(f"{digest}  {name}, {isas[0]}, {sectors} sectors in flight", flush=True)
            run = runs.train([*flags, "--stop-at-step", str(steps // 2)], steps, isas[0])
            run = runs.train([*flags, "--resume", "auto"], steps, isas[0], run)
            digests.add(digest := runs.digest(run, steps))
            print(f"{digest}  {name}, {isas[0]}, stopped at step {steps // 2} and resumed", flush=True)
            print(f"{name}: {len(digests)} hash{'es' * (len(digests) > 1)}", flush=True)
            failed |= len(digests) > 1
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
