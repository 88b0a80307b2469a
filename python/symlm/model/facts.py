"""What a file says about where its model comes from."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

_MOST_FACTS = 256


_NAME = re.compile(r"[a-z0-9_]{1,64}")


Facts = dict[str, str | int | float]
"""Name -> text, whole number or number; the same names in `symlm.json`, and after `symlm.` in GGUF metadata."""


def usable_facts(raw: Mapping[str, Any]) -> Facts:
    """Those of the values in a file that may be facts, whoever wrote it."""
    known = {name: value for name, value in raw.items() if _NAME.fullmatch(name) and _is_fact(value)}
    return dict(list(known.items())[:_MOST_FACTS])


def _is_fact(value: object) -> bool:
    if isinstance(value, int):
        return not isinstance(value, bool) and 0 <= value < 1 << 63
    return isinstance(value, str) or (isinstance(value, float) and math.isfinite(value))
