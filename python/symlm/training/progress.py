"""`Progress`: how far a session of training has come. Every part of the session reads it, and some change it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from .. import _symlm
from ..display.view import Sums, View
from ..errors import SymlmError
from ..run.checkpoint import State


@dataclass
class Progress:
    """The state of a session between two updates. Times are in seconds."""

    view: View
    max_steps: int
    step: int = 0
    start_step: int = 0
    """Step at which the updates of this session began, or to which they went back."""
    tokens: int = 0
    report: _symlm.StepReport | None = None
    """Of the newest update that was applied."""
    best_step: int | None = None
    improved: bool = False
    """Whether the weights of this step are the best so far and not yet saved as such."""
    finite_step: int = -1
    """Newest step whose weights are known to be finite."""
    evaluated_step: int = -1
    checkpoint_step: int = 0
    """Newest step of which a checkpoint was asked for, `best/` alone excepted; or the start."""
    undone: bool = False
    """Whether something is due at this step that has not been done."""
    trouble: SymlmError | None = None
    """An error that ends the run once its state is saved."""
    elapsed_before: float = 0.0
    began: float = field(default_factory=time.monotonic)
    step_s: float | None = None
    """Of an update, as a running mean."""
    total: Sums = field(default_factory=Sums)
    recent: Sums = field(default_factory=Sums)
    """Since the last event but a save."""

    def begin(self) -> None:
        """The clock of this session starts."""
        self.began = time.monotonic()
        self.recent, self.total = Sums(), Sums()

    def restore(self, state: State) -> None:
        """To the moment of a checkpoint."""
        known = state.trainer
        self.step = self.start_step = self.checkpoint_step = state.step
        self.tokens = int(known["tokens"])
        self.elapsed_before = float(known["elapsed_s"])
        self.best_step = known.get("best_step")
        self.finite_step = self.step if self.best_step == self.step else self.step - 1
        self.undone, self.improved = known.get("undone") is True, False
        self.view.step, self.view.tokens = self.step, self.tokens
        self.view.loss, self.view.val_loss = known.get("train_loss"), known.get("val_loss")
        self.view.val_bpb, self.view.best_bpb = known.get("val_bpb"), known.get("best_val_bpb")

    def restart(self) -> None:
        """To the moment before the first update."""
        self.step = self.start_step = self.checkpoint_step = self.tokens = self.view.step = self.view.tokens = 0
        self.finite_step, self.improved = -1, False

    def add(self, report: _symlm.StepReport) -> None:
        """Take in an update that was applied."""
        # The loss of an update is that of the weights before it.
        self.finite_step = max(self.finite_step, report.step - 1)
        self.report = report
        self.tokens += report.tokens
        for sums in (self.recent, self.total):
            sums.add(report.tokens, report.seconds, report.busy_frac)
        self.step_s = report.seconds if self.step_s is None else 0.8 * self.step_s + 0.2 * report.seconds
        view = self.view
        view.add_loss(report.loss)
        view.step, view.tokens, view.lr, view.grad_norm = self.step, self.tokens, report.lr, report.grad_norm
        view.busy = list(report.busy_frac)

    def elapsed(self) -> float:
        """Time of training, that of the sessions before included."""
        return self.elapsed_before + time.monotonic() - self.began

    def estimate(self) -> None:
        """Bring the times of the view up to date."""
        done = self.step - self.start_step
        here = time.monotonic() - self.began
        self.view.elapsed_s = self.elapsed_before + here
        self.view.eta_s = here / done * (self.max_steps - self.step) if done else None

    def metrics(self) -> dict[str, Any]:
        """The newest numbers, as checkpoints and the end of the metrics hold them."""
        return {
            "train_loss": self.view.loss,
            "val_loss": self.view.val_loss,
            "val_bpb": self.view.val_bpb,
            "best_val_bpb": self.view.best_bpb,
            "tok_s": self.total.tok_s,
        }
