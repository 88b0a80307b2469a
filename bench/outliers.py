"""Plants outliers into a model: a few rows of each up projection grow by a factor, and the columns of the down
projection that read them shrink by it, so that the model computes what it did, with activations that stand out.

Usage: outliers.py MODEL OUT [--factor 1000] [--rows 2]. MODEL is a folder of transformers (as `symlm export --to hf`
writes it); OUT becomes a copy of it in f32. Groups of 16-bit integers share a scale, so one large member costs the
others bits: `bench/precision.py TEXT --init-from OUT` shows what that does to training.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from symlm.model.tensors import Outgoing, Tensor, from_floats, read_tensors, write_tensors

WEIGHTS = "model.safetensors"
GROWS, SHRINKS = ".up_proj.weight", ".down_proj.weight"


def planted(tensor: Tensor, factor: float, rows: int) -> Outgoing:
    """The tensor as it goes into the new file."""
    values = tensor.floats().copy()
    if tensor.name.endswith(GROWS):
        values[:rows] *= factor
    elif tensor.name.endswith(SHRINKS):
        values[:, :rows] /= factor
    return Outgoing(tensor.name, "F32", tensor.shape, lambda: from_floats(values, "F32", tensor.name))


def main() -> None:
    """Copy with the change, and say how many rows grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--factor", type=float, default=1000.0)
    parser.add_argument("--rows", type=int, default=2)
    asked = parser.parse_args()
    tensors = read_tensors(asked.model)
    shutil.copytree(asked.model, asked.out, ignore=shutil.ignore_patterns(WEIGHTS))
    with (asked.out / WEIGHTS).open("wb") as file:
        write_tensors(file, [planted(tensor, asked.factor, asked.rows) for tensor in tensors.values()])
    count = asked.rows * sum(name.endswith(GROWS) for name in tensors)
    print(f"{count} rows times {asked.factor:g} in {asked.out}")


if __name__ == "__main__":
    main()
