"""The life of a world: joined where a launcher started several processes, left however the run ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ..config.train_config import SPECS, TrainConfig
from ..errors import InternalError, exit_code_of
from ..system.signals import StopSignals
from .failures import failure_of
from .launch import checked_size, is_command, launched
from .world import World


def wants_ranks(mpi: str) -> bool:
    """Whether to look for other ranks, by the setting and by what a launcher says. UsageError for too many."""
    launch = None if mpi == "off" else launched()
    if launch is not None:
        checked_size(launch)
    return mpi == "on" or launch is not None


@contextlib.contextmanager
def joined(config: TrainConfig, signals: StopSignals) -> Iterator[World | None]:
    """The world of this process, None where it is alone; left at the end. `config` is what it was started with."""
    world = World.join(config.rank_timeout, asked_for(config), signals)
    try:
        yield world
    finally:
        if world is not None:
            world.leave()


def asked_for(config: TrainConfig) -> dict[str, Any]:
    """The settings that have to be the same on all ranks: those that a resumed run cannot change. Where rank 0 finds
    the model to begin from is its affair."""
    return {name: value for name, value in config.values().items() if not SPECS[name].free and name != "init_from"}


@contextlib.contextmanager
def leading(world: World) -> Iterator[None]:
    """Around what rank 0 does: when that fails the others hear of it, whatever they wait for."""
    try:
        yield
    except BaseException as error:
        if world.busy:
            # They are in an update that this rank does not finish.
            world.fail(failure_of(world, world.rank, error))
        else:
            world.tell({"do": "end", "code": _code_of(error)})
        raise


def _code_of(error: BaseException) -> int:
    """The exit code of the other ranks: the table's for a command, 1 for an error that a program did not catch."""
    code = exit_code_of(error)
    return 1 if code == InternalError.exit_code and not isinstance(error, InternalError) and not is_command() else code
