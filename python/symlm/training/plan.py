"""What a training will take, before it starts: memory, disk and time. A plan that cannot fit is refused.

The memory of the engine is the sum of the sizes that it allocates by. What preparing the text takes for a while is not
in here (see the guide).
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import _symlm
from ..config.engine import adapter_parameters, engine_config
from ..config.train_config import TrainConfig
from ..errors import MemoryPlanError, UsageError
from ..layout import BASE, BEST
from ..run.folder import RunFolder
from ..system.machine import gib, resolve_threads
from ..text.corpus import Sources, cache_dir, vocab_size_with
from ..units import count_of
from .initial import take_over
from .opening import locate
from .schedule import FORWARD_COST, eval_windows, final_eval_windows, plan_steps, windows_held_out, windows_of_epoch

FLOAT_BYTES = 4
CHECKPOINT_BYTES = 3 * FLOAT_BYTES
"""A checkpoint holds three floats for each parameter that is trained: its value and its two moments."""

_FEW_CHECKPOINTS = 2
_HORIZON = 1_000_000
_AUTO_SECTORS = 6
"""What `--sectors-in-flight auto` means."""

USUAL_PART_OF_PEAK = 0.7
"""Part of the processor's measured peak that trainings usually reach; the time of a plan follows from it."""

_GZIP_FACTOR = 3
_SAMPLE_BYTES = 1 << 20
_SHORT_IDS = 1 << 16
"""Vocabularies up to this have ids of two bytes."""

_PEAK_SECONDS = 0.1


@dataclass(frozen=True)
class Memory:
    """Bytes of memory: parts of the engine, copies that are held beside it for a while (never two at once), and what
    there is. `process` is what the process holds already."""

    engine: dict[str, int]
    beside: dict[str, int]
    process: int
    available: int | None
    rule: str

    @property
    def needed(self) -> int:
        """Bytes that will be asked of the system."""
        return sum(self.engine.values()) + max(self.beside.values(), default=0)

    @property
    def fits(self) -> bool:
        """Whether there is enough; True where the system does not tell."""
        return self.available is None or self.needed <= self.available


@dataclass(frozen=True)
class Disk:
    """Bytes of disk: checkpoints that will lie side by side, and the encoded text."""

    folder: Path
    checkpoints: int
    checkpoint_bytes: int
    free: int
    cache: Path | None = None
    shard_bytes: int = 0
    base_bytes: int = 0
    """Of the weights that adapters are added to, which the run keeps once."""

    @property
    def needed(self) -> int:
        """Bytes that the run folder will take."""
        return self.checkpoints * self.checkpoint_bytes + self.base_bytes


@dataclass(frozen=True)
class Plan:
    """What a training will take. Tokens, updates and times are estimates where the text has not been encoded yet."""

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

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        memory, disk = self.memory, self.disk
        return {
            "event": "plan",
            "parameters": self.parameters,
            "threads": self.threads,
            "batch_size": self.config.batch_size,
            "memory": {**memory.engine, **memory.beside},
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
        }


def memory_of(config: TrainConfig, threads: int) -> Memory:
    """The memory of a training with a complete configuration."""
    engine, beside = _symlm.memory_plan(json.dumps(engine_config(config, threads, max_steps=_HORIZON)))
    copies = dict(beside)
    if not config.sample_every:
        copies.pop("sampling copy", None)
    available = _symlm.available_memory()
    return Memory(
        engine={name: round(size) for name, size in engine},
        beside={name: round(size) for name, size in copies.items()},
        process=_held(),
        available=None if available is None else available[0],
        rule="" if available is None else available[1],
    )


def disk_of(config: TrainConfig, folder: RunFolder, parameters: int) -> Disk:
    """The disk of a run: checkpoints that are kept, the best one, that at the start of the decay, and the one being
    written, without those that are there already."""
    possible = _FEW_CHECKPOINTS
    if config.max_steps is not None and config.save_every_seconds is None:
        possible = -(-config.max_steps // (config.save_every_steps or config.max_steps))
    best = bool(config.val_data or config.val_split)
    count = min(config.keep_last, possible) + best + (config.schedule == "wsd") + 1
    found = len(folder.steps()) + (folder.path / BEST).is_dir()
    free = shutil.disk_usage(_existing(folder.path)).free
    many = max(count - found, 1)
    if not config.lora_rank:
        return Disk(folder.path, many, CHECKPOINT_BYTES * parameters, free)
    weights = FLOAT_BYTES * parameters
    base = 0 if (folder.path / BASE).is_dir() else weights
    return Disk(folder.path, many, weights + CHECKPOINT_BYTES * adapter_parameters(config), free, base_bytes=base)


def check_fits(config: TrainConfig, threads: int, memory: Memory, disk: Disk, *, resumed: bool) -> None:
    """MemoryPlanError when the memory or the disk cannot hold the training; says what would fit."""
    if not memory.fits:
        raise MemoryPlanError(
            f"training with --batch-size {config.batch_size} needs about {gib(memory.needed)} of memory, "
            f"{gib(memory.available or 0)} are available ({memory.rule})",
            _what_fits(config, threads, memory.available or 0, resumed=resumed),
        )
    if disk.free < disk.needed:
        many = count_of(disk.checkpoints, "checkpoint")
        parameters = config.model().parameters
        raise MemoryPlanError(
            f"{disk.folder}: {gib(disk.free)} free on its disk, {many} of {parameters:,} parameters need "
            f"{gib(disk.needed)}",
            "make room, choose an --out-dir on another disk, a smaller model or a smaller --keep-last",
        )


def _what_fits(config: TrainConfig, threads: int, available: int, *, resumed: bool) -> str:
    """The hint of a plan that does not fit: fewer sectors with the same batch, and the largest batch."""

    def fits(**changes: Any) -> bool:
        changed = dataclasses.replace(config, **changes)
        return memory_of(changed, threads).needed <= available

    asked = _AUTO_SECTORS if config.sectors_in_flight == "auto" else config.sectors_in_flight
    ways = []
    sectors = next((count for count in range(asked - 1, 0, -1) if fits(sectors_in_flight=count)), None)
    if sectors is not None:
        ways.append(f"--sectors-in-flight {sectors} (the same bits)")
    if not resumed:
        batch = largest_batch(config.batch_size - 1, lambda size: fits(batch_size=size))
        if batch is not None:
            ways.append(f"--batch-size {batch}")
        elif sectors is None:
            batch = largest_batch(config.batch_size - 1, lambda size: fits(batch_size=size, sectors_in_flight=1))
            if batch is not None:
                ways.append(f"--batch-size {batch} with --sectors-in-flight 1")
    if ways:
        return f"what fits: {' or '.join(ways)}"
    if resumed:
        return "free some memory, or go on on a machine with more"
    return "no --batch-size fits; choose a smaller --preset or --seq-len"


def largest_batch(most: int, fits: Callable[[int], bool]) -> int | None:
    """The largest size from 1 to `most` for which `fits` holds; None when even 1 does not."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low or None


def make_plan(config: TrainConfig) -> Plan:
    """The plan of a training that is not started: nothing is written, no text is encoded."""
    if "-" in (*config.data, *config.val_data):
        raise UsageError("--dry-run cannot look into standard input", "name a file")
    folder, _ = locate(config)
    if config.resume is None:
        folder.check_new()
    resumed = config.resume is not None and folder.exists
    threads, rule = resolve_threads(config.threads)
    config, initial = take_over(config)
    sources = Sources(config, config.tokenizer if initial is None else initial.files.tokenizer)
    tokenizer = sources.tokenizer
    vocab_size = config.model().vocab_size if tokenizer is None else vocab_size_with(config, tokenizer)
    filled = config.with_model(vocab_size=vocab_size)
    model = filled.model()
    tokens = _tokens(sources, vocab_size)
    held = tokens * config.val_split if sources.val is None else 0
    # First, as where a training starts: the threads of the measurement take address space that stays taken.
    memory = memory_of(filled, threads)
    flops = _symlm.flops_per_token(json.dumps(model.as_dict()))
    peak = max(_symlm.fma_peak(max(min(threads, _symlm.available_cpus()[0]), 1), _PEAK_SECONDS) for _ in range(2))
    per_update = config.batch_size * model.seq_len * flops / (peak * 1e9 * USUAL_PART_OF_PEAK)
    windows = windows_of_epoch(round(tokens - held), model.seq_len)
    val_windows = windows_held_out(round(held), model.seq_len)
    steps = plan_steps(filled, windows, val_windows=val_windows, seconds_per_step=per_update)
    done = max(folder.steps(), default=0) if resumed else 0
    left = max(min(steps.max_steps, config.stop_at_step or steps.max_steps) - done, 0)
    evaluated = eval_windows(config, val_windows) * (left // config.eval_interval if config.eval_interval else 0)
    evaluated += final_eval_windows(config, steps.max_steps, val_windows)
    seconds = per_update * (left + FORWARD_COST * evaluated / config.batch_size)
    disk = disk_of(dataclasses.replace(filled, max_steps=steps.max_steps), folder, model.parameters)
    short = vocab_size <= _SHORT_IDS and sources.train.data_format == "text"
    shard_bytes = round(tokens) * (2 if short else 4)
    return Plan(
        config=filled,
        resumed=resumed,
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
    )


def refuse_what_cannot_fit(plan: Plan) -> None:
    """As `check_fits`, for a plan that was made."""
    check_fits(plan.config, plan.threads, plan.memory, plan.disk, resumed=plan.resumed)


def _tokens(sources: Sources, vocab_size: int) -> float:
    """Tokens of the training text, roughly: a larger vocabulary has longer ones."""
    per_token = 0.33 * math.log2(vocab_size) - 0.65
    total = 0.0
    for path in sources.train.paths:
        size = path.stat().st_size
        packed = path.suffix.lower() == ".gz"
        share = 1.0 if sources.train.data_format == "text" else _text_share(path, packed)
        total += size * (_GZIP_FACTOR if packed else 1) * share
    return total / per_token


def _text_share(path: Path, packed: bool) -> float:
    """The part of the bytes of a file of examples that is text, by its first lines; the rest are names and marks."""
    text = total = 0
    # A line that cannot be read is found out, and told, when all of them are.
    unreadable = contextlib.suppress(OSError, EOFError, ValueError, KeyError, TypeError, RecursionError)
    with unreadable, gzip.open(path) if packed else path.open("rb") as file:
        for line in filter(bytes.strip, file.readlines(_SAMPLE_BYTES)):
            example = json.loads(line)
            text += len((example["prompt"] + example["completion"]).encode("utf-8"))
            total += len(line)
    return text / total if total else 1.0


def _held() -> int:
    """Bytes of memory that the process holds now; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGESIZE")


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    absolute = path.absolute()
    return next(folder for folder in (absolute, *absolute.parents) if folder.exists())
