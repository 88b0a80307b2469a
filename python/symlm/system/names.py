"""Names and texts as the system gives them: any bytes, which messages, JSON, TOML and a terminal cannot all hold.

A name that is not UTF-8 reaches Python as a string with lone surrogates in place of its bytes (PEP 383). Here is how
such a string stands elsewhere: `printable` for messages, `storable` and `restored` for files of text.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import UsageError, printable, shown

_MOST_SHOWN = 80
_BYTES = re.compile("[\udc80-\udcff]+")
_USER = re.compile(r"~[\w.-]*\$?")
_HALF = re.compile("[\ud800-\udfff]")
_STORED = re.compile("\0(.{0,2})", re.DOTALL)


def storable(text: str) -> str:
    """The text as valid Unicode: a byte that is not UTF-8 becomes U+0000 and two hexadecimal digits.

    No name of a file has a U+0000, so `restored` gives every path back. Other halves of characters, which no path has
    either, become U+FFFD.
    """
    if _HALF.search(text) is None:
        return text
    whole = _BYTES.sub(lambda run: run[0].encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape"), text)
    marked = _BYTES.sub(lambda run: "".join(f"\0{ord(c) - 0xDC00:02x}" for c in run[0]), whole)
    return _HALF.sub("\ufffd", marked)


def restored(text: str) -> str:
    """The path that `storable` made `text` of, as this system spells it; ValueError for a text that it cannot make."""
    if "\0" in text:
        text = _STORED.sub(_byte, text)
    return os.fsdecode(text.encode("utf-8", "surrogateescape"))


def _byte(found: re.Match[str]) -> str:
    if re.fullmatch("[89a-f][0-9a-f]", found[1]) is None:
        raise ValueError("expected two hexadecimal digits from 80 to ff after a U+0000, which stand for a byte")
    return chr(0xDC00 + int(found[1], 16))


def text_of(raw: str) -> str:
    """A text that came as an argument or a variable; ValueError when its bytes are not UTF-8.

    In a locale without UTF-8 Python has taken them for single bytes, whatever they are.
    """
    if _HALF.search(raw) is None:
        return raw
    try:
        return raw.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        raise ValueError(f'expected UTF-8 text, found "{printable(raw)[:_MOST_SHOWN]}"') from None


def path_of(raw: Any) -> str:
    """A path as a string, with a leading `~` or `~NAME` for a home folder resolved; ValueError for what no path can be.

    A `~` that stands for no home folder is a name if there is such a file or folder, and else an error: what is written
    would land in a folder called `~`. A path object is a name as it stands: it cannot keep the `./` before one.
    """
    path = os.fspath(raw) if hasattr(raw, "__fspath__") else raw
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    if not isinstance(path, str):
        raise ValueError(f"expected a path, found {shown(raw)}")
    if not path:
        raise ValueError("expected a path, found an empty string")
    if "\0" in path:
        raise ValueError("expected a path without NUL characters")
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise ValueError(
            f'expected a path that this system can have, found "{printable(path)[:_MOST_SHOWN]}"'
        ) from None
    if not path.startswith("~"):
        return path
    return _from_home(path) if isinstance(raw, (str, bytes)) else f"./{path}"


def _from_home(path: str) -> str:
    """A path that begins with `~`."""
    # Unlike that of Path, this leaves the name as it is where no home is known.
    expanded = os.path.expanduser(path)  # noqa: PTH111
    first = path.partition("/")[0]
    if expanded != path or _USER.fullmatch(first) is None:
        return expanded
    if os.path.lexists(first):
        return f"./{path}"
    user = printable(first[1:])[:_MOST_SHOWN]
    why = f'no user is called "{user}"' if user else "HOME is not set and this user has no home folder"
    raise ValueError(f'found "{printable(path)[:_MOST_SHOWN]}", but {why}; a name that begins with ~ is written ./~')


def as_path(what: str, raw: Any) -> Path:
    """`path_of` as a Path; UsageError that begins with `what`."""
    return Path(as_location(what, raw))


def as_location(what: str, raw: Any) -> str:
    """`path_of`, as it is written: it may be a pattern, or `-`. UsageError that begins with `what`."""
    try:
        return path_of(raw)
    except ValueError as error:
        raise UsageError(f"{what}: {error}", "name a file or a folder") from None


def as_text(what: str, raw: str) -> str:
    """A text that was given to a function; UsageError that begins with `what` when it is not whole characters."""
    if not isinstance(raw, str):
        raise UsageError(f"{what}: expected text, found {shown(raw)}")
    if _HALF.search(raw) is not None:
        raise UsageError(f"{what}: found half of a character (a lone surrogate), expected a text of whole characters")
    return raw


def command_line(words: Iterable[str]) -> str:
    """Words as a line that a shell takes, whatever they hold."""
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    if printable(word) == word:
        return shlex.quote(word)
    plain = word.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{printable(plain)}'"
