"""The small training that is tortured: its processes, what its folder looks like, the truth about its end."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMEOUT = 120.0
"""Seconds after which a process counts as hanging; it needs two or three on a quiet machine."""

HIDDEN = (".tmp-", ".old-")
"""Beginnings of the names of what is not complete yet, or no longer wanted."""

USER_ERRORS = (1, 2, 3, 4)
"""Exit codes of errors that a fault from outside may lead to."""

_UGLY = re.compile(r"Traceback \(most recent|panicked at|RUST_BACKTRACE|core dumped|this is a bug")
_TRAIN_KEYS = ("step", "tokens", "loss", "lr", "grad_norm")
_EVAL_KEYS = ("step", "tokens", "val_loss", "val_bpb", "best_val_bpb", "windows", "final")


def write_text(path: Path, size: int, seed: int) -> None:
    """A text of about `size` bytes that looks a little like language: made-up words, the first ones often."""
    rng = random.Random(f"text {seed}")
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(600)]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    lines: list[str] = []
    while size > 0:
        lines.append(" ".join(rng.choices(words, weights, k=rng.randint(4, 16))).capitalize() + ".")
        size -= len(lines[-1]) + 1
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Training:
    """One run: the words of its command are the same at every start."""

    text: Path
    max_steps: int
    save_interval: int
    flags: tuple[str, ...]

    @property
    def words(self) -> list[str]:
        """The words after `symlm train` at the first start."""
        steps = ["--max-steps", str(self.max_steps), "--save-interval", str(self.save_interval)]
        return [str(self.text), *steps, *self.flags]


def make_training(folder: Path, *, size: int, steps: int, save: int, shape: Sequence[object]) -> Training:
    """A run on a text of `size` bytes, which is written into `folder`; every update has its line of metrics."""
    text = folder / "text.txt"
    write_text(text, size, 1)
    flags = (
        *map(str, shape), "--preset", "tiny", "--num-layers", "1", "--eval-interval", str(2 * save), "--eval-batches",
        "2", "--sample-every", str(4 * save), "--log-interval", "1", "--keep-last", "2", "--progress", "json",
    )  # fmt: skip
    return Training(text, steps, save, flags)


@dataclass(frozen=True)
class Ended:
    """A process that has ended; `code` is None when it had to be stopped because it hung."""

    code: int | None
    out: str
    err: str
    seconds: float

    def ugly(self) -> list[str]:
        """What no user should ever see."""
        problems = ["it hangs"] if self.code is None else []
        found = _UGLY.search(self.err) or _UGLY.search(self.out)
        if found or self.code == 70 or (self.code is not None and self.code < 0):
            problems.append(f"exit code {self.code}: {self.last_lines()}")
        return problems

    def unclear(self) -> list[str]:
        """What keeps this from being a clear error with a documented exit code."""
        problems = self.ugly()
        if not problems and self.code not in USER_ERRORS:
            problems.append(f"exit code {self.code}, expected one of {USER_ERRORS}: {self.last_lines()}")
        if not problems and not ("error: " in self.err and "hint: " in self.err):
            problems.append(f"no error with a hint: {self.last_lines()}")
        return problems

    def error(self) -> str:
        """The line of the error."""
        return next((line for line in self.err.splitlines() if line.startswith("error: ")), "")

    def last_lines(self) -> str:
        """The end of what it said."""
        return " | ".join(self.err.splitlines()[-4:])

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        """The lines of these events that it wrote as its display."""
        return [record for record in _records(self.err.splitlines()) if record.get("event") in kinds]


def environment(cache: Path, isa: str | None = None) -> dict[str, str]:
    """The environment of a process: no settings from outside, a separate token cache."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SYMLM_")}
    return {**kept, "SYMLM_CACHE_DIR": str(cache), **({} if isa is None else {"SYMLM_ISA": isa})}


def command(*words: object) -> list[str]:
    """The command line of the installed program."""
    return [sys.executable, "-m", "symlm", *map(str, words)]


def start(words: Sequence[object], env: dict[str, str], folder: Path, name: str) -> subprocess.Popen[bytes]:
    """Start the program in `folder`; what it says goes into `name.out` and `name.err` there."""
    with (folder / f"{name}.out").open("wb") as out, (folder / f"{name}.err").open("wb") as err:
        return subprocess.Popen(command(*words), cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err)


def finish(process: subprocess.Popen[bytes], folder: Path, name: str, began: float) -> Ended:
    """Wait for a process of `start`; one that hangs is stopped."""
    code: int | None
    try:
        code = process.wait(TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        code = None
    said = [(folder / f"{name}.{kind}").read_text(encoding="utf-8", errors="replace") for kind in ("out", "err")]
    return Ended(code, said[0], said[1], time.monotonic() - began)


def run(words: Sequence[object], env: dict[str, str], folder: Path, name: str) -> Ended:
    """Run the program to its end."""
    began = time.monotonic()
    return finish(start(words, env, folder, name), folder, name, began)


# --- run folders ------------------------------------------------------------------------------------------------------


def sha256(path: Path) -> str:
    """The hash of a file, empty when it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def fault_of(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint folder, by its manifest and nothing else; None when it is complete."""
    try:
        files = json.loads((checkpoint / "MANIFEST.json").read_text(encoding="utf-8"))["files"]
        for name, entry in files.items():
            path = checkpoint / name
            if path.stat().st_size != entry["size"]:
                return f"{name} has {path.stat().st_size} bytes, not {entry['size']}"
            if sha256(path) != entry["sha256"]:
                return f"{name} has another content"
        missing = {"model.safetensors", "optimizer.safetensors", "trainer_state.json"} - set(files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return f"{sorted(missing)} not in the manifest" if missing else None


def _records(lines: Sequence[str]) -> list[dict[str, Any]]:
    found = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            found.append(record)
    return found


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The records of `metrics.jsonl`, broken lines left out."""
    try:
        return _records((folder / "metrics.jsonl").read_text(encoding="utf-8", errors="replace").splitlines())
    except OSError:
        return []


@dataclass(frozen=True)
class Sight:
    """What lies in a run folder: steps of complete checkpoints, faults of others, unfinished things, the last update
    that has a line of metrics, the step that `last` names (-1 when it names none)."""

    complete: tuple[int, ...]
    faults: tuple[str, ...]
    hidden: tuple[str, ...]
    trained: int
    pointer: int

    @property
    def newest(self) -> int:
        """Step of the newest complete checkpoint, 0 without any."""
        return max(self.complete, default=0)


def look(folder: Path) -> Sight:
    """Look at a run folder in which no process is at work."""
    complete, faults, hidden = [], [], []
    checkpoints = folder / "checkpoints"
    entries = sorted(checkpoints.iterdir()) if checkpoints.is_dir() else []
    if (folder / "best").exists():
        entries.append(folder / "best")
    for path in entries:
        if path.name.startswith(HIDDEN):
            continue
        fault = fault_of(path)
        if fault is not None:
            faults.append(f"{path.name}: {fault}")
        elif path.name != "best":
            complete.append(int(path.name.removeprefix("step-")))
    for path in (folder, checkpoints):
        if path.is_dir():
            hidden += [entry.name for entry in path.iterdir() if entry.name.startswith(HIDDEN)]
    steps = [record.get("step") for record in read_metrics(folder) if record.get("event") == "train"]
    trained = max((step for step in steps if isinstance(step, int)), default=0)
    pointer = 0
    if (folder / "last").is_file():
        text = (folder / "last").read_text(encoding="utf-8", errors="replace").strip()
        pointer = int(text[-8:]) if re.fullmatch(r"checkpoints/step-[0-9]{8}", text) else -1
    return Sight(tuple(sorted(complete)), tuple(faults), tuple(sorted(hidden)), trained, pointer)


@dataclass(frozen=True)
class Truth:
    """How a run ends that nobody disturbs."""

    step: int
    weights: str
    moments: str
    best: str
    train: tuple[tuple[Any, ...], ...]
    evals: tuple[tuple[Any, ...], ...]
    samples: tuple[str, ...]

    @classmethod
    def of(cls, folder: Path, step: int) -> Truth:
        """What a finished run holds."""
        last = folder / "checkpoints" / f"step-{step:08d}"
        records = read_metrics(folder)
        train = tuple(tuple(r.get(k) for k in _TRAIN_KEYS) for r in records if r.get("event") == "train")
        evals = tuple(tuple(r.get(k) for k in _EVAL_KEYS) for r in records if r.get("event") == "eval")
        try:
            samples = tuple((folder / "samples.jsonl").read_text(encoding="utf-8").splitlines())
        except OSError:
            samples = ()
        weights, moments = sha256(last / "model.safetensors"), sha256(last / "optimizer.safetensors")
        return cls(step, weights, moments, sha256(folder / "best" / "model.safetensors"), train, evals, samples)

    def differences(self, folder: Path) -> list[str]:
        """How a run that was disturbed differs from this one."""
        found, sight = Truth.of(folder, self.step), look(folder)
        problems = []
        for name in ("weights", "moments", "best"):
            if getattr(found, name) != getattr(self, name):
                problems.append(f"{name}: sha256 {getattr(found, name) or 'none'}, expected {getattr(self, name)}")
        for name in ("train", "evals", "samples"):
            problems += _first_difference(name, getattr(found, name), getattr(self, name))
        problems += [f"checkpoint {fault}" for fault in sight.faults]
        if sight.hidden:
            problems.append(f"left behind: {', '.join(sight.hidden)}")
        if sight.pointer != self.step:
            problems.append(f"last names step {sight.pointer}, expected {self.step}")
        return problems


def _first_difference(name: str, found: tuple[Any, ...], expected: tuple[Any, ...]) -> list[str]:
    if found == expected:
        return []
    for number, (here, there) in enumerate(zip(found, expected, strict=False), 1):
        if here != there:
            return [f"{name}: line {number} is {here}, expected {there}"]
    return [f"{name}: {len(found)} lines, expected {len(expected)}"]


@dataclass(frozen=True)
class Reference:
    """The undisturbed run: its truth, and how long it took until the first update and to the end."""

    training: Training
    folder: Path
    truth: Truth
    ready: float
    seconds: float


def make_reference(training: Training, folder: Path) -> Reference:
    """Run the training undisturbed in `folder`; RuntimeError when even that fails."""
    folder.mkdir(parents=True)
    words = ["train", *training.words, "--out-dir", folder / "run", "--threads", 2]
    began = time.monotonic()
    process = start(words, environment(folder / "cache"), folder, "reference")
    while process.poll() is None and not (folder / "run" / "metrics.jsonl").exists():
        time.sleep(0.005)
    ready = time.monotonic() - began
    ended = finish(process, folder, "reference", began)
    truth = Truth.of(folder / "run", training.max_steps)
    problems = [] if ended.code == 0 else [f"exit code {ended.code}: {ended.last_lines()}"]
    problems += truth.differences(folder / "run")
    if [record[0] for record in truth.train] != list(range(1, training.max_steps + 1)) or not truth.best:
        problems.append("the metrics do not have every update, or there is no best checkpoint")
    if problems:
        raise RuntimeError(f"the undisturbed run in {folder} failed: {problems}")
    return Reference(training, folder, truth, ready, ended.seconds)


def isas() -> list[str]:
    """Quick instruction sets of this machine."""
    from symlm import _symlm

    # Without the FMA of the processor the same bits come a hundred times slower.
    return [name for name in _symlm.available_isas() if not name.endswith("soft")]
