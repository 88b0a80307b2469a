"""Reading small files that may hold anything: bounded in size and depth, with values that are what they should be.

Whatever such a file holds, the outcome is its content or a DataError that names it. Nothing is ever executed: the only
formats are text, JSON and TOML.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import DataError, reason, shown
from .calls import AT_ONCE, OPEN_FLAGS, read_at

MOST_BYTES = 1 << 20
"""Files that describe something (a manifest, a state, a shape) are a few kilobytes."""

MOST_DEPTH = 32
_MOST_DIGITS = 20
_LFS_BEGIN = b"version https://git-lfs.github.com/spec/"
_LFS_HASH = b"\noid "
_MOST_LFS_BYTES = 512
"""The most bytes of a pointer that Git LFS leaves in place of a file."""

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def open_regular(path: Path) -> int:
    """A descriptor for reading a regular file. OSError for anything else; a pipe without a writer does not block.

    DataError for a pointer of Git LFS, which is in the place of the file that is meant.
    """
    handle = os.open(path, os.O_RDONLY | OPEN_FLAGS | AT_ONCE)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError("not a regular file")
        check_pointer(path, read_at(handle, _MOST_LFS_BYTES, 0))
    except BaseException:
        os.close(handle)
        raise
    return handle


def check_pointer(path: str | Path, head: bytes) -> None:
    """DataError when a file that begins so is a pointer of Git LFS."""
    head = head[:_MOST_LFS_BYTES]
    if head.startswith(_LFS_BEGIN) and _LFS_HASH in head:
        raise DataError(
            f"{path}: found a Git LFS pointer, expected the file that it stands for", "git lfs pull fetches it"
        )


def open_binary(path: Path) -> BinaryIO:
    """A regular file, opened for reading bytes; OSError for anything else."""
    return open(open_regular(path), "rb")


def read_text(path: Path, what: str, most: int = MOST_BYTES) -> str:
    """The text of a file; DataError that begins with the path and says that `what` cannot be read."""
    try:
        with open_binary(path) as file:
            raw = file.read(most + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot read the {what}: {reason(error)}") from None
    except ValueError:
        raise DataError(f"{path}: cannot read the {what}: not a possible path") from None
    if len(raw) > most:
        raise DataError(f"{path}: found more than {most:,} bytes, expected a {what} of at most that")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: damaged {what}: not UTF-8 text at byte {error.start}") from None


def parse_json(text: str) -> Any:
    """The value of a JSON text; ValueError in a few words otherwise."""
    try:
        value = json.loads(text, parse_int=_whole_number)
    except RecursionError:
        raise ValueError(f"nested deeper than {MOST_DEPTH} levels") from None
    level = [value]
    for _ in range(MOST_DEPTH + 1):
        inner = [node.values() if isinstance(node, dict) else node for node in level]
        level = [item for items in inner if isinstance(items, (list, type({}.values()))) for item in items]
        level = [item for item in level if isinstance(item, (dict, list))]
        if not level:
            return value
    raise ValueError(f"nested deeper than {MOST_DEPTH} levels")


def _check_characters(text: str, value: Any) -> None:
    """ValueError when a text in `value` has half a character, which JSON can write and no file can hold."""
    if _SURROGATE.search(text) is None:
        return
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("a text with half of a surrogate pair") from None


def _whole_number(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits")
    return int(digits)


def read_object(path: Path, what: str, most: int = MOST_BYTES) -> dict[str, Any]:
    """The JSON object in a file; DataError otherwise."""
    text = read_text(path, what, most)
    try:
        value = parse_json(text)
        _check_characters(text, value)
    except ValueError as error:
        raise DataError(f"{path}: damaged {what}: {error}") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: damaged {what}: found {kind(value)}, expected an object")
    return value


def kind(value: object) -> str:
    """What a JSON value is, for messages."""
    names = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "a truth value",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), "null")


class Fields:
    """The fields of an object in a file, taken out by type; DataError names the file and the field."""

    def __init__(self, path: Path, raw: Mapping[str, Any], what: str) -> None:
        self._path, self._raw, self._what = path, raw, what

    def __contains__(self, name: str) -> bool:
        return name in self._raw

    def _wrong(self, name: str, expected: str) -> DataError:
        found = shown(self._raw[name]) if name in self._raw else "nothing"
        return DataError(f"{self._path}: damaged {self._what}: {name}: found {found}, expected {expected}")

    def object(self, name: str) -> dict[str, Any]:
        """An object."""
        value = self._raw.get(name)
        if not isinstance(value, dict):
            raise self._wrong(name, "an object")
        return value

    def text(self, name: str) -> str:
        """A text."""
        value = self._raw.get(name)
        if not isinstance(value, str):
            raise self._wrong(name, "a text")
        return value

    def whole(self, name: str, low: int, high: int) -> int:
        """A whole number from `low` to `high`; 2.0 is one too."""
        value = self._raw.get(name)
        if isinstance(value, float) and math.isfinite(value) and value == int(value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._wrong(name, f"a whole number from {low:,} to {high:,}")
        return value

    def number(self, name: str) -> float:
        """A finite number."""
        value = self._raw.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self._wrong(name, "a finite number")
        return float(value)

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self._raw.get(name)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return value

    def perhaps_number(self, name: str) -> None:
        """Check that the field is a number, null, or not there."""
        value = self._raw.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise self._wrong(name, "a number or null")
