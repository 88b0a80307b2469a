"""`Running`: a session whose engine is there. What its parts share, and what more than one of them does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from .. import _symlm
from ..callbacks import CallbackList
from ..config.engine import made_from
from ..config.train_config import TrainConfig
from ..display import Display
from ..display.view import View
from ..errors import InternalError
from ..run import adapters
from ..run.checkpoint import State
from ..run.folder import RunFolder
from ..system.signals import StopSignals
from .journal import Journal
from .nan_policy import NanPolicy
from .opening import check_made_from
from .progress import Progress
from .saving import Saved, Saver, Start, start_saving
from .schedule import pre_decay_step
from .session import Session


class Running:
    """A session with its engine, its state (`progress`) and its files."""

    def __init__(
        self,
        session: Session,
        engine: _symlm.Engine,
        settings: _symlm.EngineSettings,
        display: Display,
        callbacks: CallbackList,
        signals: StopSignals,
    ) -> None:
        """`settings` are what the engine was made from."""
        self.session = session
        self._engine: _symlm.Engine | None = engine
        self.settings = settings
        self.display = display
        self.callbacks = callbacks
        self.signals = signals
        self.model = self.config.model
        self.policy = NanPolicy(self.config.on_nan)
        self.pre_decay = pre_decay_step(self.config)
        max_steps = self.config.max_steps or 1
        view = View(
            run=str(self.folder.path), origin=self.config.origin, threads=session.threads, max_steps=max_steps,
            parameters=engine.parameters, isa=engine.isa,
        )  # fmt: skip
        self.progress = Progress(view, max_steps)
        self.journal = Journal(self.folder, display, self.progress)
        self.saver = Saver(
            self.folder, self.model.to_hf(), self.config.keep_last, self.pre_decay, self._saved,
            lambda: display.tick(view),
        )  # fmt: skip

    @classmethod
    def with_engine(
        cls,
        session: Session,
        make: Callable[[], _symlm.Engine],
        settings: _symlm.EngineSettings,
        display: Display,
        callbacks: CallbackList,
        signals: StopSignals,
    ) -> Running:
        """With an engine that is made here, so that nobody else holds it."""
        engine = make()
        try:
            return cls(session, engine, settings, display, callbacks, signals)
        except BaseException:
            engine.close()
            raise

    @property
    def engine(self) -> _symlm.Engine:
        """The engine of the run, until it is released."""
        if self._engine is None:
            raise InternalError("the engine of the run is released")
        return self._engine

    @property
    def config(self) -> TrainConfig:
        """The resolved configuration of the run."""
        return self.session.config

    @property
    def folder(self) -> RunFolder:
        """The folder of the run."""
        return self.session.folder

    def close(self) -> None:
        """Release the engine, files and listeners."""
        with contextlib.ExitStack() as ending:
            ending.callback(self.release_engine)
            ending.callback(self.journal.close)
            self.saver.close()

    def release_engine(self) -> None:
        """End the engine and give its memory back."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    # --- where the weights are ------------------------------------------------------------------------------------

    def load(self) -> None:
        """Bring the engine to where the session starts: random weights, those of a model, or a checkpoint."""
        session = self.session
        if session.checkpoint is not None and session.state is not None:
            self.policy = NanPolicy.restore(self.config.on_nan, session.state.trainer, session.checkpoint)
            if self.config.lora_rank:
                adapters.load_base(self.folder.path, self.engine)
            self.restore(session.checkpoint, session.state)
        elif session.initial is not None:
            session.initial.load(self.engine)
            if self.config.lora_rank:
                adapters.write_base(self.folder.path, self.engine, self.model.to_hf())

    def restore(self, checkpoint: Path, state: State) -> None:
        """To the moment of a checkpoint."""
        check_made_from(checkpoint, state, made_from(self.settings))
        self.engine.load(str(checkpoint), state.engine_state(checkpoint))
        if self.engine.step != state.step:
            raise InternalError(f"{checkpoint}: holds step {self.engine.step}, the trainer state says {state.step}")
        self.saver.resumed(checkpoint, state)
        self.progress.restore(state)

    def restart(self) -> None:
        """To the moment before the first update."""
        self.engine.restart()
        if self.session.initial is not None and not self.config.lora_rank:
            # What adapters are added to has never changed.
            self.session.initial.load(self.engine)
        self.progress.restart()
        self.saver.saved_step = None

    # --- saving ---------------------------------------------------------------------------------------------------

    def start(self) -> Start:
        """A save of this moment."""
        progress = self.progress
        trainer = {
            "step": progress.step,
            "tokens": progress.tokens,
            "elapsed_s": progress.elapsed(),
            "best_step": progress.best_step,
            "data": self.session.text.hashes,
            "undone": progress.undone,
            **progress.metrics(),
            "nan": self.policy.to_json(),
        }
        return start_saving(self.engine, trainer, self.settings, self.folder.path)

    def _saved(self, saved: Saved) -> None:
        step, path = saved.state.step, saved.path
        self.journal.event({
            "event": "save", "step": step, "tokens": saved.state.trainer["tokens"],
            "path": str(path.relative_to(self.folder.path)), "seconds": saved.seconds, "stall_s": saved.stall_s,
        })  # fmt: skip
        self.callbacks.call("on_save", step, path)

    def settle(self, limit: int | None = None) -> None:
        """End a save under way before an error leaves the loop; nothing is under way otherwise."""
        problem = self.saver.settle(limit)
        if problem is not None:
            self.display.warning(problem)

    # --- what comes from outside ----------------------------------------------------------------------------------

    @property
    def must_stop(self) -> bool:
        """Whether something from outside ends the run, also after its last update."""
        return self.signals.received is not None or self.progress.trouble is not None

    def stop_reason(self) -> str | None:
        """What ends the updates before their number is reached, if anything does."""
        if self.signals.received is not None:
            return f"signal {self.signals.name}"
        if self.progress.trouble is not None:
            return self.progress.trouble.message
        return "a callback asked for it" if self.callbacks.stop else None

    def progress_bar(self, label: str) -> Callable[[int, int], None]:
        """Moves a bar of the display; raises `Stopped` when a signal has arrived."""
        move = self.display.task(label)

        def update(done: int, total: int) -> None:
            self.signals.check()
            move(done, total)

        return update
