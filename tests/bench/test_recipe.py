"""bench/recipe.py: the page from lines of runs, and which candidates get more seeds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from console import ROOT

SCRIPT = ROOT / "bench" / "recipe.py"
FOUND = {
    "defaults": {1: 2.00, 2: 2.02, 3: 2.01},
    "linear to 0": {1: 1.95, 2: 1.98, 3: 1.96},
    "beta2 0.98": {1: 1.99},
}


def line(candidate: str, seed: int, value: float) -> str:
    return json.dumps({
        "candidate": candidate, "preset": "3m", "seed": seed, "updates": 600, "tokens": 1, "base_updates": 600,
        "bits_per_byte": value, "setup": "x, equal tokens", "version": "0",
    })  # fmt: skip


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--runs", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_gains_count_beside_the_spread_of_the_baseline(tmp_path: Path) -> None:
    lines = [line(name, seed, value) for name, values in FOUND.items() for seed, value in values.items()]
    (tmp_path / "recipe.jsonl").write_text("\n".join(lines), encoding="utf-8")
    done = run(tmp_path, "--report")
    assert done.returncode == 0, done.stderr
    rows = {
        row.split(" | ")[0].strip("| "): row.split(" | ")[2:] for row in done.stdout.splitlines() if row[:2] == "| "
    }
    assert "(standard deviation): 0.0100." in done.stdout
    # Means over the seeds that both have; twice the spread is 0.02.
    assert rows["linear to 0"] == ["1.9633", "3", "+2.32 %", "yes |"]
    assert rows["beta2 0.98"] == ["1.9900", "1", "+0.50 %", "no |"]


@pytest.mark.parametrize(("words", "what"), [([], "TEXT is missing"), (["x", "--only", "magic"], "called magic")])
def test_what_is_wrong_is_said_before_a_run(tmp_path: Path, words: list[str], what: str) -> None:
    done = run(tmp_path / "new", *words)
    assert (done.returncode, what in done.stderr) == (2, True)
    assert not (tmp_path / "new").exists()
