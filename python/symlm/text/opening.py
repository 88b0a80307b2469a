"""Opening texts and files of objects, with what reads the tables among them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from .. import _symlm


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
