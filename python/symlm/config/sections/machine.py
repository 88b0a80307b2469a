"""What the machine gives; it changes no bit of the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ..options import Section, Spec, option


@dataclass(frozen=True, kw_only=True)
class MachineSettings(Section):
    """What the machine gives; it changes no bit of the result."""

    heading: ClassVar[str] = "machine"

    threads: int | Literal["auto"] = option(
        "auto", Spec("worker threads", "auto_int", core="threads", free=True, metavar="auto|N")
    )
    mpi: Literal["auto", "on", "off"] = option(
        "auto",
        Spec(
            "several machines: auto joins the processes that mpirun or srun has started, on asks MPI in any case, off "
            "runs alone",
            "choice",
            choices=("auto", "on", "off"),
            free=True,
        ),
    )
    data_from: Literal["own", "rank0"] = option(
        "own",
        Spec(
            "text of the ranks after 0: each host's own files, or the encoded text of rank 0, which travels once",
            "choice",
            choices=("own", "rank0"),
            free=True,
        ),
    )
    rank_timeout: float = option(
        60.0,
        Spec(
            "longest silence of a rank before the others stop",
            "duration",
            takes="a time such as 25s or 10m, from {low} second to {high} seconds",
            low=1,
            high=86_400,
            free=True,
            metavar="DURATION",
        ),
    )
    cross_check: int = option(
        0,
        Spec(
            "every so many updates two ranks compute one sector and compare its bits; 0 for never",
            "int",
            low=0,
            free=True,
        ),
    )
    sectors_in_flight: int | Literal["auto"] = option(
        "auto",
        Spec(
            "sectors of a batch in memory at once (1 to 12): less memory or more freedom, the same bits",
            "auto_int",
            core="sectors_in_flight",
            free=True,
            metavar="auto|N",
        ),
    )
