"""Shows where two runs part: first_difference.py RUN_A RUN_B.

Compares what both recorded (tokens, losses, gradient norms, hashes of weights) and the tensors of the first checkpoint
that differs. Runs that should be equal tell most with --log-interval 1 --hash-interval 1 --save-interval 1
--keep-last 1000000. Exits with 1 if anything differs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from symlm.layout import CHECKPOINTS, ENVIRONMENT, METRICS, OPTIMIZER, WEIGHTS
from symlm.model.tensors import read_header
from symlm.run.metrics import read_lines

RECORDED = {"train": ("lr", "loss", "grad_norm"), "hash": ("weights_sha256",)}
INPUTS = ("train_sha256", "tokenizer_sha256")


def recorded(run: Path, event: str) -> dict[int, dict[str, Any]]:
    """The lines of one event by step."""
    return {line["step"]: line for line in read_lines(run / METRICS) if line["event"] == event}


def compare_records(a: Path, b: Path) -> bool:
    """Print where each number differs first; whether one does."""
    found = False
    inputs = [json.loads((run / ENVIRONMENT).read_text(encoding="utf-8"))["data"] for run in (a, b)]
    for name in INPUTS:
        same = inputs[0].get(name) == inputs[1].get(name)
        print(f"{name:18}{'equal' if same else 'differs'}")
        found |= not same
    for event, names in RECORDED.items():
        left, right = recorded(a, event), recorded(b, event)
        for name in names:
            steps = [step for step in sorted(left.keys() & right.keys()) if left[step][name] != right[step][name]]
            print(f"{name:18}{f'differs from step {steps[0]:,} on' if steps else 'equal'}")
            found |= bool(steps)
    return found


def compare_tensors(a: Path, b: Path) -> bool:
    """Print the tensors that differ in the first checkpoint that does; whether there is one."""
    both = sorted({path.name for path in a.glob("step-*")} & {path.name for path in b.glob("step-*")})
    for name in both:
        different = []
        for file in (WEIGHTS, OPTIMIZER):
            left, right = read_header(a / name / file), read_header(b / name / file)
            for tensor in left:
                x, y = left[tensor].load().view(np.uint32), right[tensor].load().view(np.uint32)
                if (x != y).any():
                    different.append(f"{name}/{file}: {tensor}: {(x != y).sum():,} of {x.size:,} elements")
        if different:
            print(*different, sep="\n")
            return True
    return False


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    a, b = map(Path, sys.argv[1:])
    numbers = compare_records(a, b)
    tensors = compare_tensors(a / CHECKPOINTS, b / CHECKPOINTS)
    return int(numbers or tensors)


if __name__ == "__main__":
    sys.exit(main())
