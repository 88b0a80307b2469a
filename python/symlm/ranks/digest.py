"""Digests of what is moved outside of updates, where the engine has none: state that is sent, gathered, or made by each
rank for itself."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Iterable

from .. import _symlm
from ..errors import RankError
from .world import World


def digest(parts: Iterable[_symlm.Memory]) -> str:
    """64 bits of some memory, part after part. The engine has to rest, and to live, meanwhile."""
    found = hashlib.blake2b(digest_size=8)
    for part in parts:
        if part.bytes:
            found.update((ctypes.c_char * part.bytes).from_address(part.address))
    return found.hexdigest()


def differs(world: World, rank: int, what: str) -> RankError:
    """The error for a rank whose bytes are not those of this one."""
    return RankError(
        f"{world.name(rank)}: {what} are not those of {world.name(world.rank)}",
        "the memory, the processor or the network of one of the two hosts is at fault; resume without it",
    )
