"""`RUN/nan/step-N/`: everything needed to examine an update whose numbers are not finite, and to compute it again.

A whole checkpoint of the moment before the update, with these files beside it: `numbers.json` (loss, norms, which
tensors hold values that are not finite), `batch.jsonl` (a line for each window: its loss, ids and text), `config.toml`.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import _symlm
from ..errors import SymlmError
from ..layout import BATCH, BUNDLES, CONFIG, MANIFEST, NUMBERS, step_name
from ..run.checkpoint import State
from ..run.metrics import to_document, to_line
from ..system.version import version
from .running import Running
from .saving import Writing, write_checkpoint

MOST_BUNDLES = 3
"""The newest are kept: each is as large as a checkpoint."""

MOST_TOKENS = 1_000_000
"""A bundle holds no more of a batch than this; windows whose loss is not finite come first."""

_NAMED = 3


@dataclass(frozen=True)
class Findings:
    """What of an update is not finite: by tensor and by window."""

    tensors: list[_symlm.TensorNumbers]
    losses: list[float]

    @classmethod
    def of(cls, engine: _symlm.Engine) -> Findings:
        """Those of the update that the engine computed last."""
        return cls(engine.tensor_numbers(), engine.window_losses())

    @property
    def bad_windows(self) -> list[int]:
        """Windows whose loss is not finite."""
        return [index for index, loss in enumerate(self.losses) if not math.isfinite(loss)]

    @property
    def bad_state(self) -> list[str]:
        """Tensors whose weights or moments are not finite."""
        return [tensor.name for tensor in self.tensors if tensor.bad_weights or tensor.bad_moments]

    @property
    def bad_gradients(self) -> list[str]:
        """Tensors whose gradient is not finite, or has a norm that is not."""
        return [of.name for of in self.tensors if of.bad_gradients or not math.isfinite(of.grad_norm)]

    def sentence(self) -> str:
        """All of it in a line."""
        parts = [
            f"the loss of {_some([f'window {i}' for i in self.bad_windows], len(self.losses), 'windows')}",
            f"the gradient of {_some(self.bad_gradients, len(self.tensors), 'tensors')}",
            f"the weights or moments of {_some(self.bad_state, len(self.tensors), 'tensors')}",
        ]
        return "not finite: " + "; ".join(parts)


def _some(names: list[str], count: int, what: str) -> str:
    if not names:
        return f"none of {count} {what}"
    shown = ", ".join(names[:_NAMED]) + (", .." if len(names) > _NAMED else "")
    return f"{len(names)} of {count} {what} ({shown})"


def bundle_path(run: Path, step: int) -> Path:
    """Folder of the bundle of the update after which `step` would be done, whether it exists or not."""
    return run / BUNDLES / step_name(step)


def write(running: Running, report: _symlm.StepReport, what: str, found: Findings) -> Path | None:
    """Write the bundle of the update that just failed. A disk that is full is a warning: the run has more to say."""
    path = bundle_path(running.folder.path, report.step)

    def start(temporary: Path) -> tuple[Writing, State]:
        numbers = {
            "step": report.step,
            "what": what,
            "loss": report.loss,
            "grad_norm": report.grad_norm,
            "lr": report.lr,
            "version": version(),
            "isa": running.engine.isa,
            "threads": running.session.threads,
            "windows": found.bad_windows,
            "tensors": [
                {
                    "name": tensor.name, "gradient_norm": tensor.grad_norm, "bad_gradients": tensor.bad_gradients,
                    "bad_weights": tensor.bad_weights, "bad_moments": tensor.bad_moments,
                }
                for tensor in found.tensors
            ],
        }  # fmt: skip
        (temporary / NUMBERS).write_text(to_document(numbers), encoding="utf-8")
        _write_batch(temporary / BATCH, running, report.step, found)
        shutil.copyfile(running.folder.path / CONFIG, temporary / CONFIG)
        # Last, because it continues on another thread; the update is not part of the checkpoint.
        writing, state = running.start()(temporary)
        return writing, State(state.engine, {**state.trainer, "step": report.step - 1}, state.config)

    try:
        write_checkpoint(path, running.model.to_hf(), start)
        _prune(path.parent)
    except (OSError, SymlmError) as error:
        message = error.message if isinstance(error, SymlmError) else str(error)
        running.display.warning(f"the bundle of step {report.step} cannot be written: {message}")
        return None
    return path


def _write_batch(path: Path, running: Running, step: int, found: Findings) -> None:
    bad = set(found.bad_windows)
    order = sorted(range(len(found.losses)), key=lambda index: index not in bad)
    most = max(MOST_TOKENS // (running.model.seq_len + 1), 1)
    with path.open("w", encoding="utf-8", errors="replace") as file:
        for index in sorted(order[:most]):
            ids = running.engine.window(step, index)
            text = running.session.text.tokenizer.decode(ids)
            record: dict[str, Any] = {"window": index, "loss": found.losses[index], "ids": ids, "text": text}
            file.write(to_line(record) + "\n")


def _prune(folder: Path) -> None:
    """Keep the bundles of the newest steps."""
    for path in sorted(path for path in folder.iterdir() if (path / MANIFEST).is_file())[:-MOST_BUNDLES]:
        shutil.rmtree(path, ignore_errors=True)
