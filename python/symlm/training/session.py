"""`Session`: one run folder that is trained in, from the settings that are asked for to the first update.

`open` decides where to start, `prepare` reads the text and makes every check, `begin` writes what describes the run.
Before `begin` nothing of the run is written, and cheap checks come before anything that takes long.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from .. import _symlm
from ..config.engine import engine_settings
from ..config.sources import Request, conflicts, resumed
from ..config.train_config import TrainConfig
from ..display import Display
from ..errors import UsageError, UserError
from ..layout import BEST, LAST, METRICS, SAMPLES, TOKENIZER, step_name
from ..model.companions import hand_on
from ..model.gguf.write import quantisation_note
from ..ranks.hearing import Hearing
from ..ranks.opening import engine_of
from ..ranks.world import World
from ..run import checkpoint
from ..run.checkpoint import State
from ..run.folder import RunFolder
from ..run.metrics import drop_at, truncate_past
from ..system.machine import resolve_threads
from ..system.signals import StopSignals
from ..system.target import check_new_folder, check_target
from ..text.conversations import ChatSettings, stored_template, template_of
from ..text.corpus import Prepared, Sources, vocab_size_with
from ..text.remarks import remark_on
from .environment import describe_run
from .extend import Extension, extend, plan_extension
from .initial import Initial, take_over
from .nan_policy import NanPolicy, drop_undone
from .opening import AUTO, check_input, check_text, choose_checkpoint, known_hashes, locate
from .resources import check_resources
from .schedule import evaluation_windows, plan_steps, resolve, training_windows
from .speed import CALIBRATION_HORIZON, seconds_per_step


@dataclass
class Session:
    """A run folder and where to start in it; `requested` is None for a new run.

    `threads`, `threads_rule`, `text` and `speed` are there after `prepare`; `config` has nothing left to decide after
    `begin`.
    """

    folder: RunFolder
    config: TrainConfig
    requested: dict[str, Any] | None = None
    checkpoint: Path | None = None
    state: State | None = None
    finished: bool = False
    extension: Extension | None = None
    initial: Initial | None = None
    notes: list[str] = field(default_factory=list)
    world: World | None = None
    """The other ranks, where there are any."""
    threads: int = field(init=False)
    threads_rule: str = field(init=False)
    text: Prepared = field(init=False)
    speed: tuple[float | None, float] = field(init=False)
    """Seconds of an update and of measuring them, where a new run has a time limit."""

    # --- open -----------------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, request: Request, *, dry: bool = False) -> Session:
        """Lock the run folder and decide where to start. A `dry` session takes no lock and changes nothing.

        UserError and UsageError for settings that cannot be, or not with this run; DataError for a damaged run.
        """
        asked = request.config
        folder, named = locate(asked)
        _check_extension(asked, folder, named)
        new = None
        if asked.resume is None or not folder.exists:
            if asked.resume not in (None, AUTO):
                raise UserError(f"{folder.path}: no run to resume", "leave --resume out, or use --resume auto")
            folder.check_new()
            new = cls._new(folder, dataclasses.replace(asked, out_dir=str(folder.path)))
        if not dry:
            folder.lock()
        try:
            if new is not None:
                # Another process may have started a run here since, and ended.
                folder.check_new()
                return new
            if not dry:
                folder.recover()
            return cls._old(folder, request, named)
        except BaseException:
            folder.unlock()
            raise

    @classmethod
    def _new(cls, folder: RunFolder, config: TrainConfig, notes: tuple[str, ...] = ()) -> Session:
        taken, initial = take_over(config)
        return cls(folder, taken, initial=initial, notes=list(notes))

    @classmethod
    def _old(cls, folder: RunFolder, request: Request, named: Path | None) -> Session:
        """A run that exists. Here, and nowhere else, its settings meet those that were given."""
        asked = request.config
        given = {**request.values(), "resume": asked.resume, "out_dir": str(folder.path)}
        if asked.init_from is not None:
            given["init_from"] = str(Path(asked.init_from).absolute())
        stored = folder.settings()
        if not folder.has_checkpoints and asked.resume not in (LAST, BEST) and asked.extend_steps is None:
            # It ended before its first checkpoint: nothing binds it, but settings not given stay as they were.
            note = f"{folder.path}: no checkpoint yet, starting from the beginning"
            return cls._new(folder, TrainConfig(**{**stored.values, **given}), (note,))
        requested, run = stored.requested or {}, TrainConfig(**stored.values)
        clashes = conflicts(run, requested, given)
        if clashes:
            listed = "; ".join(map(str, clashes))
            raise UserError(
                f"{folder.path}: the run was started with other settings: {listed}",
                "leave these out to resume, or start a new run with another --out-dir",
            )
        if asked.extend_steps is not None:
            extension = plan_extension(folder, run, requested, asked.extend_steps)
            session = cls(folder, resumed(extension.config, given), extension.requested, extension=extension)
            session.checkpoint, session.state = folder.checkpoint_path(extension.state.step), extension.state
        else:
            session = cls(folder, resumed(run, given), requested)
            session.choose(named, asked.resume)
        session.initial = Initial.of_run(session.config, folder)
        return session

    def choose(self, named: Path | None, resume: str | None) -> None:
        """Resume from the checkpoint `named`, else from the one that `resume` means."""
        self.checkpoint = named or choose_checkpoint(self.folder, resume, self.notes.append)
        if self.checkpoint is None:
            self.notes.append(f"{self.folder.path}: no usable checkpoint yet, starting from the beginning")
            return
        self.state = checkpoint.usable(self.checkpoint)
        length = self.config.max_steps or 0
        self.finished = self.state.step >= length and self.folder.finished(length)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.folder.unlock()

    @property
    def is_new(self) -> bool:
        """Whether the run has to be set up."""
        return self.requested is None

    @property
    def start_step(self) -> int:
        """Updates that are done."""
        return 0 if self.state is None else self.state.step

    def nothing_left(self) -> str | None:
        """What to say when there is nothing left to train; None otherwise."""
        if self.state is not None and self.finished:
            return f"{self.folder.path}: the run is finished ({self.start_step:,} updates)"
        stop = self.config.stop_at_step
        if self.state is not None and stop is not None and self.start_step >= stop:
            return f"{self.folder.path}: already at step {self.start_step:,}"
        return None

    # --- prepare --------------------------------------------------------------------------------------------------

    def prepare(self, display: Display, signals: StopSignals) -> None:
        """Make every check, read the text, and measure the speed where that decides the length."""
        config, folder = self.config, self.folder
        if config.trace is not None:
            check_target("--trace", config.trace)
        if config.tensorboard not in (None, AUTO):
            check_new_folder("--tensorboard", str(config.tensorboard))
        if not self.is_new:
            check_input(folder, (*config.data, *config.val_data), "pipe it in again, or name its file")
        if self.extension is not None:
            display.message(f"{folder.path}: {self.extension}")
        sharing, ranks = (1, 1) if self.world is None else (self.world.sharing, self.world.size)
        self.threads, self.threads_rule = resolve_threads(config.threads, sharing)
        # Until the run is set up nothing is half done: a signal may end it anywhere.
        with signals.raising():
            # Before any long work: refuse now what cannot fit. (A named tokenizer may still change the vocabulary.)
            planned = config.with_model(vocab_size=config.model.vocab_size)
            check_resources(planned, folder, self.threads, resumed=self.state is not None, ranks=ranks)
            sources = self.sources()
            if config.trace is not None:
                # Only now it is known which files a folder or a pattern stands for.
                check_target("--trace", config.trace, sources.inputs)
            display.message(f"text: {sources}")
            integers = "" if config.precision == "f32" else f", {config.precision} by {_symlm.integer_instructions()}"
            display.message(f"threads: {self.threads} ({self.threads_rule}), instruction set {_symlm.isa()}{integers}")
            for note in self._notes(planned) if self.is_new else ():
                display.message(f"note: {note}")
            # The others wait: their signals and their ends are heard meanwhile.
            progress = display if self.world is None else Hearing(display, self.world, signals)
            self.text = sources.prepare(self.threads, progress)
            remark_on(
                self.text.train, self.text.val, self.text.tokenizer, config, display, chat=self.text.chat is not None
            )
            self.speed = None, 0.0
            if self.world is None:
                self._measure(display, signals)
        if self.world is not None:
            # Updates of several ranks end together: a signal waits for the one under way.
            self._measure(display, signals)

    def _measure(self, display: Display, signals: StopSignals) -> None:
        """The speed of a new run with a time limit, that of all ranks together."""
        if not self.is_new or self.config.max_time is None:
            return
        filled = self.config.with_model(vocab_size=vocab_size_with(self.config, self.text.tokenizer))

        def engine(settings: _symlm.EngineSettings) -> _symlm.Engine:
            return engine_of(self.world, filled, settings, self.text, signals)

        ranks = 1 if self.world is None else self.world.size
        settings = engine_settings(filled, self.threads, max_steps=CALIBRATION_HORIZON, ranks=ranks)
        self.speed = seconds_per_step(self.config.max_time, settings, engine, signals, display)

    def _notes(self, planned: TrainConfig) -> list[str]:
        """What is good to know before a new run: of its shape, and of the model that it begins from."""
        begun = None if self.initial is None else self.initial.files.note
        return [note for note in (begun, quantisation_note(planned.model)) if note is not None]

    def sources(self) -> Sources:
        """The opened texts and the tokenizer, which are those that the run was started with."""
        known = {} if self.is_new else known_hashes(self.folder, self.state)
        sources = Sources(self.config, self._tokenizer_path(), known.get("tokenizer_sha256"))
        if sources.train.is_chat:
            sources.chat = self._chat()
        return sources

    def _chat(self) -> ChatSettings:
        """How conversations are written out: by the template that the run was started with, if it exists."""
        config = self.config
        own = None if self.is_new else stored_template(self.folder.path, self.folder.environment())
        model = None if self.initial is None or own is not None else self.initial.files
        return ChatSettings(own or template_of(config.chat_template, model), config.train_on, config.add_tokens)

    def _tokenizer_path(self) -> Path | str | None:
        """The tokenizer to use; a resumed run keeps its own, and one that is named must be the same."""
        asked = self.config.tokenizer
        own = self.folder.path / TOKENIZER
        if self.is_new or not own.is_file():
            return asked if self.initial is None else self.initial.files.tokenizer
        if asked is not None and self.initial is None and Path(asked).is_file():
            used = _symlm.Tokenizer.from_file(own).sha256
            if _symlm.Tokenizer.from_file(asked).sha256 != used:
                raise UserError(
                    f"{asked}: not the tokenizer that the run in {self.folder.path} was started with",
                    "leave --tokenizer out to resume, or start a new run with another --out-dir",
                )
        return own

    # --- begin ----------------------------------------------------------------------------------------------------

    def begin(self, display: Display) -> None:
        """Set up a new run, or bring an existing one to the step where it resumes."""
        if self.is_new:
            self._set_up(display)
        else:
            self._resume()

    def _environment(self) -> dict[str, Any]:
        return describe_run(self.config, self.text, self.threads, self.threads_rule, self.initial)

    def _set_up(self, display: Display) -> None:
        """Fix the step numbers of a new run and write the files that describe it."""
        asked, text = self.config, self.text
        seq_len = asked.model.seq_len
        windows, val_windows = training_windows(text.train, seq_len), evaluation_windows(text.val, seq_len)
        per_step, spent = self.speed
        plan = plan_steps(
            asked, windows, val_windows=val_windows, seconds_per_step=per_step, seconds_spent=spent,
            ranks=1 if self.world is None else self.world.size,
        )  # fmt: skip
        rows = vocab_size_with(asked, text.tokenizer)
        settled = dataclasses.replace(
            asked, data_format=text.data_format, vocab_size=rows, architecture=self._architecture(rows)
        )
        self.config, requested = resolve(settled, plan, rows)
        if self.initial is not None:
            self.initial.rows = self.config.model.vocab_size
            added = 0 if text.chat_tokens is None else len(text.chat_tokens.added)
            if added:
                self.initial.new = range(text.tokenizer.vocab_size - added, text.tokenizer.vocab_size)
        epochs = plan.max_steps * self.config.batch_size / max(windows, 1)
        display.message(f"updates: {plan.max_steps:,} = {epochs:.2f} epochs ({plan.decided_by})")
        text.tokenizer.save(self.folder.path / TOKENIZER)
        template = None if text.chat is None else text.chat.text
        hand_on(None if self.initial is None else self.initial.files, self.folder.path, template, self._ends())
        self.folder.start(self.config, requested, self._environment())

    def _ends(self) -> tuple[int, ...]:
        """The tokens that end a text of the model: its own, and the one that ends an answer."""
        own = self.config.model.eos_token_ids
        tokens = self.text.chat_tokens
        return own if tokens is None or tokens.end is None else tuple(dict.fromkeys((*own, tokens.end)))

    def _architecture(self, rows: int) -> str | None:
        model = self.config.model
        if self._ends() == model.eos_token_ids:
            return self.config.architecture
        return dataclasses.replace(model, vocab_size=rows, eos_token_ids=self._ends()).other()

    def _resume(self) -> None:
        """Check that the text is the same, and cut the metrics back to the step where training resumes."""
        folder = self.folder
        check_text(folder, self.state, self.text)
        if self.state is None or not (folder.path / TOKENIZER).is_file():
            self.text.tokenizer.save(folder.path / TOKENIZER)
        if self.state is None:
            folder.start(
                self.config,
                self.requested or {},
                self._environment(),
            )
            return
        last = folder.last()
        if self.extension is not None:
            self.state = extend(folder, self.extension)
        elif self.checkpoint is not None and (last is None or last.name != step_name(self.state.step)):
            # Its later metrics are removed, so later checkpoints must not be resumed until those are recomputed.
            folder.go_back_to(self.checkpoint, self.state.step)
        for name in (METRICS, SAMPLES):
            truncate_past(folder.path / name, self.state.step)
        if self.state.step >= (self.config.max_steps or 0) or self.state.trainer.get("undone") is True:
            # Ended between its last checkpoint and its end, or before what was due at this step: that is done once
            # more.
            drop_at(folder.path / METRICS, self.state.step, ("eval", "sample", "hash"))
            drop_at(folder.path / SAMPLES, self.state.step)
        known = NanPolicy.restore(self.config.on_nan, self.state.trainer, folder.path)
        drop_undone(folder.path / METRICS, known.left_out)


def _check_extension(config: TrainConfig, folder: RunFolder, named: Path | None) -> None:
    if config.extend_steps is not None and not folder.exists:
        raise UserError(f"{folder.path}: no run to extend", "name one by --out-dir, or leave --extend-steps out")
    if config.extend_steps is not None and named is not None:
        raise UsageError(f"--extend-steps resumes from before the decay, not from {named}", "name the run folder")
