"""How long the training run is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...errors import UsageError
from ..options import Section, Spec, option

MAX_STEPS = 10**9


@dataclass(frozen=True, kw_only=True)
class LengthSettings(Section):
    """How long the training run is."""

    heading: ClassVar[str] = "length"

    max_steps: int | None = option(
        None,
        Spec(
            "updates to do; may be combined with the other limits, the first reached ends the run",
            "int",
            low=1,
            high=MAX_STEPS,
            default_text="600 without a PATH, else one epoch but 500 to 5,000 updates",
        ),
    )
    epochs: float | None = option(None, Spec("passes over the training tokens", "float", above=0.0, high=1e6))
    max_tokens: int | None = option(None, Spec("training tokens to see, such as 10M", "int", low=1, high=10**15))
    max_time: float | None = option(
        None,
        Spec(
            "time for training, such as 25s, 10m or 2h; measured once and turned into a number of updates",
            "duration",
            above=0.0,
            high=1e9,
            metavar="DURATION",
        ),
    )
    stop_at_step: int | None = option(
        None,
        Spec("save after this update and leave; the schedule is not changed", "int", low=1, high=MAX_STEPS, free=True),
    )
    extend_steps: int | None = option(
        None,
        Spec(
            "updates to add to a finished wsd run: it resumes from before its decay, as if started with more updates",
            "int",
            low=1,
            high=MAX_STEPS,
            free=True,
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        last = None if self.max_steps is None else self.max_steps + (self.extend_steps or 0)
        if self.stop_at_step is not None and last is not None and self.stop_at_step > last:
            raise UsageError(
                f"--stop-at-step {self.stop_at_step} is beyond --max-steps {last}",
                f"choose at most {last}, or raise --max-steps",
            )
