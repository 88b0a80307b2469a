"""`metrics.jsonl` and `samples.jsonl`: one JSON object a line, flushed, cut back when a run resumes."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ..errors import UserError, reason
from ..system.calls import OPEN_FLAGS
from ..system.files import write_atomic
from ..system.names import storable
from ..system.reading import parse_json

_MOST_LINE = 1 << 20
"""Characters of a line; a longer one is not a record."""


def plain(value: Any) -> Any:
    """The value as valid JSON: a float that is not finite becomes the text "nan", "inf" or "-inf", a name that is not
    UTF-8 what `names.storable` makes of it."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (str, os.PathLike)):
        return storable(os.fspath(value))
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def to_line(record: dict[str, Any]) -> str:
    """One line without its end. Floats are written so that they read back to the same bits."""
    return json.dumps(plain(record), ensure_ascii=False, allow_nan=False)


def to_document(record: dict[str, Any], indent: int = 1) -> str:
    """The text of a file that holds one object; as strict as `to_line`."""
    return json.dumps(plain(record), indent=indent, ensure_ascii=False, allow_nan=False) + "\n"


class LineLog:
    """A file of JSON lines that is appended to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | OPEN_FLAGS, 0o666)
        except OSError as error:
            raise self._failed(error) from None

    def write(self, record: dict[str, Any]) -> None:
        """Append a record and hand it to the operating system at once.

        UserError when that is not possible. Then the file is as it was: no part of a line stays in it.
        """
        rest = (to_line(record) + "\n").encode("utf-8")
        before = os.fstat(self._file).st_size
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, before)
            raise self._failed(error) from None

    def _failed(self, error: OSError) -> UserError:
        return UserError(f"{self.path}: cannot write: {reason(error)}")

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a file; a last line that was cut by a crash is left out."""
    return (record for _, record in _lines(path))


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line that holds a record, and the record."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        whole = True
        while line := file.readline(_MOST_LINE):
            # Part of an overlong line is not a record, whatever it looks like.
            begins, whole = whole, line.endswith("\n")
            if not begins or (not whole and len(line) == _MOST_LINE):
                continue
            try:
                record = parse_json(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                yield line.rstrip("\r\n"), record


def truncate_past(path: Path, step: int) -> int:
    """Drop the records of steps after `step`, that of the end, and broken lines; gives the number of records dropped.

    Records without a step stay. The file is replaced in one piece.
    """
    if not path.is_file():
        return 0
    lines = list(_lines(path))
    before = (line for line in lines if not isinstance(line[1].get("step"), int) or line[1]["step"] <= step)
    kept = [text for text, record in before if record.get("event") != "end"]
    write_atomic(path, "".join(f"{text}\n" for text in kept))
    return len(lines) - len(kept)


def drop_at(path: Path, step: int, events: Collection[str] | None = None) -> None:
    """Drop the records of `step`: those with an event of `events`, or all."""
    records = list(read_lines(path))
    kept = [r for r in records if r.get("step") != step or (events is not None and r.get("event") not in events)]
    if len(kept) < len(records):
        rewrite(path, kept)


def rewrite(path: Path, records: list[dict[str, Any]]) -> None:
    """Replace the content of a file in one piece."""
    write_atomic(path, "".join(to_line(record) + "\n" for record in records))
