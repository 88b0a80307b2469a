"""Writing files so that they are on the disk when the call returns; hashing them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ..errors import UserError, reason
from ..layout import TEMP_PREFIX
from .calls import OPEN_FLAGS
from .reading import open_regular

_BLOCK = 1 << 20


def temporary_folder() -> str:
    """Where temporary files go: `TMPDIR`, else `/tmp`, or what Windows says, as in `system/files.rs`.

    Python would take another folder if that one is missing. But whoever sets the variable may do so because the others
    are too small.
    """
    if named := os.environ.get("TMPDIR"):
        return named
    if sys.platform == "win32":
        return os.environ.get("TEMP") or os.environ.get("TMP") or str(Path.home())
    else:
        return "/tmp"


TMPDIR_HINT = "TMPDIR says where temporary files go"


def make_temporary() -> Path:
    """A new temporary folder, which the caller removes; UserError where none can be made."""
    place = temporary_folder()
    try:
        return Path(tempfile.mkdtemp(prefix="symlm-", dir=place))
    except OSError as error:
        raise UserError(f"cannot make a temporary folder in {place}: {reason(error)}", TMPDIR_HINT) from None


@contextlib.contextmanager
def temporary() -> Iterator[Path]:
    """A temporary folder for a while; UserError where none can be made."""
    folder = make_temporary()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def temporary_file() -> IO[bytes]:
    """A file without a name, which is gone when it is closed; UserError where none can be made."""
    place = temporary_folder()
    try:
        return _nameless(place)
    except OSError as error:
        raise UserError(f"cannot make a temporary file in {place}: {reason(error)}", TMPDIR_HINT) from None


def probe(folder: Path) -> None:
    """OSError when no files can be made in `folder`."""
    _nameless(folder).close()


def _nameless(folder: str | Path) -> IO[bytes]:
    return tempfile.TemporaryFile(dir=folder)


def sync_file(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk.

    Windows flushes only files that are open for writing; its file system keeps a journal of names.
    """
    if sys.platform == "win32" and path.is_dir():
        return
    handle = os.open(path, (os.O_RDWR if sys.platform == "win32" else os.O_RDONLY) | OPEN_FLAGS)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, text: str) -> None:
    """Replace a small file so that a reader sees the old text or the new one, never a part; UserError when it cannot be
    written."""
    temporary = path.with_name(f"{TEMP_PREFIX}{path.name}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_file(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot write: {reason(error)}") from None


def file_hash(path: Path) -> str:
    """sha256 of a regular file in hexadecimal."""
    digest = hashlib.sha256()
    with open(open_regular(path), "rb") as file:  # noqa: PTH123 - of a descriptor
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def write_synced(path: Path, raw: bytes) -> None:
    with path.open("wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
