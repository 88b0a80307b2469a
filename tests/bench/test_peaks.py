"""The peak of integer products beside that of multiply-adds: in a benchmark, and in what a training run shows."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from test_bench import SMALL, check_figures

from conftest import Cli
from symlm import _symlm
from symlm.errors import UsageError


def test_the_peak_of_integers() -> None:
    for isa in _symlm.available_isas():
        found = _symlm.integer_peak(1, 0.01, isa)
        assert (found is None) == isa.startswith("portable"), isa
        assert found is None or found > 0
    with pytest.raises(UsageError, match='"sse9"'):
        _symlm.integer_peak(1, 0.01, "sse9")


@pytest.mark.parametrize("precision", ["f32", "int16"])
def test_a_benchmark_has_the_peak_of_its_products(cli: Cli, tmp_path: Path, precision: str) -> None:
    done = cli("bench", *SMALL, "--precision", precision, "--threads", 1, "--rounds", 2, "--updates", 2, "--no-scaling",
               "--no-switches", "--quick", "--out-dir", "out")  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert record["precision"] == precision
    check_figures(record)
    integers = precision == "int16" and _symlm.integer_peak(1, 0.001) is not None
    (case,) = (case for case in record["cases"] if case["precision"] == precision)
    assert len(record["cases"]) == (2 if precision == "int16" else 1)
    for turn in case["turns"]:
        assert (turn["integer_peak_gops"] is not None) == integers
        if integers:
            assert turn["integer_peak_frac"] == pytest.approx(turn["gflops"] / turn["integer_peak_gops"])
    assert ("integer peak" in done.stdout) == integers
    assert "FMA peak" in done.stdout
    rates = [turn["tok_s"] for turn in case["turns"]]
    assert case["tok_s"]["best"] == pytest.approx(max(rates))
    assert case["tok_s"]["median"] == pytest.approx(statistics.median(rates))
    assert ("int16 by " in done.stderr) == (precision == "int16")


def test_a_run_names_the_peak_that_its_share_is_of(cli: Cli, tmp_path: Path, text: Path) -> None:
    integers = _symlm.integer_peak(1, 0.001) is not None
    for precision in ("f32", "int16"):
        words = ["--preset", "tiny", "--vocab-size", 300, "--seq-len", 32, "--batch-size", 4, "--max-steps", 2]
        words += ["--sample-every", 0, "--progress", "plain", "--out-dir", precision, "--precision", precision]
        done = cli("train", text.name, *words)
        assert done.returncode == 0, done.stderr
        (line, *_) = (line for line in done.stderr.splitlines() if " tok/s  " in line)
        records: list[dict[str, Any]] = [
            json.loads(line) for line in (tmp_path / precision / "metrics.jsonl").read_text().splitlines()
        ]
        start, train = records[0], next(record for record in records if record["event"] == "train")
        assert ("  integer peak " in line) == (integers and precision == "int16")
        assert ("integer_peak_gops" in start) == (integers and precision == "int16")
        if "integer_peak_gops" in start:
            shares = train["peak_frac"] * start["peak_gflops"], train["integer_peak_frac"] * start["integer_peak_gops"]
            assert shares[0] == pytest.approx(shares[1])
            share = f"integer peak {100 * train['integer_peak_frac']:.0f} %"
            assert share in line
