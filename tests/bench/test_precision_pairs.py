"""bench/precision.py: the table of docs/precision.md from lines of runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "bench" / "precision.py"
F32 = {1: 2.0, 2: 2.2, 3: 1.8, 4: 2.0}
INT16 = {1: 2.01, 2: 2.19, 3: 1.83, 4: 2.01, 5: 1.0}
"""The last one has no pair."""


def report(runs: Path, lines: list[dict[str, object]]) -> str:
    """The page that the script prints of these lines."""
    (runs / "precision.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    command = [sys.executable, str(SCRIPT), "--runs", str(runs), "--report"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_paired_differences_and_their_bound(tmp_path: Path) -> None:
    lines: list[dict[str, object]] = [
        {"kind": "preset tiny", "seed": seed, "precision": name, "tokens": 1000, "updates": 1, "bits_per_byte": value,
         "bits_per_byte_in_precision": value + 0.001}
        for name, of in (("f32", F32), ("int16", INT16)) for seed, value in of.items()
    ]  # fmt: skip
    page = report(tmp_path, lines)
    assert "| 2 | 2.2000 | 2.1900 | -0.0100 | 2.1910 |" in page
    assert "| 5 |" not in page
    assert "| mean | 2.0000 | 2.0100 | +0.0100 | |" in page
    # Differences of 0.01, -0.01, 0.03, 0.01: a standard deviation of 0.01633; t of three degrees of freedom is 2.353.
    assert "mean +0.0100, standard error 0.0082, upper bound of 95 % +0.0292" in page
    assert "Spread of f32 over seeds (standard deviation): 0.1633." in page


def test_a_run_that_diverged_has_no_figure(tmp_path: Path) -> None:
    lines: list[dict[str, object]] = [
        {"kind": "fine-tune of m", "seed": seed, "precision": name, "tokens": 1000, "updates": 1,
         "bits_per_byte": value, "bits_per_byte_in_precision": value}
        for name in ("f32", "int16") for seed, value in ((1, 2.0), (2, None))
    ]  # fmt: skip
    page = report(tmp_path, lines)
    assert "fine-tune of m, 1,000 tokens" in page
    assert "| 1 | 2.0000 | 2.0000 | +0.0000 | 2.0000 |" in page
    assert "| 2 | not finite | not finite | | not finite |" in page
    assert "mean" not in page


@pytest.mark.parametrize("words", [["--runs", "x"], ["text.txt"]])
def test_what_is_missing_is_said(tmp_path: Path, words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert not (tmp_path / "x").exists()
