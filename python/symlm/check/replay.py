"""Updates of a run computed again and compared with what the run recorded: `symlm replay`, and for `verification`.

Nothing is written to the run. It needs the text of the run, unchanged, as resuming does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .. import _symlm
from ..config.engine import engine_settings, made_from
from ..config.train_config import Progress, TrainConfig
from ..display import Display, make_display
from ..errors import DataError, InternalError, SymlmError, UserError
from ..layout import BEST, METRICS, TOKENIZER
from ..run import adapters, checkpoint
from ..run.checkpoint import State
from ..run.folder import RunFolder
from ..run.metrics import plain, read_lines
from ..system.machine import resolve_threads
from ..text.conversations import ChatSettings, stored_template
from ..text.corpus import Prepared, Sources, ensure_cache_dir
from ..training.bundle import Findings, bundle_path
from ..training.initial import Initial
from ..training.nan_policy import NanPolicy, computed, merged, ranges_of
from ..training.opening import check_input, check_made_from, check_text
from ..training.saving import Writing, start_saving, write_checkpoint

POLL_S = 0.1
NUMBERS = {"loss": "loss", "grad_norm": "gradient norm", "lr": "learning rate"}
"""Fields of a line of metrics that a replay has too, and their names."""


@dataclass
class Recorded:
    """What the metrics of a run say about its steps."""

    train: dict[int, dict[str, Any]] = field(default_factory=dict)
    failed: dict[int, dict[str, Any]] = field(default_factory=dict)
    hashes: dict[int, str] = field(default_factory=dict)
    left_out: list[tuple[int, int]] = field(default_factory=list)
    version: str | None = None
    last: int = 0

    @classmethod
    def read(cls, path: Path) -> Recorded:
        """Read the file; lines that are not of the form are left out."""
        found = cls()
        for record in read_lines(path):
            kind, step = record.get("event"), record.get("step")
            if not isinstance(step, int):
                continue
            if kind == "train":
                found.train[step] = record
            elif kind == "nan" and record.get("of") == "update":
                found.failed[step] = record
            elif kind == "hash" and isinstance(record.get("weights_sha256"), str):
                found.hashes[step] = record["weights_sha256"]
            elif kind == "rollback":
                found.left_out += ranges_of(record)
            elif kind in ("start", "resume"):
                found.version = record.get("version")
            if kind in ("train", "hash", "eval", "save", "end"):
                found.last = max(found.last, step)
        return found


@dataclass(frozen=True)
class Begin:
    """Where a replay begins: a checkpoint with its state, or the initial weights of the run."""

    folder: Path | None = None
    state: State | None = None

    @property
    def step(self) -> int:
        """Updates done there."""
        return 0 if self.state is None else self.state.step

    @property
    def left_out(self) -> list[tuple[int, int]]:
        """The updates that were left out up to there, or will be."""
        if self.state is None or self.folder is None:
            return []
        return NanPolicy.restore("skip", self.state.trainer, self.folder).left_out

    def __str__(self) -> str:
        return "the initial weights" if self.folder is None else str(self.folder)


@dataclass(frozen=True)
class Update:
    """An update that was computed again."""

    step: int
    loss: float
    grad_norm: float
    lr: float
    applied: bool

    def differences(self, record: dict[str, Any]) -> list[str]:
        """What is not, bit for bit, what a line of metrics says."""
        pairs = ((name, plain(getattr(self, name)), record.get(name)) for name in NUMBERS)
        return [
            f"{NUMBERS[name]} {found!r}, recorded {known!r}" for name, found, known in pairs if not _same(found, known)
        ]


def _same(found: Any, known: Any) -> bool:
    """Equal numbers of equal sign; values that are not finite are text in the metrics."""
    return type(found) is type(known) and repr(found) == repr(known)


class Source:
    """A run that is only read: its configuration, its metrics, its checkpoints, its text once it is prepared."""

    def __init__(self, run: str | Path, data: Sequence[str] = ()) -> None:
        self.folder = RunFolder(run)
        self.path = self.folder.path
        if not self.folder.exists:
            raise UserError(f"{self.path}: no run there", "give a run folder, such as runs/my-3m")
        values = self.folder.stored().values
        config = TrainConfig(**{**values, "data": tuple(data) or values.get("data", ())})
        check_input(self.folder, config.data, "pipe it in again, or name it with --data")
        if config.val_data:
            # Held-out text that was given separately is not trained on.
            config = dataclasses.replace(config, val_data=(), val_split=0.0)
        self.config = config
        self.recorded = Recorded.read(self.path / METRICS)

    def prepare(self, threads: int, display: Display) -> Prepared:
        """The tokens, checked to be those of the run."""
        tokenizer = self.path / TOKENIZER
        if not tokenizer.is_file():
            raise UserError(f"{tokenizer}: missing from the run", "without it the text cannot be encoded again")
        # What is wrong with the cache is not wrong with the text.
        ensure_cache_dir()
        try:
            sources = Sources(self.config, tokenizer)
            template = stored_template(self.path, self.folder.environment())
            if template is not None:
                sources.chat = ChatSettings(template, self.config.train_on, self.config.add_tokens)
            prepared = sources.prepare(threads, display)
        except (UserError, DataError) as error:
            raise type(error)(
                f"the text of {self.path} is needed again: {error.message}",
                "name the same files with --data where they have moved",
            ) from None
        check_text(self.folder, None, prepared, ["train_sha256"])
        return prepared

    def checkpoints(self) -> list[Begin]:
        """Checkpoints to begin from, by step ascending; those of which the state cannot be read, or which hold updates
        that the run left out later, are not among them. Their files are not checked yet."""
        paths = [self.folder.checkpoint_path(step) for step in self.folder.steps()]
        if (self.path / BEST).is_dir():
            paths.append(self.path / BEST)
        found = []
        for path in paths:
            with contextlib.suppress(SymlmError):
                begin = Begin(path, State.read(path))
                if not computed(self.recorded.left_out, begin.left_out, begin.step):
                    found.append(begin)
        return sorted(found, key=lambda begin: begin.step)

    def newest(self, limit: int, display: Display) -> Begin:
        """The newest whole checkpoint up to step `limit`, else the initial weights."""
        for begin in reversed(self.checkpoints()):
            if begin.step > limit or begin.folder is None:
                continue
            try:
                checkpoint.usable(begin.folder)
            except SymlmError as error:
                display.warning(f"{error.message}; beginning from an older checkpoint")
            else:
                return begin
        return Begin()

    def left_out(self, begin: Begin) -> NanPolicy:
        """The updates that the run left out."""
        return NanPolicy("skip", merged([*begin.left_out, *self.recorded.left_out]))


class Replay:
    """An engine that computes updates of a run again, from one place on. Close it, or use it in a `with`."""

    def __init__(self, source: Source, begin: Begin, prepared: Prepared, threads: int) -> None:
        self.begin = begin
        self.left_out = source.left_out(begin)
        self.prepared = prepared
        self.settings = engine_settings(source.config, threads)
        self.tokens = 0 if begin.state is None else int(begin.state.trainer.get("tokens", 0))
        self.engine = _symlm.Engine(self.settings, prepared.train)
        try:
            lora = self.settings.train.lora is not None
            if lora:
                adapters.load_base(source.path, self.engine)
            if begin.folder is not None and begin.state is not None:
                self.engine.load(str(begin.folder), begin.state.engine_state(begin.folder))
            elif lora:
                adapters.check_base(
                    source.path, (begin.state for begin in source.checkpoints() if begin.state is not None)
                )
            elif (initial := Initial.of_run(source.config, RunFolder(source.path))) is not None:
                initial.load(self.engine)
            if self.engine.step != begin.step:
                raise InternalError(f"{begin}: holds step {self.engine.step}, the trainer state says {begin.step}")
        except BaseException:
            self.engine.close()
            raise

    def __enter__(self) -> Replay:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()

    def updates(self, end: int, pauses: Sequence[int] = (), *, compute: int | None = None) -> Iterator[Update | int]:
        """Updates up to step `end`; a number is the step of one that is left out. At the steps in `pauses` the engine
        has gone no further. `compute` is computed even if the run left it out. One whose numbers are not finite is not
        applied; when it is the last one, the engine stays before it."""
        step = self.begin.step
        stops = sorted({*pauses, end})
        while step < end:
            if self.left_out.leaves_out(step + 1) and step + 1 != compute:
                self.engine.pass_over()
                step += 1
                yield step
                continue
            target = self.left_out.bound(step + 1, next(stop for stop in stops if stop > step))
            self.engine.run_until(target)
            while step < target:
                report = self.engine.poll(POLL_S)
                if report is None:
                    continue
                step = report.step
                applied = self.engine.step >= step
                if not applied and step < end:
                    self.engine.pass_over()
                self.tokens += report.tokens if applied else 0
                yield Update(step, report.loss, report.grad_norm, report.lr, applied)
                if not applied:
                    break

    def save(self, folder: Path, source: Source) -> None:
        """Write the state as a checkpoint that generates and evaluates by itself."""

        trainer = {"step": self.engine.step, "tokens": self.tokens, "elapsed_s": 0.0, "best_step": None}

        def start(temporary: Path) -> tuple[Writing, State]:
            shutil.copyfile(source.path / TOKENIZER, temporary / TOKENIZER)
            return start_saving(self.engine, trainer, self.settings, source.path)(temporary)

        write_checkpoint(folder, source.config.model.to_hf(), start)


@dataclass(frozen=True)
class Line:
    """An update of a replay: `compared` is None when the run recorded nothing about it, else what differs."""

    update: Update
    compared: list[str] | None


@dataclass(frozen=True)
class Replayed:
    """Outcome of `replay`. `findings` is there when the last update was not finite."""

    begin: Begin
    lines: list[Line]
    findings: Findings | None = None

    @property
    def difference(self) -> str | None:
        """The first thing that is not as recorded."""
        for line in self.lines:
            if line.compared:
                return f"step {line.update.step}: {'; '.join(line.compared)}"
        return None


def replay(
    run: str | Path,
    step: int,
    *,
    out: str | None = None,
    data: Sequence[str] = (),
    threads: int | Literal["auto"] = "auto",
    progress: Progress = "auto",
) -> Replayed:
    """Compute the update after which `step` are done again, from the bundle of that step, else from the newest
    checkpoint before it; with `out`, write the state after it there."""
    source = Source(run, data)
    if not 1 <= step <= (source.config.max_steps or 1):
        raise UserError(f"--step {step}: the run has the steps 1 to {source.config.max_steps:,}")
    if out is not None and Path(out).exists():
        raise UserError(f"--out {out}: exists already", "name a folder that does not exist yet")
    count, _ = resolve_threads(threads)
    display = make_display(progress)
    try:
        begin = _begin_of(source, step, display)
        prepared = source.prepare(count, display)
        display.message(f"from {begin} (step {begin.step:,}) to step {step:,}")
        move = display.task("computing again")
        lines: list[Line] = []
        with Replay(source, begin, prepared, count) as again:
            for done in again.updates(step, compute=step):
                if isinstance(done, Update):
                    lines.append(Line(done, compare(source.recorded, done)))
                move((done.step if isinstance(done, Update) else done) - begin.step, step - begin.step)
            findings = None if lines[-1].update.applied else Findings.of(again.engine)
            if out is not None:
                again.save(Path(out), source)
    finally:
        display.close()
    return Replayed(begin, lines, findings)


def _begin_of(source: Source, step: int, display: Display) -> Begin:
    own = bundle_path(source.path, step)
    if own.is_dir():
        try:
            state = checkpoint.usable(own)
            check_made_from(own, state, made_from(engine_settings(source.config, 1)))
            return Begin(own, state)
        except SymlmError as error:
            display.warning(f"{error.message}; beginning from a checkpoint")
    return source.newest(step - 1, display)


def compare(recorded: Recorded, update: Update) -> list[str] | None:
    """How an update differs from its line in the metrics; None without one."""
    record = recorded.train.get(update.step) if update.applied else recorded.failed.get(update.step)
    if record is not None:
        return update.differences(record)
    if not update.applied and update.step in recorded.train:
        return [f"loss {update.loss}, gradient norm {update.grad_norm}, recorded finite numbers"]
    if update.applied and recorded.failed.get(update.step, {}).get("action") in ("skip", "stop"):
        return [f"loss {update.loss!r}, recorded as not finite"]
    return None
