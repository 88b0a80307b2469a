"""The life of a world: joined where a launcher started several processes, left however the run ends."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

from ..config.train_config import TrainConfig
from ..errors import Interrupted, SymlmError, UsageError
from .launch import launched
from .world import World

T = TypeVar("T")


def wants_ranks(mpi: str) -> bool:
    """Whether to look for other ranks, by the setting and by what a launcher says."""
    return mpi == "on" or (mpi == "auto" and launched() is not None)


@contextlib.contextmanager
def joined(timeout: float) -> Iterator[World | None]:
    """The world of this process, None where it is alone; left at the end."""
    world = World.join(timeout)
    try:
        yield world
    finally:
        if world is not None:
            world.leave()


def lead(world: World, work: Callable[[], T]) -> T:
    """What rank 0 does; then the others hear how it has ended."""
    try:
        result = work()
    except BaseException as error:
        world.tell({"do": "end", "code": _exit_code(error), "result": None})
        raise
    world.tell({"do": "end", "code": 0, "result": result})
    return result


def _exit_code(error: BaseException) -> int:
    if isinstance(error, Interrupted):
        return 128 + error.signum
    return error.exit_code if isinstance(error, SymlmError) else 70


def check_settings(config: TrainConfig) -> None:
    """UsageError for what several ranks cannot do."""
    if config.max_time is not None:
        raise UsageError("--max-time is not there with several ranks", "use --max-steps, --epochs or --max-tokens")
