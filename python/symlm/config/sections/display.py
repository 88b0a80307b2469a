"""What shows a run while it is under way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from ..options import Section, Spec, option

Progress = Literal["auto", "rich", "plain", "json", "off"]


@dataclass(frozen=True, kw_only=True)
class DisplaySettings(Section):
    """What shows a run while it is under way."""

    heading: ClassVar[str] = "run"

    progress: Progress = option(
        "auto",
        Spec(
            "display on standard error: live view, plain lines, json lines, or none",
            "choice",
            choices=get_args(Progress),
            free=True,
        ),
    )
    tensorboard: str | None = option(
        None,
        Spec(
            "write event files for TensorBoard into this folder; auto: into the run folder",
            "path",
            free=True,
            metavar="auto|PATH",
        ),
    )
    trace: str | None = option(
        None,
        Spec(
            "file for a recording of the first updates after 3 of warm-up (at most 20 updates or 200,000 tasks), which "
            "ui.perfetto.dev opens",
            "path",
            free=True,
            metavar="PATH",
        ),
    )
