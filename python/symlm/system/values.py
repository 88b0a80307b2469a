"""Values that a Python program gives: numbers of NumPy beside those of Python, and anything that can be iterated."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import UsageError, shown
from .names import as_location, as_text

_SETS = (set, frozenset)


def plain(raw: Any) -> Any:
    """The value as Python itself writes it: a number or truth value of NumPy, a fraction or a decimal becomes an int, a
    float or a bool; anything else stays as it is."""
    if isinstance(raw, (bool, int, float, str)) and type(raw).__module__ == "builtins":
        return raw
    if getattr(raw, "shape", None) == () and hasattr(raw, "item"):
        raw = raw.item()
    if isinstance(raw, (bool, str)):
        return raw
    with contextlib.suppress(TypeError):
        return operator.index(raw)
    if hasattr(raw, "as_integer_ratio"):
        with contextlib.suppress(ValueError, OverflowError):
            return float(raw)
    return raw


def whole(what: str, raw: Any, low: int, high: int, unit: str = "") -> int:
    """A whole number in a range; UsageError that begins with `what`."""
    value = plain(raw)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise UsageError(f"{what}: expected {low} to {high}{unit}, found {shown(raw)}")
    return value


def token_ids(what: str, raw: Any, last: int) -> list[int]:
    """Token ids from 0 to `last`; UsageError that begins with `what` and names the first that is none."""
    ids = [plain(id_) for id_ in items(what, raw, "token ids")]
    for id_ in ids:
        if isinstance(id_, bool) or not isinstance(id_, int) or not 0 <= id_ <= last:
            raise UsageError(f"{what}: found {shown(id_)}, expected token ids from 0 to {last}")
    return ids


def several(raw: Any, expected: str) -> tuple[Any, ...]:
    """The items of what can be iterated, those of a set in the order of their texts; ValueError for a single value or a
    mapping."""
    if not isinstance(raw, (str, bytes, Mapping)):
        with contextlib.suppress(TypeError):
            return tuple(sorted(raw, key=str) if isinstance(raw, _SETS) else raw)
    raise ValueError(f"expected {expected}, found {shown(raw)}")


def items(what: str, raw: Any, expected: str) -> tuple[Any, ...]:
    """`several`; UsageError that begins with `what`."""
    try:
        return several(raw, expected)
    except ValueError as error:
        raise UsageError(f"{what}: {error}") from None


def texts(what: str, raw: Any) -> tuple[str, ...]:
    """A text or several; UsageError that begins with `what`."""
    given = (raw,) if isinstance(raw, str) else items(what, raw, "a text or a list of texts")
    return tuple(as_text(what, text) for text in given)


def is_path(raw: Any) -> bool:
    """Whether this is a single path."""
    return isinstance(raw, (str, bytes)) or hasattr(raw, "__fspath__")


def locations(what: str, raw: Any) -> tuple[str, ...]:
    """A path or several, as they are written; UsageError that begins with `what`."""
    given = (raw,) if is_path(raw) else items(what, raw, "a path or a list of paths")
    return tuple(as_location(what, path) for path in given)


def check_callable(what: str, raw: Callable[..., object] | None) -> None:
    """UsageError unless this is None or can be called."""
    if raw is not None and not callable(raw):
        raise UsageError(f"{what}: found {shown(raw)}, expected a function")
