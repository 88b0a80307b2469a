"""The values of a JSON object that a client sent, taken out by type; a `Problem` names the field that is wrong."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from ..errors import shown
from ..system.reading import kind, parse_json
from ..units import did_you_mean
from .problems import Problem


def parse_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in a body."""
    try:
        value = parse_json(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Problem(f"the body: not UTF-8 text at byte {error.start}") from None
    except ValueError as error:
        raise Problem(f"the body: expected JSON: {error}") from None
    if not isinstance(value, dict):
        raise Problem(f"the body: found {kind(value)}, expected a JSON object")
    return value


class Request:
    """The fields of a request. A field that is null counts as missing."""

    def __init__(self, raw: dict[str, Any], known: Iterable[str]) -> None:
        self._raw = {name: value for name, value in raw.items() if value is not None}
        names = list(known)
        for name in self._raw:
            if name not in names:
                near = did_you_mean(name, names)
                hint = f"did you mean {near}?" if near else f"known are {', '.join(sorted(names))}"
                raise Problem(f"unknown field {shown(name)} ({hint})", parameter=name[:80], code="unknown_parameter")

    def __contains__(self, name: str) -> bool:
        return name in self._raw

    def value(self, name: str) -> Any:
        """A field as it is; None when it is missing."""
        return self._raw.get(name)

    def wrong(self, name: str, expected: str) -> Problem:
        """The error that a field is not what was expected."""
        found = shown(self._raw[name]) if name in self._raw else "nothing"
        return Problem(f"{name}: found {found}, expected {expected}", parameter=name)

    def whole(self, name: str, default: int, low: int, high: int) -> int:
        """A whole number; 2.0 is one too."""
        value = self._raw.get(name, default)
        if isinstance(value, float) and math.isfinite(value) and value == int(value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.wrong(name, f"a whole number from {low:,} to {high:,}")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false."""
        value = self._raw.get(name, default)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def text(self, name: str) -> str:
        """A text of whole characters."""
        value = self._raw.get(name)
        if not isinstance(value, str):
            raise self.wrong(name, "a text")
        return checked_text(value, name)

    def texts(self, name: str, most: int) -> list[str]:
        """A text or a list of them."""
        value = self._raw.get(name, [])
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(text, str) for text in values):
            raise self.wrong(name, "a text or a list of texts")
        if len(values) > most:
            raise Problem(f"{name}: found {len(values):,} texts, expected at most {most}", parameter=name)
        return [checked_text(text, name) for text in values]

    def refuse(self, name: str, *allowed: Any, why: str) -> None:
        """A field that the server has no use for: only a value that changes nothing is taken."""
        if name in self._raw and not any(
            type(self._raw[name]) is type(value) and self._raw[name] == value for value in allowed
        ):
            raise Problem(f"{name} is not supported: {why}", parameter=name, code="unsupported_parameter")


def checked_text(text: str, name: str) -> str:
    """The text, which is of whole characters."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Problem(
            f"{name}: found half of a character (a lone surrogate) at character {error.start}, expected whole ones",
            parameter=name,
        ) from None
    return text
