"""The memory and the disk that a training run takes. What cannot fit is refused before it starts.

The memory of the engine is the sum of the sizes that it allocates by. What preparing the text takes for a while is not
in here (see the guide).
"""

from __future__ import annotations

import dataclasses
import mmap
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import _symlm
from ..config.engine import engine_settings
from ..config.train_config import TrainConfig
from ..errors import MemoryPlanError
from ..layout import BASE, BEST
from ..ranks.division import SECTORS
from ..run.folder import RunFolder
from ..system.machine import gib
from ..units import count_of

FLOAT_BYTES = 4
CHECKPOINT_BYTES = 3 * FLOAT_BYTES
"""A checkpoint holds three floats for each parameter that is trained: its value and its two moments."""

_FEW_CHECKPOINTS = 2
_HORIZON = 1_000_000


@dataclass(frozen=True)
class Memory:
    """Bytes of memory: parts of the engine, copies that are held beside it for a while (never two at once), what takes
    its place at the end, and what there is. `process` is what the process holds already."""

    engine: dict[str, int]
    beside: dict[str, int]
    at_end: dict[str, int]
    process: int
    available: int | None
    rule: str

    @property
    def needed(self) -> int:
        """Bytes that will be asked of the system."""
        return max(sum(self.engine.values()) + max(self.beside.values(), default=0), sum(self.at_end.values()))

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


def memory_of(config: TrainConfig, threads: int, ranks: int = 1) -> Memory:
    """The memory of a training run with a complete configuration, that of the first of so many ranks."""
    plan = _symlm.memory_plan(engine_settings(config, threads, max_steps=_HORIZON, ranks=ranks))
    copies = {part.name: part.bytes for part in plan.beside}
    if not config.sample_every:
        copies.pop("sampling copy", None)
    if ranks > 1 and config.cross_check:
        copies["cross-check"] = _engine_bytes(dataclasses.replace(config, sectors_in_flight=1), threads, SECTORS)
    at_end = {}
    if config.precision != "f32" and (config.val_data or config.val_split):
        in_f32 = dataclasses.replace(config, precision="f32", sectors_in_flight=1)
        at_end["evaluation in f32"] = round(_engine_bytes(in_f32, threads, 1))
    available = _symlm.available_memory()
    return Memory(
        engine={part.name: round(part.bytes) for part in plan.engine},
        beside={name: round(size) for name, size in copies.items()},
        at_end=at_end,
        process=_held(),
        available=None if available is None else available.bytes,
        rule="" if available is None else available.rule,
    )


def _engine_bytes(config: TrainConfig, threads: int, ranks: int) -> float:
    """Bytes of an engine that computes something beside the updates of the run."""
    plan = _symlm.memory_plan(engine_settings(config, threads, max_steps=_HORIZON, ranks=ranks))
    return sum(part.bytes for part in plan.engine)


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
    return Disk(folder.path, many, weights + CHECKPOINT_BYTES * config.adapter_parameters, free, base_bytes=base)


def check_fits(config: TrainConfig, threads: int, memory: Memory, disk: Disk, *, resumed: bool, ranks: int = 1) -> None:
    """MemoryPlanError when the memory or the disk cannot hold the training; says what would fit."""
    if not memory.fits:
        raise MemoryPlanError(
            f"training with --batch-size {config.batch_size} needs about {gib(memory.needed)} of memory, "
            f"{gib(memory.available or 0)} are available ({memory.rule})",
            _what_fits(config, threads, memory.available or 0, resumed=resumed, ranks=ranks),
        )
    if disk.free < disk.needed:
        many = count_of(disk.checkpoints, "checkpoint")
        parameters = config.model.parameters
        raise MemoryPlanError(
            f"{disk.folder}: {gib(disk.free)} free on its disk, {many} of {parameters:,} parameters need "
            f"{gib(disk.needed)}",
            "make room, choose an --out-dir on another disk, a smaller model or a smaller --keep-last",
        )


def check_resources(config: TrainConfig, folder: RunFolder, threads: int, *, resumed: bool, ranks: int = 1) -> None:
    """As `check_fits`, for the memory and the disk that there are now."""
    disk = disk_of(config, folder, config.model.parameters)
    check_fits(config, threads, memory_of(config, threads, ranks), disk, resumed=resumed, ranks=ranks)


def _what_fits(config: TrainConfig, threads: int, available: int, *, resumed: bool, ranks: int) -> str:
    """The hint of a plan that does not fit: fewer sectors with the same batch, and the largest batch."""

    def fits(**changes: Any) -> bool:
        changed = dataclasses.replace(config, **changes)
        return memory_of(changed, threads, ranks).needed <= available

    asked = _symlm.AUTO_SECTORS if config.sectors_in_flight == "auto" else config.sectors_in_flight
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
        return "free some memory, or resume on a machine with more"
    return "no --batch-size fits; choose a smaller --preset or --seq-len"


def largest_batch(most: int, fits: Callable[[int], bool]) -> int | None:
    """The largest size from 1 to `most` for which `fits` holds; None when even 1 does not."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low or None


def _held() -> int:
    """Bytes of memory that the process holds now; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * mmap.PAGESIZE
    except (OSError, ValueError, IndexError):
        return 0


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    absolute = path.absolute()
    return next(folder for folder in (absolute, *absolute.parents) if folder.exists())
