"""Runs under the mpirun that belongs to the interpreter, and what they leave behind."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from symlm.layout import METRICS
from test_golden_run import golden_text

MPIRUN = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
needs_mpi = pytest.mark.skipif(
    importlib.util.find_spec("mpi4py") is None or MPIRUN is None,
    reason="needs mpi4py and an MPI: pip install mpi4py mpich",
)

LIMIT_S = 240
SETTINGS = [
    "--hidden-size", "72", "--num-heads", "6", "--num-kv-heads", "2", "--intermediate-size", "100",
    "--num-layers", "2", "--seq-len", "37", "--vocab-size", "301", "--batch-size", "13", "--max-steps", "9",
    "--learning-rate", "3e-3", "--warmup-steps", "3", "--grad-clip", "0.5", "--seed", "7", "--preset", "tiny",
    "--sample-every", "0", "--hash-interval", "4", "--save-interval", "0", "--eval-interval", "6", "--threads", "1",
    "--progress", "plain",
]  # fmt: skip
LONG = ["--max-steps", "100000", "--seq-len", "64", "--save-interval", "20", "--rank-timeout", "5"]


def _is_open_mpi() -> bool:
    shown = subprocess.run([str(MPIRUN), "--version"], capture_output=True, text=True, check=False, timeout=LIMIT_S)
    return "Open MPI" in shown.stdout or "PRRTE" in shown.stdout


def mpirun(ranks: int, *words: str) -> list[str]:
    """The command that starts `symlm` with these words on so many ranks."""
    options = ["--allow-run-as-root", "--oversubscribe"] if _is_open_mpi() else []
    return [str(MPIRUN), *options, "-n", str(ranks), sys.executable, "-m", "symlm", *words]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, **more}


def run(folder: Path, command: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    """The command's end, in the folder of the test."""
    return subprocess.run(
        command, cwd=folder, env=environment(**more), capture_output=True, text=True, timeout=LIMIT_S, check=False
    )


def good(folder: Path, command: list[str], **more: str) -> str:
    done = run(folder, command, **more)
    assert done.returncode == 0, done.stderr
    return done.stderr


def alone(*words: str) -> list[str]:
    return [sys.executable, "-m", "symlm", *words]


def with_one_process(folder: Path) -> Path:
    """The folder, with a text `text.txt` and the run `one` of one process on it."""
    (folder / "text.txt").write_text(golden_text() * 8, encoding="utf-8")
    good(folder, alone("train", "text.txt", *SETTINGS, "--out-dir", "one"))
    return folder


def hashes(path: Path) -> dict[str, str]:
    """Of the large files of the last checkpoint."""
    last = sorted((path / "checkpoints").glob("step-*"))[-1]
    files = sorted(file for file in last.rglob("*.safetensors"))
    return {str(file.relative_to(last.parent)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def metrics(path: Path) -> list[dict[str, Any]]:
    """What the lines of metrics say of the numbers of the run, whatever the machine did."""
    kept = ("event", "step", "loss", "lr", "grad_norm", "val_loss", "val_bpb", "weights_sha256")
    lines = [json.loads(line) for line in (path / METRICS).read_text(encoding="utf-8").splitlines()]
    return [{key: line[key] for key in kept if key in line} for line in lines if line["event"] != "save"]
