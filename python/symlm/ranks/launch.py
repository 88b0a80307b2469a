"""Whether this process was started by a launcher of MPI, by its environment alone: nothing is imported for it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from ..errors import SymlmError, UsageError
from ..system.calls import allowed_cpus
from .division import MOST_RANKS

_LAUNCHERS = (
    ("Open MPI", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("MPICH or Intel MPI", "PMI_SIZE", "PMI_RANK"),
    # What a job script sees has SLURM_NTASKS too; only what srun starts is a step of several tasks.
    ("SLURM", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
)


_HERE = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_STEP_TASKS_PER_NODE")
"""Where a launcher says how many processes it has started on this host."""


@dataclass(frozen=True)
class Launch:
    """What a launcher says of this process."""

    launcher: str
    size: int
    rank: int


SWITCH = "SYMLM_MPI"
"""`off` in this variable: every process runs alone, whatever has started it, and whichever command it runs."""

_is_command = False

_TURN_S = 1.0
"""Time for the first process to say what all find, before the launcher ends it because another one has ended."""


def launched(environ: Mapping[str, str] | None = None) -> Launch | None:
    """The launcher's word that there are several processes; None where there is one, no launcher, or the switch.

    The first launcher that says a size counts: what it started as one process is one, whatever started the launcher.
    """
    environ = os.environ if environ is None else environ
    if environ.get(SWITCH, "").strip().lower() == "off":
        return None
    for name, size, rank in _LAUNCHERS:
        found, number = _number(environ.get(size)), _number(environ.get(rank))
        if found is not None and number is not None:
            return Launch(name, found, number) if found > 1 else None
    return None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 10 else None


def here(environ: Mapping[str, str] | None = None) -> int:
    """Processes that a launcher has started on this host, this one included; 1 where it does not say."""
    environ = os.environ if environ is None else environ
    if launched(environ) is None:
        return 1
    for name in _HERE:
        # SLURM writes 2(x3) where three hosts have two each.
        found = _number(environ.get(name, "").partition("(")[0].partition(",")[0])
        if found is not None:
            return max(found, 1)
    return 1


def sharing(environ: Mapping[str, str] | None = None) -> int:
    """What `World.sharing` is going to be, as far as one process can tell: ranks of a host may use the same processors,
    unless the launcher has bound this one to some of them, and then each to others."""
    cpus = allowed_cpus()
    bound = cpus is not None and len(cpus) < (os.cpu_count() or 1)
    return 1 if bound else here(environ)


def begin_command() -> None:
    """Say that this process runs a command of symlm, and nothing of anybody else."""
    global _is_command  # noqa: PLW0603 - it is one process
    _is_command = True


def is_command() -> bool:
    """Whether this process runs a command; else it is a program that uses symlm."""
    return _is_command


def describe() -> str:
    """What there is to say of this process, for `symlm doctor`."""
    launch = launched()
    if launch is not None:
        return f"rank {launch.rank} of {launch.size}, started by {launch.launcher} ({SWITCH}=off turns ranks off)"
    return f"off ({SWITCH}=off)" if os.environ.get(SWITCH, "").strip().lower() == "off" else "one process"


def idle_rank() -> bool:
    """Whether this process is one of several and not the first: of what one process does it has nothing to do."""
    launch = launched()
    return launch is not None and launch.rank > 0


def refuse_several(command: str) -> None:
    """UsageError where a command that runs as one process is started as several; only the first says so."""
    launch = launched()
    if launch is not None:
        refuse(
            launch,
            UsageError(
                f"{command} runs as one process, found {launch.size} started by {launch.launcher}",
                f"start it without mpirun, or with {SWITCH}=off if each is to run alone; train, finetune and eval take "
                "several processes",
            ),
        )


def refuse(launch: Launch, error: SymlmError) -> NoReturn:
    """Raise what all processes find: the first one says it, and the others end after it has."""
    if launch.rank == 0:
        raise error
    time.sleep(_TURN_S)
    raise SystemExit(error.exit_code)


def checked_size(launch: Launch) -> int:
    """The number of processes; UsageError for more than a batch has sectors."""
    if launch.size > MOST_RANKS:
        refuse(launch, too_many(launch.size))
    return launch.size


def too_many(size: int) -> UsageError:
    """The error for more ranks than sectors."""
    return UsageError(f"found {size} ranks, expected 1 to {MOST_RANKS}", f"mpirun -n {MOST_RANKS} at most")
