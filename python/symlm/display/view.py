"""What a display shows of a running training."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

_HISTORY = 512
_SMOOTHING = 0.05


@dataclass
class View:
    """The state of a training run as the trainer keeps it for the display. Times in seconds, losses in nats per token.

    `final_windows` is not 0 when the validation values are those of the last evaluation, which covers more windows.
    """

    run: str = ""
    origin: str = ""
    parameters: int = 0
    isa: str = ""
    threads: int = 0
    max_steps: int = 1
    step: int = 0
    tokens: int = 0
    loss: float | None = None
    smooth_loss: float | None = None
    val_loss: float | None = None
    val_bpb: float | None = None
    best_bpb: float | None = None
    final_windows: int = 0
    lr: float = 0.0
    grad_norm: float = 0.0
    tok_s: float = 0.0
    peak_frac: float | None = None
    """Share of the peak that `peak_name` names."""
    peak_name: str = "FMA peak"
    busy: list[float] = field(default_factory=list)
    ranks: list[dict[str, Any]] = field(default_factory=list)
    """With several ranks how each spends its time, as in the metrics."""
    slowest_rank: int = 0
    queue: tuple[int, int] = (0, 0)
    elapsed_s: float = 0.0
    eta_s: float | None = None
    sample: str = ""
    history: list[float] = field(default_factory=list)
    _weight: float = 0.0
    _bucket: list[float] = field(default_factory=list)
    _bucket_size: int = 1

    def add_loss(self, loss: float) -> None:
        """Take in the loss of one update: exact, smoothed, and the history for the curve."""
        self.loss = loss
        # The weight makes the mean of the first few updates unbiased.
        previous = 0.0 if self.smooth_loss is None else self.smooth_loss * self._weight
        self._weight = self._weight * (1 - _SMOOTHING) + _SMOOTHING
        self.smooth_loss = (previous * (1 - _SMOOTHING) + loss * _SMOOTHING) / self._weight
        self._bucket.append(loss)
        if len(self._bucket) >= self._bucket_size:
            self.history.append(sum(self._bucket) / len(self._bucket))
            self._bucket.clear()
        if len(self.history) >= _HISTORY:
            self.history = [(a + b) / 2 for a, b in zip(self.history[::2], self.history[1::2], strict=True)]
            self._bucket_size *= 2


@dataclass
class Sums:
    """Sums over a range of updates, such as those since the last line of metrics."""

    began: float = field(default_factory=time.monotonic)
    tokens: int = 0
    seconds: float = 0.0
    busy_s: float = 0.0

    def add(self, tokens: int, seconds: float, busy: list[float]) -> None:
        """Take in one update: its tokens, its wall time, the part of it that each worker spent inside tasks."""
        self.tokens += tokens
        self.seconds += seconds
        self.busy_s += sum(busy) / max(len(busy), 1) * seconds

    @property
    def busy_frac(self) -> float:
        """Wall time inside tasks over wall time of the updates, mean over workers."""
        return self.busy_s / self.seconds if self.seconds > 0 else 0.0

    @property
    def tok_s(self) -> float:
        """Tokens a second since the range began, whatever the time was spent on."""
        seconds = time.monotonic() - self.began
        return self.tokens / seconds if seconds > 0 else 0.0


def ranks_line(ranks: list[dict[str, Any]], slowest: int) -> str:
    """How several ranks spend their time, and the one that the others wait for."""
    slow = ranks[slowest]
    sent = max(of["sent_bytes_per_update"] for of in ranks)
    exchange = max(of["exchange_frac"] for of in ranks)
    waits = " ".join(f"{100 * of['wait_frac']:.0f}" for of in ranks)
    return (
        f"slowest rank {slow['rank']} on {slow['host']}, waiting {waits} %, exchange {100 * exchange:.0f} %, "
        f"{sent / 1e6:.2f} MB an update"
    )


def sparkline(values: list[float], width: int) -> str:
    """A curve of block characters, `width` wide at most."""
    if not values or width < 1:
        return ""
    count = min(width, len(values))
    edges = [i * len(values) // count for i in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    span = (high - low) or 1.0
    return "".join("▁▂▃▄▅▆▇█"[min(int((value - low) / span * 8), 7)] for value in means)
