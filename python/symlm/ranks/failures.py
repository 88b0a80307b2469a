"""The errors of one rank, as the others report them."""

from __future__ import annotations

from typing import Any

from ..errors import (
    DataError,
    InternalError,
    MemoryPlanError,
    RankError,
    SymlmError,
    UsageError,
    UserError,
    reason,
)
from .world import World

_KINDS: dict[int, type[SymlmError]] = {
    kind.exit_code: kind for kind in (UserError, UsageError, DataError, MemoryPlanError, InternalError)
}


def failure_of(world: World, rank: int, error: BaseException) -> SymlmError:
    """The error of a rank, whatever it is, with its host."""
    found = as_error(error)
    return _KINDS.get(found.exit_code, RankError)(f"{world.name(rank)}: {found.message}", found.hint)


def as_error(error: BaseException) -> SymlmError:
    """Any error in words that a user understands."""
    if isinstance(error, SymlmError):
        return error
    if isinstance(error, MemoryError):
        return MemoryPlanError("out of memory", "choose a smaller --preset or --batch-size")
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return UserError(f"{where}{reason(error)}")
    if isinstance(error, KeyboardInterrupt):
        return RankError("it was stopped in the middle of an update")
    return InternalError(f"{type(error).__name__}: {error}", "this is a bug; run that rank again with --debug")


def message_of(error: BaseException) -> dict[str, Any]:
    """An error of this rank, for the others."""
    found = as_error(error)
    return {"do": "error", "message": found.message, "hint": found.hint, "code": found.exit_code}


def error_of(world: World, rank: int, said: dict[str, Any]) -> SymlmError:
    """The error that another rank has told of, with its host."""
    return _KINDS.get(said["code"], RankError)(f"{world.name(rank)}: {said['message']}", said["hint"])
