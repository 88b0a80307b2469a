"""`bench/outliers.py`: rows grow, and the model computes what it did."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

import symlm
from console import ROOT
from exporting import train_apart
from symlm.export.write import export
from symlm.model.tensors import read_tensors

SCRIPT = ROOT / "bench" / "outliers.py"
UP, DOWN = "model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight"


def test_planted_rows_change_no_bit_of_the_loss(tmp_path: Path) -> None:
    export(train_apart(tmp_path), "hf", tmp_path / "model")
    # A power of two scales without rounding, forth and back.
    command = [
        sys.executable,
        str(SCRIPT),
        *map(str, (tmp_path / "model", tmp_path / "planted")),
        "--factor",
        "1024",
        "--rows=3",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("6 rows times 1024 in ")
    before, after = (read_tensors(tmp_path / name) for name in ("model", "planted"))
    np.testing.assert_array_equal(after[UP].floats()[:3], before[UP].floats()[:3] * 1024)
    np.testing.assert_array_equal(after[UP].floats()[3:], before[UP].floats()[3:])
    np.testing.assert_array_equal(after[DOWN].floats()[:, :3] * 1024, before[DOWN].floats()[:, :3])
    losses = [symlm.evaluate(tmp_path / name, tmp_path / "words.txt").loss for name in ("model", "planted")]
    assert losses[0] == losses[1]
