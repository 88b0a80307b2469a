"""Human units: durations, counts and sizes, and the nearest known name for a mistyped one."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[smhd])+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_COUNT = re.compile(r"([+-]?[0-9][0-9_,]*(?:\.[0-9]+)?)([kKmMgGbB]?)")
_MOST_DIGITS = 40
_MOST_NAME = 64
_MOST_WHOLE = 20
_SCALE = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}


def parse_duration(text: str) -> float:
    """Seconds of `25s`, `10m`, `2h`, `1d` or a chain of them such as `1h30m`; ValueError for anything else."""
    compact = text.strip().lower().replace(" ", "")
    if not _DURATION.fullmatch(compact):
        raise ValueError(f'expected a duration such as 25s, 10m or 2h, found "{text[:_MOST_DIGITS]}"')
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(compact))
    if not math.isfinite(seconds) or seconds <= 0:
        raise ValueError(f'expected a duration longer than zero, found "{text[:_MOST_DIGITS]}"')
    return seconds


def parse_count(text: str) -> int:
    """A whole number, where `10k`, `3M`, `1.5B` and `10_000` are understood; ValueError for anything else."""
    match = _COUNT.fullmatch(text.strip()) if len(text) <= _MOST_DIGITS else None
    if match is None:
        raise ValueError(f'expected a whole number, found "{text[:_MOST_DIGITS]}"')
    digits = match[1].replace("_", "").replace(",", "")
    scale = _SCALE[match[2].lower()]
    if "." not in digits:
        return int(digits) * scale
    value = float(digits) * scale
    if value != int(value):
        raise ValueError(f'expected a whole number, found "{text}"')
    return int(value)


def whole_number(text: str) -> int | None:
    """The number that a few plain digits are; None for any other text."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < _MOST_WHOLE else None


def format_duration(seconds: float) -> str:
    """Short readable text: `42s`, `3m07s`, `2h05m`, `4d03h`."""
    if not math.isfinite(seconds) or seconds < 0:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def format_short_duration(seconds: float) -> str:
    """As `format_duration`, with more digits below a minute: `0.24 ms`, `85 ms`, `2.4s`."""
    for limit, scale, digits, unit in (
        (0.000995, 1e3, 2, " ms"), (0.00995, 1e3, 1, " ms"), (0.9995, 1e3, 0, " ms"), (9.95, 1.0, 1, "s"),
    ):  # fmt: skip
        if 0 <= seconds < limit:
            return f"{seconds * scale:.{digits}f}{unit}"
    return format_duration(seconds)


def format_count(value: float) -> str:
    """Short readable text: `812`, `9.3k`, `2.9M`, `1.2B`."""
    for limit, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            scaled = value / limit
            return f"{scaled:.0f}{suffix}" if abs(scaled) >= 100 else f"{scaled:.1f}{suffix}"
    return f"{value:.0f}"


def count_of(number: int, noun: str) -> str:
    """`1 thread`, `2 threads`, `10,000 threads`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """The known name nearest to `name`, or None when nothing is near; dashes and underscores count as the same."""
    if len(name) > _MOST_NAME:
        return None
    table = {candidate.replace("-", "_").lower(): candidate for candidate in known}
    near = difflib.get_close_matches(name.replace("-", "_").lower(), table, n=1, cutoff=0.6)
    return table[near[0]] if near else None
