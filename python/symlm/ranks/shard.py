"""`--data-from rank0`: the encoded text of rank 0 travels to hosts that do not have it in their cache.

A rank asks for one part after the other, so rank 0 holds one part at a time, and nobody waits for a part that does not
come: whoever fails says so in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .. import _symlm
from ..errors import DataError, RankError, SymlmError, UserError, reason
from .wire import Letter
from .world import World

_PART = 1 << 23
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


def send(world: World, rank: int, shards: _symlm.Shards, at: int) -> None:
    """Give a rank the part of the file that begins at byte `at`. DataError where it cannot be read."""
    path = Path(shards.path)
    try:
        with path.open("rb") as file:
            file.seek(at)
            part = file.read(_PART)
    except OSError as error:
        raise DataError(f"{path}: {reason(error)}") from None
    if not part:
        raise DataError(f"{path}: shorter than it was")
    world.send(rank, {"do": "part"}, part)


def receive(
    world: World, shard: Shard, folder: Path, tokenizer: _symlm.Tokenizer, hear: Callable[[], Letter]
) -> _symlm.Shards:
    """The ids of rank 0: those of this host's cache, else they are asked for and put there. `tokenizer` has encoded
    them, `hear` gives what rank 0 says next."""
    path = folder / Path(shard.name).name
    found = _opened(path, tokenizer)
    if found is not None and found.sha256 == shard.sha256:
        return found
    temporary = folder / f".tmp-{world.rank}-{path.name}"
    try:
        with temporary.open("wb") as file:
            at = 0
            while at < shard.bytes:
                world.send(0, {"do": "want", "at": at})
                letter = hear()
                if letter.do != "part" or not letter.payload:
                    raise RankError(f"rank 0 said {letter.do!r} where a part of the text was due")
                file.write(letter.payload)
                at += len(letter.payload)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot write the encoded text of rank 0: {reason(error)}") from None
    finally:
        temporary.unlink(missing_ok=True)
    return _symlm.Shards.open(str(path), tokenizer)


def _opened(path: Path, tokenizer: _symlm.Tokenizer) -> _symlm.Shards | None:
    try:
        return _symlm.Shards.open(str(path), tokenizer) if path.is_file() else None
    except SymlmError:
        return None
