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
