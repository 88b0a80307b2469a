"""`--data-from rank0`: the encoded text of rank 0 travels to hosts that do not have it in their cache."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

from .. import _symlm
from ..errors import DataError, SymlmError, UserError, reason
from .world import World

_PART = 1 << 26
"""Bytes that travel at a time."""


@dataclass(frozen=True)
class Shard:
    """What is known of a file of ids before it is there."""

    name: str
    bytes: int
    sha256: str

    @classmethod
    def of(cls, shards: _symlm.Shards) -> Shard:
        """Of shards that are open."""
        path = Path(shards.path)
        return cls(path.name, path.stat().st_size, shards.sha256)


def _address(part: bytearray) -> int:
    return ctypes.addressof((ctypes.c_char * len(part)).from_buffer(part))


def send(world: World, rank: int, shards: _symlm.Shards) -> None:
    """Give a rank the file, which it has asked for."""
    path = Path(shards.path)
    with path.open("rb") as file:
        left = path.stat().st_size
        while left:
            part = bytearray(min(_PART, left))
            if file.readinto(part) != len(part):
                raise DataError(f"{path}: shorter than it was")
            world.move([(rank, False, _address(part), len(part))])
            left -= len(part)


def receive(world: World, shard: Shard, folder: Path) -> _symlm.Shards:
    """The ids of rank 0: those of this host's cache, else they are asked for and put there."""
    path = folder / shard.name
    found = _opened(path)
    if found is not None and found.sha256 == shard.sha256:
        return found
    world.send(0, {"do": "want"})
    temporary = folder / f".tmp-{world.rank}-{shard.name}"
    try:
        with temporary.open("wb") as file:
            left = shard.bytes
            while left:
                part = bytearray(min(_PART, left))
                world.move([(0, True, _address(part), len(part))])
                file.write(part)
                left -= len(part)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot write the encoded text of rank 0: {reason(error)}") from None
    finally:
        temporary.unlink(missing_ok=True)
    return _symlm.Shards.open(str(path))


def _opened(path: Path) -> _symlm.Shards | None:
    try:
        return _symlm.Shards.open(str(path)) if path.is_file() else None
    except SymlmError:
        return None
