"""How long a resume takes, from the start of the process to the first update, at several positions of a run.

Usage: resume.py RUN [POSITION...]. RUN is a run folder with a checkpoint, as left by --stop-at-step. For each position
the folder is copied and its last checkpoint is made one of that step, so that the data is read from there; then the
copy is resumed for one update.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from symlm.config.model_config import ModelConfig
from symlm.layout import OPTIMIZER, WEIGHTS
from symlm.run import checkpoint
from symlm.run.checkpoint import State
from symlm.run.folder import RunFolder


def moved(run: Path, copy: Path, step: int) -> None:
    """A copy of the run whose only checkpoint says that `step` updates are done."""
    last = RunFolder(run).last()
    if last is None:
        sys.exit(f"{run}: no checkpoint")
    copy.mkdir()
    for path in run.iterdir():
        if path.is_file():
            shutil.copyfile(path, copy / path.name)
    folder = RunFolder(copy)
    target = folder.checkpoint_path(step)
    target.mkdir(parents=True)
    for name in (WEIGHTS, OPTIMIZER):
        shutil.copyfile(last / name, target / name)
    state = State.read(last)
    at = {"step": step}
    model = ModelConfig.from_hf(last / checkpoint.MODEL_CONFIG)
    checkpoint.seal(target, State(state.engine | at, state.trainer | at, state.config), model.to_hf(), {})
    folder.point_last(step)


def measure(copy: Path, step: int) -> tuple[float, float]:
    """Seconds from the start of the process to the begin and the end of the first update."""
    words = ["--resume", "auto", "--out-dir", str(copy), "--stop-at-step", str(step + 1), "--log-interval", "1",
             "--eval-interval", "0", "--sample-every", "0", "--progress", "json"]  # fmt: skip
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "symlm", "train", *words], stderr=subprocess.PIPE, text=True)
    seen: dict[str, float] = {}
    for line in process.stderr or ():
        event = json.loads(line).get("event", "") if line.startswith("{") else ""
        seen.setdefault(event, time.monotonic() - began)
        if event == "train":
            break
    process.kill()
    process.wait()
    if not {"resume", "train"} <= set(seen):
        sys.exit(f"{copy}: the run did not resume")
    return seen["resume"], seen["train"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("positions", type=int, nargs="*", default=[2, 1000, 2000])
    options = parser.parse_args()
    for step in options.positions:
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch) / "run"
            moved(options.run, copy, step)
            begin, end = measure(copy, step)
        print(f"position {step:,}: first update begins after {begin:.2f} s, ends after {end:.2f} s")


if __name__ == "__main__":
    main()
