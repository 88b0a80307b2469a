"""`SYMLM_INT16`: instructions of another instruction set than the one in use are refused, the right one is named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from conftest import Cli
from symlm import _symlm

ASK = "from symlm import _symlm; print(_symlm.integer_instructions())"


def chosen(isa: str, instructions: str, code: str = ASK) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "SYMLM_ISA": isa, "SYMLM_INT16": instructions}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)


def test_instructions_of_another_set_are_refused(cli: Cli, tmp_path: Path) -> None:
    """The two that every machine has."""
    done = chosen("portable-soft", "portable")
    expected = 'SYMLM_INT16 is "portable", which needs SYMLM_ISA=portable, but portable-soft is in use'
    assert expected in done.stderr
    for isa in _symlm.available_isas():
        assert (isa == "portable") == (chosen(isa, "portable").returncode == 0), isa
    (tmp_path / "text.txt").write_text("the quick brown fox " * 500, encoding="utf-8")
    words = ["train", "text.txt", "--preset", "tiny", "--max-steps", 2, "--precision", "int16", "--out-dir", "run"]
    run = cli(*words, env={"SYMLM_ISA": "portable-soft", "SYMLM_INT16": "portable"})
    assert run.returncode == 2, run.stderr
    assert expected in run.stderr
    assert "hint: set SYMLM_ISA=portable too, or unset SYMLM_INT16 to use the fastest" in run.stderr
    assert not (tmp_path / "run").exists()


def test_another_set_that_is_compared_takes_its_fastest() -> None:
    """A benchmark names the instruction set of each case; the variable is for the one in use."""
    other = next(isa for isa in _symlm.available_isas() if isa != "portable")
    code = f"from symlm import _symlm; print(_symlm.integer_peak(1, 0.01, {other!r}))"
    done = chosen("portable", "portable", code)
    assert done.returncode == 0, done.stderr
