"""`Trainer`: from text to a run folder."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..callbacks import Callback, CallbackList
from ..config.sources import Request
from ..config.train_config import TrainConfig
from ..display import Display, make_display
from ..errors import Interrupted, UsageError, shown
from ..layout import TENSORBOARD
from ..ranks.follower import follow
from ..ranks.joining import joined, leading, wants_ranks
from ..ranks.opening import config_of
from ..ranks.world import World
from ..system.names import command_line
from ..system.peak import measured_peaks
from ..system.signals import StopSignals
from ..system.values import items
from .loop import train_session
from .opening import AUTO, how_ranks_meet, resume_command
from .plan import Plan, make_plan
from .session import Session

PEAK_SECONDS = 0.1
PEAK_SECONDS_RESUMED = 0.025
PEAK_ROUNDS = 4


@dataclass(frozen=True)
class Run:
    """A training run that has ended: its folder, its resolved configuration, and the last metrics.

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
        data: str | Path | Iterable[str | Path] | None = None,
        callbacks: Iterable[Callback] = (),
    ) -> None:
        config = TrainConfig() if config is None else config
        if not isinstance(config, TrainConfig):
            raise UsageError(f"config: found {shown(config)}, expected a TrainConfig")
        # The types of the fields are those that they have afterwards.
        paths: Any = data
        self.config = config if paths is None else dataclasses.replace(config, data=paths)
        self.callbacks = items("callbacks", callbacks, "a list of callbacks")
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                raise UsageError(f"callbacks: found {shown(callback)}, expected objects of symlm.Callback")

    def fit(self) -> Run:
        """Train to the end, or until a limit, a callback or a signal stops it.

        After Ctrl-C, SIGTERM or SIGHUP the step under way is finished and saved, and `Interrupted` is raised; before
        the first update there is nothing to save. A run that was finished before is left as it is.
        """
        return train(Request.of(self.config), self.callbacks)

    def plan(self) -> Plan:
        """What the training will take: memory, disk, time. Nothing is started and nothing written."""
        return make_plan(Request.of(self.config))


def train(request: Request, callbacks: Sequence[Callback] = ()) -> Run:
    """As `Trainer.fit`, for settings of which only some were given explicitly."""
    with StopSignals() as signals:
        asked = how_ranks_meet(request)
        if not wants_ranks(asked.mpi):
            return _alone(request, callbacks, None, signals)
        with joined(asked, signals) as world:
            if world is None:
                return _alone(request, callbacks, None, signals)
            if world.rank > 0:
                return _follow(world, request.config, signals)
            with leading(world):
                run = _alone(request, callbacks, world, signals)
                world.tell({"do": "end", "code": 0, "run": _plain(run)})
                return run


def _plain(run: Run) -> dict[str, Any]:
    """A run as it travels."""
    return {**vars(run), "path": str(run.path), "config": run.config.values()}


def _follow(world: World, config: TrainConfig, signals: StopSignals) -> Run:
    """The run as rank 0 tells of it; `SystemExit` with its exit code after an error that it has reported."""
    ending = follow(world, config, signals)
    if ending["code"] != 0:
        raise SystemExit(ending["code"])
    run = ending["run"]
    quiet = dataclasses.replace(config_of(run["config"]), progress="off")
    return Run(**{**run, "path": Path(run["path"]), "config": quiet})


def _alone(request: Request, callbacks: Sequence[Callback], world: World | None, signals: StopSignals) -> Run:
    """The training run of this process, which leads the other ranks if there are any."""
    with Session.open(request) as session:
        session.world = world
        display = make_display(session.config.progress)
        try:
            return _train(session, display, signals, callbacks)
        except Interrupted as stopped:
            if stopped.run_path is None:
                raise _not_begun(session, display, stopped.signum) from None
            raise
        finally:
            display.close()


def _train(session: Session, display: Display, signals: StopSignals, callbacks: Sequence[Callback]) -> Run:
    """The life of a training run, once it is known where it starts."""
    folder = session.folder.path
    for note in session.notes:
        display.warning(note)
    nothing_left = session.nothing_left()
    if session.state is not None and nothing_left is not None:
        display.message(nothing_left)
        return Run(folder, session.config, session.start_step, session.finished, dict(session.state.trainer))
    session.prepare(display, signals)
    session.begin(display)
    with signals.raising():
        # A resume is to be quick.
        seconds = PEAK_SECONDS if session.state is None else PEAK_SECONDS_RESUMED
        peaks = measured_peaks(session.threads, seconds, PEAK_ROUNDS, session.config.precision)
    listeners = CallbackList((*callbacks, *_tensor_board(session.config, folder, display)))
    outcome = train_session(session, display, listeners, signals, peaks)
    return Run(folder, session.config, outcome.step, outcome.finished, outcome.metrics)


def _tensor_board(config: TrainConfig, run: Path, display: Display) -> list[Callback]:
    """What `--tensorboard` asks for."""
    if config.tensorboard is None:
        return []
    from ..display.tensorboard import TensorBoard

    folder = run / TENSORBOARD if config.tensorboard == AUTO else Path(config.tensorboard)
    return [TensorBoard(folder, display.warning)]


def _not_begun(session: Session, display: Display, signum: int) -> Interrupted:
    """A signal came before the first update: nothing is lost but the time."""
    folder, name = session.folder, signal.Signals(signum).name
    if not folder.exists:
        display.message(f"stopped by {name} before the run began: the same command starts it again")
        return Interrupted(signum)
    display.message(f"stopped by {name} before the first update")
    display.message(f"to resume: {command_line(resume_command(folder.path))}")
    return Interrupted(signum, str(folder.path), session.start_step)
