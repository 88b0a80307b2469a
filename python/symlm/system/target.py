"""Files that something long writes at its end: what would go wrong then is refused at the start."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..errors import UserError, reason
from .files import probe


def check_target(flag: str, path: str, inputs: Iterable[Path] = ()) -> None:
    """UserError when the file that `flag` names cannot be written, or must not be: the file takes the place of what is
    there by a rename, so that has to be a file and none of `inputs`."""
    target = Path(path)
    if target.exists() and not target.is_file():
        what = "a folder" if target.is_dir() else "a device, pipe or socket"
        raise UserError(f"{flag} {path}: found {what}, expected the name of a file", "name a file that may be replaced")
    check_folder(flag, target, target.parent)
    if target.exists() and any(source.exists() and source.samefile(target) for source in inputs):
        raise UserError(f"{flag} {path}: this file is read, and would be replaced", "name another file")


def check_new_folder(flag: str, path: str) -> None:
    """UserError when files cannot be made in the folder that `flag` names, or that cannot be made."""
    folder = Path(path).absolute()
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if not there.is_dir():
        raise UserError(f"{flag} {path}: {there} is not a folder", "name a folder, new or not")
    check_folder(flag, Path(path), there)


def check_folder(flag: str, target: Path, folder: Path) -> None:
    """UserError when no files can be made in `folder`, which would hold `target` or is it."""
    try:
        probe(folder)
    except OSError as error:
        hint = "choose a folder that exists and may be written to"
        raise UserError(f"{flag}: cannot write {target}: {reason(error)}", hint) from None
