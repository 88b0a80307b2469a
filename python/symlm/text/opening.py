"""Opening texts and files of objects, with what reads the tables among them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from .. import _symlm
from ..errors import UserError
from ..system.reading import parse_json

_FORMS: dict[str, dict[str, type]] = {
    "messages": {"messages": list}, "conversations": {"conversations": list},
    "alpaca": {"instruction": str, "output": str}, "completion": {"prompt": str, "completion": str},
    "turns": {"prompt": list, "completion": list},
}  # fmt: skip
"""What else than a text an object may hold, and by which fields."""

_LOOKED_AT = 1 << 20
"""Bytes of an object that are searched for that."""


def table_command() -> list[str]:
    """The command that takes the rows out of Parquet and Arrow: this interpreter, not in the current folder."""
    if not sys.executable:
        return []
    return [sys.executable, "-P", str(Path(__file__).with_name("table_reader.py"))]


def open_corpus(
    paths: Sequence[str | PathLike[str]], text_field: str = "text", data_format: str = "auto"
) -> _symlm.Corpus:
    """The texts of files, folders, globs or `-`. DataError for what cannot be text."""
    return _symlm.Corpus.open(paths, text_field, data_format, table_command())


def open_objects(path: str | PathLike[str], fields: Sequence[str], most: int) -> _symlm.ObjectFile:
    """The objects of a file, with these fields: objects of JSON or rows of a table, none of more than `most` bytes."""
    return _symlm.ObjectFile.open(path, fields, most, table_command())


def other_form(corpus: _symlm.Corpus, text_field: str) -> str | None:
    """The format that the first object of a corpus of texts has beside its text; None if it is a text and no more."""
    if corpus.data_format != "text" or not corpus.paths:
        return None
    fields = list(dict.fromkeys([text_field, *(name for form in _FORMS.values() for name in form)]))
    try:
        first = next(iter(open_objects(corpus.paths[0], fields, _LOOKED_AT)), None)
        found = None if first is None else parse_json(first.json)
    except (UserError, ValueError):
        # A plain text; or what is wrong is told when it is read.
        return None
    if not isinstance(found, dict) or not isinstance(found.get(text_field), str):
        return None

    def fits(form: dict[str, type]) -> bool:
        return all(isinstance(found.get(field), kind) for field, kind in form.items())

    return next((name for name, form in _FORMS.items() if fits(form)), None)
