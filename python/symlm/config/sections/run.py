"""The run folder: what is written there, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from ...units import parse_duration
from ..options import Section, Spec, option
from .length import MAX_STEPS

OnNan = Literal["stop", "rollback", "skip"]


@dataclass(frozen=True, kw_only=True)
class RunSettings(Section):
    """The run folder: what is written there, and when."""

    heading: ClassVar[str] = "run"

    out_dir: str | None = option(
        None, Spec("run folder", "path", free=True, metavar="PATH", default_text="runs/<name of the data>-<preset>")
    )
    resume: str | None = option(
        None,
        Spec(
            "resume a run: auto (fresh start if there is none), last, best, or a run or checkpoint folder",
            "path",
            free=True,
            metavar="auto|last|best|PATH",
        ),
    )
    eval_interval: int = option(
        200, Spec("updates between evaluations; 0: only at the end", "int", low=0, high=MAX_STEPS, free=True)
    )
    eval_batches: int = option(
        20, Spec("batches of held-out windows in an evaluation; 0: all", "int", low=0, high=10**9, free=True)
    )
    save_interval: int | str = option(
        "10m",
        Spec(
            "updates (500) or time (10m) between checkpoints; 0: only at the end",
            "interval",
            low=0,
            high=MAX_STEPS,
            free=True,
            metavar="STEPS|DURATION",
        ),
    )
    keep_last: int = option(2, Spec("checkpoints to keep besides the best", "int", low=1, high=10**6, free=True))
    sample_every: int = option(
        200, Spec("updates between text samples; 0: none", "int", low=0, high=MAX_STEPS, free=True)
    )
    sample_prompt: str = option("", Spec("beginning of the text samples", "str", free=True))
    log_interval: int = option(10, Spec("updates between lines of metrics", "int", low=1, high=MAX_STEPS, free=True))
    hash_interval: int = option(
        200,
        Spec("updates between hashes of the weights in the metrics; 0: none", "int", low=0, high=MAX_STEPS, free=True),
    )
    on_nan: OnNan = option(
        "stop",
        Spec(
            "after an update whose loss or gradient norm is not finite: stop, go back to a checkpoint and leave out "
            "the updates that led there, or carry on without this one",
            "choice",
            choices=get_args(OnNan),
            free=True,
        ),
    )

    @property
    def save_every_steps(self) -> int:
        """Updates between checkpoints, 0 when the interval is a time."""
        return self.save_interval if isinstance(self.save_interval, int) else 0

    @property
    def save_every_seconds(self) -> float | None:
        """Seconds between checkpoints, None when the interval is a number of updates."""
        return parse_duration(self.save_interval) if isinstance(self.save_interval, str) else None
