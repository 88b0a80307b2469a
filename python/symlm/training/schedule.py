"""Limits (updates, epochs, tokens, time) turned once into recorded step numbers."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import _symlm
from ..config.sections import REQUEST_FIELDS
from ..config.train_config import TrainConfig
from ..errors import UsageError
from ..ranks.division import SECTORS, rank_sectors

BUILTIN_STEPS = 600
"""Updates without any limit on the built-in corpus: about a minute with preset tiny on two cores. A count, not a
time, so that the default run is the same run on every machine."""

DEFAULT_LEAST_STEPS, DEFAULT_MOST_STEPS = 500, 5000
"""Without any limit a run does one epoch, kept within these updates: a small text is repeated, a large one is cut."""

WARMUP_STEPS = 100
WARMUP_DIVISOR = 20
FINAL_EVAL_DIVISOR = 10
FORWARD_COST = 1 / 3
"""Time of evaluating a window as a part of the time of training on it."""

IN_F32 = 1.6
"""Time of evaluating in f32 as a multiple of that in int16."""

SAVE_RESERVE = 0.97
"""Part of a time limit that is planned; the rest is for checkpoints, samples and noise."""


@dataclass(frozen=True)
class StepPlan:
    """Step numbers of a run and the limit that decided them."""

    max_steps: int
    warmup_steps: int
    decay_start: int
    decided_by: str


def windows_of_epoch(tokens: int, seq_len: int) -> int:
    """Windows of one pass over a text that is trained on (contract: windows of an epoch): one less than fits, so that
    there is room for the offset of the pass."""
    return max(tokens // seq_len - 1, 1)


def windows_held_out(tokens: int, seq_len: int) -> int:
    """Windows of a text that is evaluated (contract L7): as many as fit, each with the target of its last position."""
    return max((tokens - 1) // seq_len, 0)


def training_windows(shards: _symlm.Shards, seq_len: int) -> int:
    """Windows of one pass over these tokens; examples come in windows already."""
    return windows_of_epoch(shards.tokens, seq_len) if shards.window is None else shards.tokens // shards.window


def evaluation_windows(shards: _symlm.Shards | None, seq_len: int) -> int:
    """Windows of these held-out tokens; 0 without any."""
    if shards is None:
        return 0
    return windows_held_out(shards.tokens, seq_len) if shards.window is None else shards.tokens // shards.window


def eval_windows(config: TrainConfig, available: int) -> int:
    """Held-out windows of an evaluation during training."""
    if config.eval_batches == 0:
        return available
    return min(available, config.eval_batches * config.batch_size)


def final_eval_windows(config: TrainConfig, max_steps: int, available: int) -> int:
    """Held-out windows of the evaluation that ends a run: all, but not more than a tenth of those trained on, so
    that a short run on a long text does not spend its time here. Never fewer than during training."""
    bound = max_steps * config.batch_size // FINAL_EVAL_DIVISOR
    return max(eval_windows(config, available), min(available, bound))


def plan_steps(
    config: TrainConfig,
    windows: int,
    *,
    val_windows: int = 0,
    seconds_per_step: float | None = None,
    seconds_spent: float = 0.0,
    ranks: int = 1,
) -> StepPlan:
    """Resolve the limits of `config` for a text of `windows` windows an epoch. The first limit reached decides.

    `seconds_per_step` is measured and needed only with `max_time`; `seconds_spent` is what measuring took.
    """
    seq_len = config.model.seq_len
    limits: list[tuple[int, str]] = []
    if config.max_steps is not None:
        limits.append((config.max_steps, f"--max-steps {config.max_steps:,}"))
    if config.epochs is not None:
        steps = math.ceil(config.epochs * windows / config.batch_size)
        limits.append((max(steps, 1), f"--epochs {config.epochs:g}"))
    if config.max_tokens is not None:
        steps = math.ceil(config.max_tokens / (config.batch_size * seq_len))
        limits.append((steps, f"--max-tokens {config.max_tokens:,}"))
    if config.max_time is not None and seconds_per_step is not None:
        steps = steps_in_time(config, config.max_time - seconds_spent, seconds_per_step, val_windows, ranks)
        limits.append((steps, f"--max-time {config.max_time:g}s at {seconds_per_step * 1e3:.1f} ms an update"))
    max_steps, decided_by = min(limits) if limits else _default_steps(config, windows)
    return _with_schedule(config, max_steps, decided_by)


def _default_steps(config: TrainConfig, windows: int) -> tuple[int, str]:
    if not config.data:
        return BUILTIN_STEPS, "the default of the built-in corpus"
    epoch = math.ceil(windows / config.batch_size)
    steps = min(max(epoch, DEFAULT_LEAST_STEPS), DEFAULT_MOST_STEPS)
    rule = "one epoch" if steps == epoch else f"the default bounds; an epoch is {epoch:,}"
    return steps, rule


def steps_in_time(
    config: TrainConfig, seconds: float, seconds_per_step: float, val_windows: int, ranks: int = 1
) -> int:
    """Updates that fit into `seconds` together with their evaluations; `seconds_per_step` is that of all ranks."""
    per_window = seconds_per_step / config.batch_size
    cost = seconds_per_step
    if config.eval_interval and val_windows:
        cost += eval_windows(config, val_windows) * per_window * FORWARD_COST / config.eval_interval
    if val_windows:
        seconds -= eval_windows(config, val_windows) * per_window * FORWARD_COST
        last = FORWARD_COST / FINAL_EVAL_DIVISOR
        cost += seconds_per_step * last
        if config.precision != "f32":
            # The same evaluation once more in f32, which one rank does.
            cost += seconds_per_step * SECTORS / max(map(len, rank_sectors(ranks))) * last * IN_F32
    return max(int(seconds * SAVE_RESERVE / cost), 1)


def default_warmup(max_steps: int) -> int:
    """Updates of warm-up when none are asked for."""
    return min(WARMUP_STEPS, max_steps // WARMUP_DIVISOR)


def default_decay_start(config: TrainConfig, max_steps: int, warmup: int) -> int:
    """Update at which the decay begins when none is asked for."""
    return max_steps if config.schedule != "wsd" else max(max_steps - int(config.decay_frac * max_steps + 0.5), warmup)


def pre_decay_step(config: TrainConfig) -> int | None:
    """Updates before the decay of a resolved wsd run: up to there it does not depend on its length."""
    return config.decay_start or None if config.schedule == "wsd" else None


def _with_schedule(config: TrainConfig, max_steps: int, decided_by: str) -> StepPlan:
    warmup = default_warmup(max_steps) if config.warmup_steps is None else config.warmup_steps
    if warmup > max_steps:
        raise UsageError(
            f"--warmup-steps {warmup} is more than the {max_steps} updates of the run ({decided_by})",
            "leave --warmup-steps out: it follows the number of updates",
        )
    decay_start = config.decay_start
    if config.schedule != "wsd":
        decay_start = max_steps
    elif decay_start is None:
        decay_start = default_decay_start(config, max_steps, warmup)
    if not warmup <= decay_start <= max_steps:
        raise UsageError(
            f"--decay-start {decay_start} is not between the warm-up ({warmup}) and the end ({max_steps})",
            "leave --decay-start out: it follows from --decay-frac",
        )
    if config.stop_at_step is not None and config.stop_at_step > max_steps:
        raise UsageError(f"--stop-at-step {config.stop_at_step} is beyond the {max_steps} updates of the run")
    return StepPlan(max_steps, warmup, decay_start, decided_by)


def resolve(config: TrainConfig, plan: StepPlan, vocab_size: int) -> tuple[TrainConfig, dict[str, Any]]:
    """The resolved configuration, in which nothing is left to decide, and what had been asked for."""
    requested = {name: getattr(config, name) for name in REQUEST_FIELDS}
    # What equals the default was not asked for; it may come from the file of another run and must follow new limits.
    if config.warmup_steps == default_warmup(plan.max_steps):
        requested["warmup_steps"] = None
    if config.decay_start == default_decay_start(config, plan.max_steps, plan.warmup_steps):
        requested["decay_start"] = None
    resolved = dataclasses.replace(
        config.with_model(vocab_size=vocab_size),
        max_steps=plan.max_steps,
        warmup_steps=plan.warmup_steps,
        decay_start=plan.decay_start,
        epochs=None,
        max_tokens=None,
        max_time=None,
        tokenizer=None if config.tokenizer is None else _absolute(config.tokenizer),
        chat_template=_absolute_file(config.chat_template),
        data=tuple(map(_absolute, config.data)),
        val_data=tuple(map(_absolute, config.val_data)),
    )
    return resolved, {name: value for name, value in requested.items() if value is not None}


def _absolute_file(path: str | None) -> str | None:
    """The same for what may be a file or a word."""
    return str(Path(path).absolute()) if path is not None and Path(path).is_file() else path


def _absolute(path: str) -> str:
    """The path as a resumed run finds it, which may be started in another folder."""
    return path if path == "-" else str(Path(path).absolute())
