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
    as_error,
)
from .launch import is_command
from .world import World

_KINDS: dict[int, type[SymlmError]] = {
    kind.exit_code: kind for kind in (UserError, UsageError, DataError, MemoryPlanError, InternalError)
}


def failure_of(world: World, rank: int, error: BaseException) -> SymlmError:
    """The error of a rank, whatever it is, with its host."""
    found = _in_words(error)
    return _KINDS.get(found.exit_code, RankError)(f"{world.name(rank)}: {found.message}", found.hint)


def _in_words(error: BaseException) -> SymlmError:
    """Any error of a rank. A command that raises anything else has a bug; a program may raise what it likes, such as in
    a callback."""
    found = as_error(error)
    if found is not None:
        return found
    if isinstance(error, KeyboardInterrupt):
        return RankError("it was stopped in the middle of an update")
    what = f"ended with {type(error).__name__}: {error}"
    if is_command():
        return InternalError(what, "this is a bug; run that rank again with --debug")
    return UserError(what, "look at the program: that rank shows where it happened")


def message_of(error: BaseException) -> dict[str, Any]:
    """An error of this rank, for the others."""
    found = _in_words(error)
    return {"do": "error", "message": found.message, "hint": found.hint, "code": found.exit_code}


def error_of(world: World, rank: int, said: dict[str, Any]) -> SymlmError:
    """The error that another rank has told of, with its host."""
    return _KINDS.get(said["code"], RankError)(f"{world.name(rank)}: {said['message']}", said["hint"])
