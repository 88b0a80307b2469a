"""Whether this process was started by a launcher of MPI, by its environment alone: nothing is imported for it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import UsageError

_LAUNCHERS = (
    ("Open MPI", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("MPICH or Intel MPI", "PMI_SIZE", "PMI_RANK"),
    # What a job script sees has SLURM_NTASKS too; only what srun starts is a step of several tasks.
    ("SLURM", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
)


@dataclass(frozen=True)
class Launch:
    """What a launcher says of this process."""

    launcher: str
    size: int
    rank: int


def launched(environ: Mapping[str, str] | None = None) -> Launch | None:
    """The launcher's word that there are several processes; None where there is one, or no launcher."""
    environ = os.environ if environ is None else environ
    for name, size, rank in _LAUNCHERS:
        found, number = environ.get(size, ""), environ.get(rank, "")
        if found.isascii() and found.isdigit() and number.isascii() and number.isdigit() and int(found) > 1:
            return Launch(name, int(found), int(number))
    return None


def idle_rank() -> bool:
    """Whether this process is one of several and not the first: of what one process does it has nothing to do."""
    launch = launched()
    return launch is not None and launch.rank > 0


def refuse_several(command: str) -> None:
    """UsageError where a command that runs as one process is started as several; only the first says so."""
    launch = launched()
    if launch is not None and launch.rank > 0:
        raise SystemExit(UsageError.exit_code)
    if launch is not None:
        raise UsageError(
            f"{command} runs as one process, found {launch.size} started by {launch.launcher}",
            "start it without mpirun; train, finetune and eval take several processes",
        )
