"""Runs with `--precision int16` that all machines give the same weights: those of golden/int16.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from test_golden_run import Job, job

GOLDEN = Path(__file__).parent / "golden" / "int16.json"
WIDE: dict[str, Any] = {"intermediate_size": 300, "batch_size": 13}
"""Products of more than one block of 512."""
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "tied-wsd": ("tied-wsd", {}),
    "untied-cosine": ("untied-cosine", {}),
    "wide": ("untied-cosine", WIDE),
}


def case(folder: Path, name: str, out: str, **settings: Any) -> Job:
    """A job of the golden run, in integers."""
    run, more = CASES[name]
    return job(folder, run, out, precision="int16", **{**more, **settings})


def golden_hashes() -> dict[str, str]:
    """SHA-256 of the weights that each case ends with."""
    loaded = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded
