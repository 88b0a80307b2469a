"""The metrics of a run in Weights & Biases.

pip install wandb
python wandb_callback.py my.txt          # WANDB_MODE=offline keeps everything on this machine

A callback is all that another tool needs: copy this one and change what it does with the numbers.
"""

from __future__ import annotations

import html
import sys
import tomllib
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

import symlm

NAMES = {
    "loss": "train/loss", "lr": "train/lr", "grad_norm": "train/grad_norm", "tok_s": "perf/tok_s",
    "peak_frac": "perf/peak_frac", "val_loss": "val/loss", "val_bpb": "val/bpb",
}  # fmt: skip
"""Field of the metrics -> name of the chart."""


class WeightsAndBiases(symlm.Callback):
    """Sends losses, evaluations, speed and text samples of a run to a project of Weights & Biases.

    A resumed run continues in the same run there: its id is kept in the run folder.
    """

    def __init__(self, project: str, **options: Any) -> None:
        self.project = project
        self.options = options
        self.run: Any = None

    def on_start(self, step: int, path: Path) -> None:
        """Open the run there, with the resolved configuration."""
        if self.run is not None:
            return
        known = path / "wandb-id"
        if not known.exists():
            known.write_text(uuid.uuid4().hex, encoding="utf-8")
        self.run = wandb.init(
            project=self.project,
            name=path.name,
            id=known.read_text(encoding="utf-8"),
            resume="allow",
            dir=path,
            config=tomllib.loads((path / "config.toml").read_text(encoding="utf-8")),
            **self.options,
        )
        # Its own count of steps never goes back, as that of symlm does after a resume.
        self.run.define_metric("*", step_metric="step")

    def _send(self, metrics: Mapping[str, Any]) -> None:
        values = {name: metrics[field] for field, name in NAMES.items() if metrics.get(field) is not None}
        self.run.log({"step": metrics["step"], "tokens": metrics["tokens"], **values})

    def on_log(self, metrics: Mapping[str, Any]) -> None:
        """Every line of training metrics."""
        self._send(metrics)

    def on_eval(self, metrics: Mapping[str, Any]) -> None:
        """Every evaluation; the last one may cover more windows than the others, so it is a separate number."""
        if metrics["final"]:
            self.run.summary["final_val_loss"] = metrics["val_loss"]
            self.run.summary["final_val_bpb"] = metrics["val_bpb"]
        else:
            self._send(metrics)

    def on_sample(self, step: int, text: str) -> None:
        """What the model writes at this moment."""
        self.run.log({"step": step, "sample": wandb.Html(f"<pre>{html.escape(text)}</pre>")})

    def on_end(self) -> None:
        """Close the run there, also after an error or a signal."""
        if self.run is not None:
            self.run.finish()
            self.run = None


if __name__ == "__main__":
    config = symlm.TrainConfig(preset="tiny", max_time=60, log_interval=5)
    symlm.Trainer(config, data=sys.argv[1:], callbacks=[WeightsAndBiases("symlm")]).fit()
