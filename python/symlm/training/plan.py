"""What a training run will take, before it starts: memory, disk and time."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import _symlm
from ..config.engine import model_shape
from ..config.sources import Request
from ..config.train_config import TrainConfig
from ..errors import DataError, UsageError
from ..ranks.division import SECTORS, adapter_payload, payload, rank_sectors
from ..ranks.launch import checked_size, launched, sharing
from ..system.machine import resolve_threads
from ..system.peak import measured_peaks
from ..text.corpus import Sources, cache_dir, vocab_size_with
from ..text.opening import open_objects
from .resources import Disk, Memory, check_fits, disk_of, memory_of
from .schedule import (
    FORWARD_COST,
    IN_F32,
    eval_windows,
    final_eval_windows,
    plan_steps,
    windows_held_out,
    windows_of_epoch,
)
from .session import Session

USUAL_PART_OF_FMA_PEAK = 0.7
USUAL_PART_OF_INTEGER_PEAK = 0.55
"""Parts of the processor's measured peaks that training usually reaches; the time of a plan follows from them. That of
integer products is smaller: attention, norms, loss and optimizer compute in f32 beside them."""

_PACKED = {".gz": 3, ".zst": 3, ".xz": 4, ".bz2": 4, ".parquet": 2}
"""Bytes of text for each byte on disk, of English."""

_SAMPLE_BYTES = 1 << 20
_SHORT_IDS = 1 << 16
"""Vocabularies up to this have ids of two bytes."""

_PEAK_SECONDS = 0.1
_PEAK_ROUNDS = 2


@dataclass(frozen=True)
class Plan:
    """What training will take. Tokens, updates and times are estimates where the text has not been encoded yet."""

    config: TrainConfig
    resumed: bool
    threads: int
    threads_rule: str
    parameters: int
    memory: Memory
    disk: Disk
    text_bytes: int
    tokens: int
    updates: int
    decided_by: str
    seconds_per_update: float
    seconds: float
    peak_name: str = "FMA peak"
    part_of_peak: float = USUAL_PART_OF_FMA_PEAK
    ranks: int = 1
    sent_bytes: int = 0
    """Bytes that one of several ranks sends in an update, the one that sends the most."""

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        memory, disk = self.memory, self.disk
        return {
            "event": "plan",
            "parameters": self.parameters,
            "threads": self.threads,
            "batch_size": self.config.batch_size,
            "memory": {**memory.engine, **memory.beside, **memory.at_end},
            "memory_needed_bytes": memory.needed,
            "memory_available_bytes": memory.available,
            "memory_rule": memory.rule,
            "disk_needed_bytes": disk.needed,
            "disk_free_bytes": disk.free,
            "checkpoints": disk.checkpoints,
            "shard_bytes_about": disk.shard_bytes,
            "tokens_about": self.tokens,
            "updates": self.updates,
            "seconds_per_update_about": self.seconds_per_update,
            "seconds_about": self.seconds,
            "ranks": self.ranks,
            "sent_bytes_per_update": self.sent_bytes,
        }


def make_plan(request: Request) -> Plan:
    """The plan of a training run that is not started: nothing is written, no text is encoded."""
    if "-" in (*request.config.data, *request.config.val_data):
        raise _no_standard_input()
    with Session.open(request, dry=True) as session:
        if "-" in (*session.config.data, *session.config.val_data):
            raise _no_standard_input()
        return _plan_of(session)


def _no_standard_input() -> UsageError:
    return UsageError("--dry-run cannot look into standard input", "name a file")


def _plan_of(session: Session) -> Plan:
    config = session.config
    ranks = _ranks(config)
    threads, rule = resolve_threads(config.threads, sharing() if ranks > 1 else 1)
    sources = session.sources()
    tokenizer = sources.tokenizer
    vocab_size = config.model.vocab_size if tokenizer is None else vocab_size_with(config, tokenizer)
    filled = config.with_model(vocab_size=vocab_size)
    model = filled.model
    tokens = _tokens(sources, vocab_size)
    held = tokens * config.val_split if sources.val is None else 0
    # First, as when training starts: the threads of the measurement take address space that stays taken.
    memory = memory_of(filled, threads, ranks)
    flops = _symlm.flops_per_token(model_shape(model))
    peaks = measured_peaks(threads, _PEAK_SECONDS, _PEAK_ROUNDS, config.precision)
    part = USUAL_PART_OF_FMA_PEAK if peaks.integer is None else USUAL_PART_OF_INTEGER_PEAK
    on_one_rank = config.batch_size * model.seq_len * flops / (peaks.of_run * 1e9 * part)
    per_update = on_one_rank * max(map(len, rank_sectors(ranks))) / SECTORS
    windows = windows_of_epoch(round(tokens - held), model.seq_len)
    val_windows = windows_held_out(round(held), model.seq_len)
    steps = plan_steps(filled, windows, val_windows=val_windows, seconds_per_step=per_update, ranks=ranks)
    left = max(min(steps.max_steps, config.stop_at_step or steps.max_steps) - session.start_step, 0)
    evaluated = eval_windows(config, val_windows) * (left // config.eval_interval if config.eval_interval else 0)
    last = final_eval_windows(config, steps.max_steps, val_windows)
    seconds = per_update * (left + FORWARD_COST * (evaluated + last) / config.batch_size)
    if config.precision != "f32":
        # The last evaluation once more in f32, which one rank does.
        seconds += on_one_rank * IN_F32 * FORWARD_COST * last / config.batch_size
    disk = disk_of(dataclasses.replace(filled, max_steps=steps.max_steps), session.folder, model.parameters)
    short = vocab_size <= _SHORT_IDS and sources.train.data_format == "text"
    shard_bytes = round(tokens) * (2 if short else 4)
    return Plan(
        config=filled,
        resumed=session.state is not None,
        threads=threads,
        threads_rule=rule,
        parameters=model.parameters,
        memory=memory,
        disk=dataclasses.replace(disk, cache=cache_dir(), shard_bytes=shard_bytes),
        text_bytes=sources.train.bytes,
        tokens=round(tokens),
        updates=left,
        decided_by=steps.decided_by,
        seconds_per_update=per_update,
        seconds=seconds,
        peak_name=peaks.name,
        part_of_peak=part,
        ranks=ranks,
        sent_bytes=_sent_bytes(filled, ranks),
    )


def _ranks(config: TrainConfig) -> int:
    """Processes that a launcher says it has started; UsageError for more than a batch has sectors."""
    launch = launched() if config.mpi != "off" else None
    return 1 if launch is None else checked_size(launch)


def _sent_bytes(config: TrainConfig, ranks: int) -> int:
    """Bytes that a rank sends in an update, the one that sends the most."""
    model, batch = config.model, config.batch_size
    if config.lora_rank:
        each = [adapter_payload(model, config.adapted, config.lora_rank, batch, ranks, rank) for rank in range(ranks)]
    else:
        each = [payload(model, batch, ranks, rank) for rank in range(ranks)]
    return round(max(of.total for of in each))


def refuse_what_cannot_fit(plan: Plan) -> None:
    """As `check_fits`, for a plan that was made."""
    check_fits(plan.config, plan.threads, plan.memory, plan.disk, resumed=plan.resumed, ranks=plan.ranks)


def _tokens(sources: Sources, vocab_size: int) -> float:
    """Tokens of the training text, roughly: a larger vocabulary has longer ones."""
    per_token = 0.33 * math.log2(vocab_size) - 0.65
    total = 0.0
    for path in sources.train.paths:
        size = path.stat().st_size
        packed = _PACKED.get(path.suffix.lower(), 1)
        share = _text_share(path) if sources.train.data_format == "completion" else 1.0
        total += size * packed * share
    return total / per_token


def _text_share(path: Path) -> float:
    """The part of the bytes of a file of examples that is text, by its first objects; the rest are names and marks."""
    text = total = 0
    # Unreadable objects are skipped here; preparing the text reports them.
    with contextlib.suppress(DataError, ValueError, KeyError, TypeError, RecursionError):
        objects = iter(open_objects(path, ("prompt", "completion"), _SAMPLE_BYTES))
        for found in objects:
            example = json.loads(found.json)
            text += len((example["prompt"] + example["completion"]).encode("utf-8"))
            total = objects.bytes
            if total >= _SAMPLE_BYTES:
                break
    return text / total if total else 1.0
