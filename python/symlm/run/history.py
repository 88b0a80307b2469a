"""The metrics of a run as they are read back, for pictures and for other tools."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

from ..errors import UserError
from ..layout import METRICS
from ..system.names import as_path
from .metrics import read_lines

_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def read_history(run: str | Path) -> Iterator[dict[str, Any]]:
    """The records of a run folder, with numbers that are not finite as numbers again, and `elapsed_s` on all of them.

    Records without a time get that of the last update that was recorded before them. UserError when
    the folder has no metrics.
    """
    path = as_path("run folder", run) / METRICS
    if not path.is_file():
        raise UserError(f"{path}: no metrics there", "give run folders")
    return _records(path)


def _records(path: Path) -> Iterator[dict[str, Any]]:
    seconds = 0.0
    for line in read_lines(path):
        record = line
        if line.get("event") in ("train", "eval", "nan"):
            record = {name: _NOT_FINITE.get(v, v) if isinstance(v, str) else v for name, v in line.items()}
            record["event"] = line["event"]
        elapsed = record.get("elapsed_s")
        if is_number(elapsed) and math.isfinite(elapsed):
            seconds = float(elapsed)
        record["elapsed_s"] = seconds
        yield record


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a number, finite or not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
