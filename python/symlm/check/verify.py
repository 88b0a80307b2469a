"""A range of updates computed again and compared with all that the run recorded of it: `symlm verify`.

Nothing is written to the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .. import _symlm
from ..config.train_config import Progress
from ..display import Display, make_display
from ..errors import UserError
from ..layout import OPTIMIZER, WEIGHTS
from ..run import checkpoint
from ..system.files import file_hash
from ..system.machine import resolve_threads
from ..training.opening import AUTO
from ..units import whole_number
from .replay import NUMBERS, Begin, Recorded, Replay, Source, Update, compare

DEFAULT_STEPS = 50
"""Updates that `symlm verify` computes again when none are asked for."""

START = "start"

WEIGHTS_HASH, WEIGHTS_FILE, MOMENTS_FILE = (
    "weights, by their hash",
    "weights of a checkpoint",
    "moments of a checkpoint",
)


@dataclass
class Verified:
    """Outcome of `verify`: by what was compared, how often it was, and how often it was equal."""

    begin: Begin
    steps: int
    threads: int
    isa: str
    compared: dict[str, int] = field(default_factory=dict)
    equal: dict[str, int] = field(default_factory=dict)
    difference: str | None = None

    def add(self, what: str, problem: str | None) -> None:
        """Note one comparison; the first difference counts."""
        self.compared[what] = self.compared.get(what, 0) + 1
        self.equal[what] = self.equal.get(what, 0) + (problem is None)
        self.difference = self.difference or problem


def verify(
    run: str | Path,
    *,
    steps: int = DEFAULT_STEPS,
    start: str = AUTO,
    data: Sequence[str] = (),
    threads: int | Literal["auto"] = "auto",
    progress: Progress = "auto",
) -> Verified:
    """Compute `steps` updates again and compare them with what the run recorded, up to the first difference.

    `start` is a step that has a checkpoint, `start` for the initial weights, or `auto`: the newest checkpoint with
    `steps` recorded steps after it, else the initial weights.
    """
    source = Source(run, data)
    count, _ = resolve_threads(threads)
    display = make_display(progress)
    try:
        begin = _begin_at(source, start, steps, display)
        end = min(begin.step + steps, source.recorded.last)
        if end <= begin.step:
            raise UserError(
                f"{source.path}: nothing is recorded after step {begin.step:,}", "begin earlier with --from"
            )
        prepared = source.prepare(count, display)
        files = {other.step: other.folder for other in source.checkpoints() if begin.step < other.step <= end}
        hashes = {step: digest for step, digest in source.recorded.hashes.items() if begin.step < step <= end}
        move = display.task("computing again")
        with Replay(source, begin, prepared, count) as again:
            result = Verified(begin, end - begin.step, count, again.engine.isa)
            for done in again.updates(end, pauses=[*files, *hashes]):
                step = done.step if isinstance(done, Update) else done
                if isinstance(done, Update):
                    _check_numbers(result, source.recorded, done)
                if step in hashes:
                    found = again.engine.weights_sha256()
                    known = hashes[step]
                    result.add(WEIGHTS_HASH, _unequal(f"step {step}: sha256 of the weights", found, known))
                folder = files.get(step)
                if folder is not None:
                    _check_files(result, again.engine, folder)
                if result.difference is not None:
                    break
                move(step - begin.step, end - begin.step)
    finally:
        display.close()
    if not result.compared:
        raise UserError(
            f"{source.path}: nothing is recorded of the steps {begin.step + 1:,} to {end:,}",
            "choose more --steps, or train with a smaller --log-interval",
        )
    return result


def _begin_at(source: Source, start: str, steps: int, display: Display) -> Begin:
    if start == START:
        return Begin()
    if start == AUTO:
        return source.newest(source.recorded.last - steps, display)
    step = whole_number(start)
    if step is not None:
        for begin in source.checkpoints():
            if begin.step == step and begin.folder is not None:
                checkpoint.usable(begin.folder)
                return begin
    there = ", ".join(str(begin.step) for begin in source.checkpoints()) or "none"
    raise UserError(f"--from {start[:80]}: no such checkpoint", f"start, auto, or one of the steps: {there}")


def _check_numbers(result: Verified, recorded: Recorded, update: Update) -> None:
    compared = compare(recorded, update)
    if compared is None:
        return
    for name in NUMBERS.values():
        problem = next((text for text in compared if text.startswith(name)), None)
        result.add(name, problem and f"step {update.step}: {problem}")


def _check_files(result: Verified, engine: _symlm.Engine, folder: Path) -> None:
    """Compare the state with the files of a checkpoint, which are read for it."""
    for what, name, found in (
        (WEIGHTS_FILE, WEIGHTS, engine.weights_sha256()),
        (MOMENTS_FILE, OPTIMIZER, engine.moments_sha256()),
    ):
        path = folder / name
        known = file_hash(path) if path.is_file() else "nothing"
        result.add(what, _unequal(f"{path}: sha256", found, known))


def _unequal(what: str, found: str, known: str) -> str | None:
    return None if found == known else f"{what} {found[:16]}.., recorded {known[:16]}.."
