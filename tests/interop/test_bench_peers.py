"""`symlm bench --peers torch` with PyTorch itself: both sides have their turns, and the tables say how they scatter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conftest import Cli

pytestmark = pytest.mark.interop


def test_pytorch_has_its_turns_and_only_those(cli: Cli, tmp_path: Path) -> None:
    flags = ["--peers", "torch", "--rounds", 3, "--updates", 2, "--no-scaling", "--no-switches", "--quick"]
    done = cli("bench", "--preset", "tiny", "--batch-size", 4, "--precision", "int16", *flags, "--out-dir", "out")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "bench.json").read_text())
    names = [case["name"] for case in record["cases"]]
    assert {"PyTorch eager", "PyTorch compiled"} <= set(names)
    assert all(len(case["turns"]) == 3 and case["turns"][0]["peak_gflops"] > 0 for case in record["cases"])
    for ratio in record["peers"]:
        lower, middle, upper = ratio["quartiles"]
        assert lower <= middle == ratio["factor"] <= upper
    for shown in ("Turns, tokens/s", "Speed of symlm, in multiples of", "Peers are stopped outside their turns"):
        assert shown in done.stdout
