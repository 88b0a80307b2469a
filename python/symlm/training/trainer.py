"""`Trainer`: from text to a run folder."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .. import _symlm
from ..callbacks import Callback, CallbackList
from ..config.engine import engine_config
from ..config.train_config import DataFormat, TrainConfig
from ..display import Display, make_display
from ..errors import Interrupted, UsageError, UserError
from ..layout import METRICS, SAMPLES, TENSORBOARD, TOKENIZER, step_name
from ..model.gguf.write import quantisation_note
from ..run.metrics import drop_at, truncate_past
from ..system.machine import describe, resolve_threads
from ..system.signals import StopSignals
from ..system.target import check_new_folder, check_target
from ..text.corpus import Prepared, Sources, vocab_size_with, warn_of_cut, warn_of_examples
from ..units import count_of, format_count
from .extend import extend
from .initial import RECORD, Initial
from .loop import Loop
from .nan_policy import NanPolicy, drop_undone
from .opening import AUTO, Opened, check_input, check_text, known_hashes, open_run, resume_command
from .plan import Plan, check_fits, disk_of, make_plan, memory_of
from .schedule import evaluation_windows, plan_steps, resolve, training_windows

CALIBRATION_STEPS = 20
CALIBRATION_PART = 0.1
"""A time limit is turned into updates by measuring this many, or for this part of the time, on the real data."""

CALIBRATION_LEAST = 3
_CALIBRATION_HORIZON = 1_000_000
PEAK_SECONDS = 0.1
PEAK_SECONDS_RESUMED = 0.025
PEAK_ROUNDS = 4


@dataclass(frozen=True)
class Run:
    """A training that has ended: its folder, its resolved configuration, and the last metrics.

    `finished` is False when it was stopped before its last update. `metrics` has `train_loss`, `val_loss`, `val_bpb`,
    `best_val_bpb` (None without validation) and `tok_s`.
    """

    path: Path
    config: TrainConfig
    step: int
    finished: bool
    metrics: dict[str, Any] = field(default_factory=dict)


class Trainer:
    """Trains a model as `config` says.

    `data` are paths of text (they take the place of `config.data`); without any, the built-in corpus is used.
    """

    def __init__(
        self,
        config: TrainConfig | None = None,
        data: str | Path | Sequence[str | Path] | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        config = config or TrainConfig()
        if data is not None:
            paths = [data] if isinstance(data, (str, Path)) else list(data)
            values = {name: getattr(config, name) for name in type(config).__dataclass_fields__}
            config = TrainConfig(**{**values, "data": tuple(str(path) for path in paths)})
        self.config = config
        self.callbacks = tuple(callbacks)

    def fit(self) -> Run:
        """Train to the end, or until a limit, a callback or a signal stops it.

        After Ctrl-C, SIGTERM or SIGHUP the step under way is finished and saved, and `Interrupted` is raised; before
        the first update there is nothing to save. A run that was finished before is left as it is.
        """
        with StopSignals() as signals:
            display = make_display(self.config.progress)
            try:
                opened = open_run(self.config)
                try:
                    for note in opened.notes:
                        display.warning(note)
                    return self._train(opened, display, signals)
                except Interrupted as stopped:
                    if stopped.run_path is None:
                        raise _not_begun(opened, display, stopped.signum) from None
                    raise
                finally:
                    opened.folder.unlock()
            finally:
                display.close()

    def plan(self) -> Plan:
        """What the training will take: memory, disk, time. Nothing is started and nothing written."""
        return make_plan(self.config)

    def _train(self, opened: Opened, display: Display, signals: StopSignals) -> Run:
        config, folder = opened.config, opened.folder
        if opened.state is not None and opened.done:
            display.message(f"{folder.path}: the run is finished ({opened.state.step:,} updates)")
            return Run(folder.path, config, opened.state.step, True, dict(opened.state.trainer))
        if opened.state is not None and config.stop_at_step is not None and opened.state.step >= config.stop_at_step:
            display.message(f"{folder.path}: already at step {opened.state.step:,}")
            return Run(folder.path, config, opened.state.step, False, dict(opened.state.trainer))
        if config.trace is not None:
            check_target("--trace", config.trace)
        if not opened.is_new:
            check_input(folder, (*config.data, *config.val_data), "pipe it in again, or name its file")
        if config.tensorboard not in (None, AUTO):
            check_new_folder("--tensorboard", str(config.tensorboard))
        if opened.extension is not None:
            display.message(f"{folder.path}: {opened.extension}")
        isa = _symlm.isa()
        threads, rule = resolve_threads(config.threads)
        # Until the run is set up nothing is half done: a signal may end it anywhere.
        with signals.raising():
            # Before any long work: what cannot fit is refused now. (A named tokenizer may still change the vocabulary.)
            planned = config.with_model(vocab_size=config.model().vocab_size)
            disk = disk_of(config, folder, planned.model().parameters)
            check_fits(planned, threads, memory_of(planned, threads), disk, resumed=opened.state is not None)
            known = {} if opened.is_new else known_hashes(folder, opened.state)
            sources = Sources(config, _tokenizer_path(opened), known.get("tokenizer_sha256"))
            if config.trace is not None:
                # Only now it is known which files a folder or a pattern stands for.
                check_target("--trace", config.trace, sources.inputs)
            _say_hello(display, sources, threads, rule, isa)
            warn_of_examples(sources.train, display)
            if opened.is_new and (note := quantisation_note(planned.model())) is not None:
                display.message(f"note: {note}")
            prepared = sources.prepare(threads, display)
            _tell_examples(prepared, display)
            _check_prompt(config, prepared)
            speed = _speed(opened, prepared, threads, display)
        if opened.is_new:
            config = _set_up(opened, prepared, threads, rule, speed, display)
        else:
            _go_on(opened, prepared, threads, rule)
        with signals.raising():
            cores = max(min(threads, _symlm.available_cpus()[0]), 1)
            # The best of several: what else runs on the machine can only lower it. A resume is to be quick.
            seconds = PEAK_SECONDS if opened.state is None else PEAK_SECONDS_RESUMED
            peak = max(_symlm.fma_peak(cores, seconds) for _ in range(PEAK_ROUNDS))
        loop = Loop(
            config=config,
            threads=threads,
            folder=folder,
            prepared=prepared,
            display=display,
            callbacks=CallbackList((*self.callbacks, *_tensor_board(config, folder.path, display))),
            peak_gflops=peak,
            signals=signals,
            initial=opened.initial,
        )
        outcome = loop.run(opened.checkpoint, opened.state)
        return Run(folder.path, config, outcome.step, outcome.finished, outcome.metrics)


def _tensor_board(config: TrainConfig, run: Path, display: Display) -> list[Callback]:
    """What `--tensorboard` asks for."""
    if config.tensorboard is None:
        return []
    from ..display.tensorboard import TensorBoard

    folder = run / TENSORBOARD if config.tensorboard == AUTO else Path(config.tensorboard)
    return [TensorBoard(folder, display.warning)]


def _not_begun(opened: Opened, display: Display, signum: int) -> Interrupted:
    """A signal came before the first update: nothing is lost but the time."""
    folder, name = opened.folder, signal.Signals(signum).name
    if not folder.exists:
        display.message(f"stopped by {name} before the run began: the same command starts it again")
        return Interrupted(signum)
    display.message(f"stopped by {name} before the first update")
    display.message(f"to go on: {shlex.join(resume_command(folder.path))}")
    return Interrupted(signum, str(folder.path), 0 if opened.state is None else opened.state.step)


def _tokenizer_path(opened: Opened) -> Path | str | None:
    """The tokenizer to use; a resumed run keeps its own, and one that is named must be the same."""
    asked = opened.config.tokenizer
    own = opened.folder.path / TOKENIZER
    if opened.is_new or not own.is_file():
        return asked if opened.initial is None else opened.initial.files.tokenizer
    if asked is not None and opened.initial is None and Path(asked).is_file():
        used = _symlm.Tokenizer.from_file(str(own)).sha256
        if _symlm.Tokenizer.from_file(asked).sha256 != used:
            raise UserError(
                f"{asked}: not the tokenizer that the run in {opened.folder.path} was started with",
                "leave --tokenizer out to go on, or start a new run with another --out-dir",
            )
    return own


def _say_hello(display: Display, sources: Sources, threads: int, rule: str, isa: str) -> None:
    what = "the Python standard library" if not sources.config.data else ", ".join(sources.config.data)
    size = format_count(sources.train.bytes)
    count = count_of(sources.train.files, "file")
    display.message(f"text: {what} ({count}, {size} bytes)")
    display.message(f"threads: {threads} ({rule}), instruction set {isa}")


def _tell_examples(prepared: Prepared, display: Display) -> None:
    """How the examples fill their windows, and how many are longer than one."""
    parts = [shards for shards in (prepared.train, prepared.val) if shards is not None and shards.window]
    if not parts:
        return
    train, window = parts[0], parts[0].window or 1
    held = f", {parts[1].documents:,} held out" if len(parts) > 1 else ""
    share = train.targets / train.tokens
    display.message(
        f"examples: {train.documents:,} in {count_of(train.tokens // window, 'window')}, {share:.0%} of the tokens are "
        f"learnt{held}"
    )
    warn_of_cut(parts, display, "; a larger --seq-len takes more")


def _check_prompt(config: TrainConfig, prepared: Prepared) -> None:
    length = len(prepared.tokenizer.encode_prompt(config.sample_prompt))
    if config.sample_every and length >= config.model().seq_len:
        raise UsageError(
            f"--sample-prompt is {length} tokens, the window has {config.model().seq_len}", "use a shorter one"
        )


def _speed(opened: Opened, prepared: Prepared, threads: int, display: Display) -> tuple[float | None, float]:
    """Seconds of an update and of measuring them, where a new run has a time limit."""
    asked = opened.config
    if not opened.is_new or asked.max_time is None:
        return None, 0.0
    return _seconds_per_step(
        asked.with_model(vocab_size=vocab_size_with(asked, prepared.tokenizer)), prepared, threads, display
    )


def _set_up(
    opened: Opened,
    prepared: Prepared,
    threads: int,
    rule: str,
    speed: tuple[float | None, float],
    display: Display,
) -> TrainConfig:
    """Fix the step numbers of a new run and write the files that describe it."""
    asked, folder = opened.config, opened.folder
    vocab_size = vocab_size_with(asked, prepared.tokenizer)
    seq_len = asked.model().seq_len
    windows, val_windows = training_windows(prepared.train, seq_len), evaluation_windows(prepared.val, seq_len)
    per_step, spent = speed
    plan = plan_steps(asked, windows, val_windows=val_windows, seconds_per_step=per_step, seconds_spent=spent)
    data_format: DataFormat = "text" if prepared.train.window is None else "completion"
    config, requested = resolve(dataclasses.replace(asked, data_format=data_format), plan, vocab_size)
    epochs = plan.max_steps * config.batch_size / max(windows, 1)
    display.message(f"updates: {plan.max_steps:,} = {epochs:.2f} epochs ({plan.decided_by})")
    prepared.tokenizer.save(str(folder.path / TOKENIZER))
    if opened.initial is not None:
        opened.initial.hand_on(folder.path)
    folder.start(config, requested, _environment(config, prepared, threads, rule, opened.initial))
    return config


def _go_on(opened: Opened, prepared: Prepared, threads: int, rule: str) -> None:
    """Check that the text is the same, and cut the metrics back to the step that training goes on from."""
    folder = opened.folder
    check_text(folder, opened.state, **prepared.hashes)
    if opened.state is None or not (folder.path / TOKENIZER).is_file():
        prepared.tokenizer.save(str(folder.path / TOKENIZER))
    if opened.state is None:
        environment = _environment(opened.config, prepared, threads, rule, opened.initial)
        folder.start(opened.config, opened.requested or {}, environment)
        return
    last = folder.last()
    if opened.extension is not None:
        opened.state = extend(folder, opened.extension)
    elif opened.checkpoint is not None and (last is None or last.name != step_name(opened.state.step)):
        # The metrics behind it go, so a later checkpoint must not be gone on from unless they come again.
        folder.go_back_to(opened.checkpoint, opened.state.step)
    for name in (METRICS, SAMPLES):
        truncate_past(folder.path / name, opened.state.step)
    if opened.state.step >= (opened.config.max_steps or 0) or opened.state.trainer.get("undone") is True:
        # Ended between its last checkpoint and its end, or before what was due at this step: that is done once more.
        drop_at(folder.path / METRICS, opened.state.step, ("eval", "sample", "hash"))
        drop_at(folder.path / SAMPLES, opened.state.step)
    known = NanPolicy.restore(opened.config.on_nan, opened.state.trainer, folder.path)
    drop_undone(folder.path / METRICS, known.left_out)


def _environment(
    config: TrainConfig, prepared: Prepared, threads: int, rule: str, initial: Initial | None
) -> dict[str, Any]:
    val = prepared.val
    began = {} if initial is None else {RECORD: initial.record()}
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "folder": str(Path.cwd()),
        "threads": threads,
        "threads_rule": rule,
        "pid": os.getpid(),
        "data": {
            "files": prepared.train_files,
            "bytes_on_disk": prepared.train_bytes,
            "train_tokens": prepared.train.tokens,
            "train_bytes": prepared.train.bytes,
            "train_documents": prepared.train.documents,
            "train_targets": prepared.train.targets,
            "val_tokens": None if val is None else val.tokens,
            "val_bytes": None if val is None else val.bytes,
            **prepared.hashes,
        },
        **began,
        "parameters": config.model().parameters,
        "machine": describe(),
    }


def _seconds_per_step(config: TrainConfig, prepared: Prepared, threads: int, display: Display) -> tuple[float, float]:
    """Time of one update, and the time it took to find out; by real updates that are then thrown away, so that the
    run itself starts from its first step with its final schedule."""
    began = time.monotonic()
    budget = (config.max_time or 0.0) * CALIBRATION_PART
    move = display.task("measuring the speed")
    settings = engine_config(config, threads, max_steps=_CALIBRATION_HORIZON)
    engine = _symlm.Engine(json.dumps(settings), prepared.train)
    times: list[float] = []
    try:
        while len(times) < CALIBRATION_STEPS:
            if len(times) >= CALIBRATION_LEAST and time.monotonic() - began > budget:
                break
            engine.run_until(len(times) + 1)
            report = engine.poll(0.1)
            while report is None:
                report = engine.poll(0.1)
            times.append(report.seconds)
            move(len(times), CALIBRATION_STEPS)
    finally:
        engine.close()
    move(CALIBRATION_STEPS, CALIBRATION_STEPS)
    # The first updates touch fresh memory and cold caches.
    return statistics.median(times[len(times) // 3 :]), time.monotonic() - began
