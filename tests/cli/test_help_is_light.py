"""Help shows the tables of settings and nothing else: it loads neither the extension module nor numpy."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOADED = """
import sys
from symlm.cli import main
sys.argv = ["symlm", *sys.argv[1:]]
try:
    main()
except SystemExit:
    pass
heavy = {"symlm._symlm", "numpy", "rich", "symlm.training", "symlm.model"} & sys.modules.keys()
assert not heavy, heavy
"""


@pytest.mark.parametrize(
    "command", [[], ["train"], ["finetune"], ["generate"], ["serve"], ["bench"], ["eval"], ["export"]]
)
def test_help_loads_nothing_heavy(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *command, "--help"],
        check=False,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
