"""Settings in TOML files: reading them. `sources.to_toml` writes them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError, reason
from ..system.names import as_location, restored
from ..system.reading import check_pointer
from ..units import did_you_mean
from .options import PATH_KINDS, convert, flag_of
from .sections import FLAGS, REQUEST_FIELDS, SPECS

REQUESTED = "requested"
"""The table that only the file of a run has."""

_MOST_BYTES = 16 << 20
"""Of a file of settings: a run may have been started with very many paths."""

_MANY_DOTS = re.compile(r"(?:\.[ \t]{0,8}[\w\"'-]{1,64}[ \t]{0,8}){64}")
"""Keys within keys without end, on which the parser takes quadratic time. No setting has a dot."""


@dataclass(frozen=True)
class TomlSettings:
    """A parsed file: its values, and for a resolved file what had been asked for (None otherwise)."""

    values: dict[str, Any]
    requested: dict[str, Any] | None = None


def read_toml(path: str) -> TomlSettings:
    """Read a settings file; UsageError names the file and the key. DataError for a pointer of Git LFS in its place."""
    path = as_location("configuration", path)
    try:
        with Path(path).open("rb") as file:
            raw = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: cannot read the configuration: {reason(error)}", "check the path after -c") from None
    if len(raw) > _MOST_BYTES:
        raise UsageError(
            f"{path}: found more than {_MOST_BYTES:,} bytes, expected a configuration of at most that",
            "check the path after -c",
        )
    check_pointer(path, raw)
    try:
        # Some editors begin a file with a mark.
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{path}: the configuration is not UTF-8 text", "save the file as UTF-8") from None
    return parse_toml(text, path)


def parse_toml(text: str, origin: str = "config") -> TomlSettings:
    """Parse settings; `origin` names the file in errors. Dashes and underscores in keys are the same."""
    looks = 'a line looks like batch_size = 32 or preset = "3m"; text needs quotes'
    if _MANY_DOTS.search(text):
        raise UsageError(f"{origin}: found a key of more than 64 parts, expected the name of a setting", looks)
    try:
        table = tomllib.loads(text)
    except RecursionError:
        raise UsageError(f"{origin}: not valid TOML for settings: nested too deeply", looks) from None
    except ValueError as error:
        # Mostly its subclass TOMLDecodeError; a number of thousands of digits is a plain one.
        raise UsageError(f"{origin}: not valid TOML: {error}", looks) from None
    requested = table.pop(REQUESTED, None)
    if requested is not None and not isinstance(requested, dict):
        raise UsageError(f"{origin}: {REQUESTED} must be a table", f"leave {REQUESTED} out: symlm writes it itself")
    values = _table(table, SPECS, origin)
    if requested is None:
        return TomlSettings(values)
    return TomlSettings({**_as_before(values), **values}, _table(requested, REQUEST_FIELDS, origin))


def _as_before(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """What a run did by settings that its file lacks because they did not exist when it was written.

    The defaults of today are for new runs. A file without `requested` was written by a person and is one.
    """
    late = {name: spec for name, spec in SPECS.items() if spec.before is not None and name not in recorded}
    return {name: convert(name, spec, spec.before) for name, spec in late.items()}


def _table(table: Mapping[str, Any], allowed: Iterable[str], origin: str) -> dict[str, Any]:
    known = list(allowed)
    values: dict[str, Any] = {}
    for key, raw in table.items():
        name = key.replace("-", "_")
        name = FLAGS.get("--" + key.replace("_", "-"), name)
        if name not in known and isinstance(raw, dict):
            raise UsageError(
                f'{origin}: unknown table "[{key[:80]}]"', "settings stand in the file without a table above them"
            )
        if name not in known:
            raise UsageError(f'{origin}: unknown key "{key[:80]}"', name_hint(key, known))
        if name in values:
            raise UsageError(f'{origin}: the key "{key}" is given twice', "keep one of the two")
        try:
            values[name] = convert(name, SPECS[name], _names_restored(name, raw))
        except UsageError as error:
            raise UsageError(f"{origin}: {error.message}", error.hint) from None
    return values


def _names_restored(name: str, raw: Any) -> Any:
    """A value of a file, where paths stand as `storable` writes them."""
    if SPECS[name].kind not in PATH_KINDS:
        return raw
    try:
        if isinstance(raw, list):
            return [restored(item) if isinstance(item, str) else item for item in raw]
        return restored(raw) if isinstance(raw, str) else raw
    except ValueError as error:
        raise UsageError(f"{flag_of(name)}: {error}", "write the name as config.toml of a run has it") from None


def name_hint(name: str, known: Iterable[str]) -> str | None:
    """What may have been meant by a name that is not known."""
    near = did_you_mean(name, known)
    return f"did you mean {near}?" if near else None
