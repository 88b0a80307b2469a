"""Real signals to real processes, at every stage of a command: a clean end, the right code, nothing half done."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import symlm
from conftest import HANG_S, Cli
from symlm.run.checkpoint import State, verify
from symlm.run.metrics import read_lines

TINY = ["--preset", "tiny", "--vocab-size", "300", "--seq-len", "32", "--batch-size", "8", "--threads", "2"]


@pytest.fixture
def long_text(text: Path, tmp_path: Path) -> Path:
    """A text whose preparation takes a second or more: 20 MB of different words."""
    path = tmp_path / "long.txt"
    words = text.read_text().split()
    with path.open("w") as file:
        for start in range(0, 3_000_000, 1000):
            file.write(" ".join(f"{words[i % 97]}{i * 7919 % 100_003}" for i in range(start, start + 1000)) + "\n")
    return path


def hear_hangups() -> None:
    """In a child: whoever runs the tests may have begun them with nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


class Process:
    """A command that is under way."""

    def __init__(self, folder: Path, environment: dict[str, str], words: Sequence[object], **keywords: Any) -> None:
        keywords.setdefault("stdin", subprocess.DEVNULL)
        keywords.setdefault("preexec_fn", hear_hangups)
        self.words = list(map(str, words))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "symlm", *self.words],
            cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **keywords,
        )  # fmt: skip
        self.lines: list[str] = []

    def _rest(self) -> str:
        """Standard error up to its end."""
        error: str = self.process.communicate(timeout=HANG_S)[1]
        return "".join(self.lines) + error

    def wait_for(self, what: Callable[[dict[str, Any]], bool]) -> None:
        """Read standard error up to a line of JSON."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if line.startswith("{") and what(json.loads(line)):
                return
        raise AssertionError(f"{self.process.wait()}: {''.join(self.lines)}")

    def wait_for_file(self, path: Path) -> None:
        """Wait until a file is there."""
        deadline = time.monotonic() + HANG_S
        while not path.exists():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def stop(self, signum: int) -> str:
        """Send a signal; gives all of standard error when the process has ended with the code of the signal."""
        self.process.send_signal(signum)
        try:
            error = self._rest()
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        assert self.process.returncode == 128 + signum, error
        assert "Traceback" not in error
        assert "error:" not in error
        return error


def in_task(label: str) -> Callable[[dict[str, Any]], bool]:
    """Whether a line says that a piece of work is under way."""
    return lambda record: record.get("task") == label and record["done"] < record["total"]


def check_nothing_begun(error: str, folder: Path) -> None:
    """The run folder is gone, and no part of a shard is left."""
    assert "before the run began: the same command starts it again" in error
    assert not (folder / "run").exists()
    cache = folder / "cache"
    assert not cache.exists() or not [path for path in cache.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(("kind", "signum"), [("fifo", signal.SIGINT), ("stdin", signal.SIGTERM)])
def test_while_waiting_for_text(tmp_path: Path, environment: dict[str, str], kind: str, signum: int) -> None:
    """Nobody ever writes to the pipe."""
    os.mkfifo(tmp_path / "pipe.txt")
    source = "pipe.txt" if kind == "fifo" else "-"
    words = ["train", source, *TINY, "--out-dir", "run"]
    process = Process(tmp_path, environment, words, stdin=subprocess.PIPE)
    process.wait_for_file(tmp_path / "run" / ".lock")
    check_nothing_begun(process.stop(signum), tmp_path)


@pytest.mark.parametrize(
    ("label", "signum"),
    [("tokenizer", signal.SIGTERM), ("encoding", signal.SIGINT), ("measuring the speed", signal.SIGTERM)],
)
def test_before_the_first_update(
    text: Path, long_text: Path, tmp_path: Path, environment: dict[str, str], cli: Cli, label: str, signum: int
) -> None:
    words: list[object] = ["train", long_text.name, "--out-dir", "run", "--progress", "json"]
    if label != "tokenizer":
        assert cli("tokenizer", "train", text.name, "--vocab-size", 300, "--out", "t.json").returncode == 0
        words += ["--tokenizer", "t.json"]
    if label == "measuring the speed":
        # Some seconds, a few updates.
        words[1] = text.name
        words += ["--max-time", "1h", "--batch-size", 64]
    process = Process(tmp_path, environment, words)
    process.wait_for(in_task(label))
    check_nothing_begun(process.stop(signum), tmp_path)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_inside_an_evaluation(text: Path, tmp_path: Path, environment: dict[str, str], cli: Cli, signum: int) -> None:
    """The update before is saved, and the run resumes from it."""
    words: list[object] = ["train", text.name, *TINY, "--val-split", 0.5, "--eval-batches", 0, "--eval-interval", 3]
    process = Process(tmp_path, environment, [*words, "--max-steps", 10**6, "--out-dir", "run", "--progress", "json"])
    process.wait_for(in_task("evaluation"))
    error = process.stop(signum)
    assert "symlm train --resume auto --out-dir run" in error
    run = tmp_path / "run"
    stop = next(record for record in read_lines(run / "metrics.jsonl") if record["event"] == "stop")
    assert stop["reason"] == f"signal {signal.Signals(signum).name}"
    verify(run / "checkpoints" / f"step-{stop['step']:08d}")
    done = cli("train", "--resume", "auto", "--out-dir", "run", "--stop-at-step", stop["step"] + 1)
    assert done.returncode == 0, done.stderr


def test_a_terminal_that_was_left_with_nohup(text: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    words: list[object] = ["train", text.name, *TINY, "--max-steps", 10**6, "--out-dir", "run", "--progress", "json"]

    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    process = Process(tmp_path, environment, words, preexec_fn=ignore)
    process.wait_for(lambda record: record.get("event") == "train")
    process.process.send_signal(signal.SIGHUP)
    process.wait_for(lambda record: record.get("event") == "train")
    process.stop(signal.SIGTERM)
    reasons = [record["reason"] for record in read_lines(tmp_path / "run" / "metrics.jsonl") if "reason" in record]
    assert reasons == ["signal SIGTERM"]


HIMSELF = """
import os, signal, sys
import symlm

class Kill(symlm.Callback):
    def on_eval(self, metrics):
        for name in sys.argv[1:]:
            os.kill(os.getpid(), signal.Signals[name])

config = symlm.TrainConfig(
    preset="tiny", vocab_size=300, seq_len=32, batch_size=8, max_steps=1000, eval_interval=5, sample_every=5,
    save_interval=5, out_dir="run", progress="off",
)
try:
    symlm.Trainer(config, data="text.txt", callbacks=[Kill()]).fit()
except symlm.Interrupted as stopped:
    print(stopped.signum, stopped.run_path, stopped.step)
"""


def run_script(folder: Path, environment: dict[str, str], *signals: str) -> subprocess.CompletedProcess[str]:
    """A training run that gets these signals inside the callback of its first evaluation."""
    return subprocess.run(
        [sys.executable, "-c", HIMSELF, *signals],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=HANG_S, check=False,
    )  # fmt: skip


def test_before_a_sample(text: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    """The sample that is due is left out, the checkpoint is not."""
    done = run_script(tmp_path, environment, "SIGTERM", "SIGHUP")
    assert (done.returncode, done.stdout) == (0, "15 run 5\n"), done.stderr
    events = [record["event"] for record in read_lines(tmp_path / "run" / "metrics.jsonl")]
    assert events == ["start", "train", "eval", "save", "stop"]


@pytest.mark.parametrize("way", ["signal", "inside", "callback"])
def test_what_is_due_at_the_step_of_a_stop_is_not_left_out(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """A signal leaves it to the session that resumes, a callback does not: as if the run had not been stopped.

    With this learning rate the model is best at that step.
    """
    monkeypatch.setenv("SYMLM_CACHE_DIR", str(tmp_path / "cache"))
    config = symlm.TrainConfig(
        preset="tiny", vocab_size=300, seq_len=32, batch_size=2, learning_rate=1.0, warmup_steps=3,
        schedule="constant", max_steps=9, eval_interval=3, sample_every=3, hash_interval=3, save_interval=4, threads=1,
        progress="off",
    )  # fmt: skip

    class Stop(symlm.Callback):
        def on_step(self, metrics: Mapping[str, Any]) -> symlm.Control | None:
            if metrics["step"] != 3 or way == "inside":
                return None
            if way == "callback":
                return symlm.Control.STOP
            os.kill(os.getpid(), signal.SIGTERM)
            return None

        def on_eval(self, metrics: Mapping[str, Any]) -> None:
            if metrics["step"] == 3 and way == "inside":
                # Between the evaluation and the sample.
                os.kill(os.getpid(), signal.SIGTERM)

    def told(run: Path) -> list[dict[str, Any]]:
        kept = ("event", "step", "tokens", "val_bpb", "best_val_bpb", "weights_sha256", "text")
        records = [*read_lines(run / "metrics.jsonl"), *read_lines(run / "samples.jsonl")]
        due = [record for record in records if record.get("event") in (None, "hash", "eval", "sample")]
        return [{name: record[name] for name in kept if name in record} for record in due]

    def train(folder: str, *callbacks: symlm.Callback, resume: str | None = None) -> None:
        symlm.Trainer(
            dataclasses.replace(config, out_dir=str(tmp_path / folder), resume=resume), data=text, callbacks=callbacks
        ).fit()

    train("whole")
    with contextlib.nullcontext() if way == "callback" else pytest.raises(symlm.Interrupted):
        train("stopped", Stop())
    train("stopped", resume="auto")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert told(stopped) == told(whole)
    assert State.read(stopped / "best").step == State.read(whole / "best").step == 3
    assert (stopped / "best" / "model.safetensors").read_bytes() == (whole / "best" / "model.safetensors").read_bytes()


def test_the_second_signal_ends_the_process_at_once(
    text: Path, tmp_path: Path, environment: dict[str, str], cli: Cli
) -> None:
    done = run_script(tmp_path, environment, "SIGINT", "SIGTERM")
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "")
    events = [record["event"] for record in read_lines(tmp_path / "run" / "metrics.jsonl")]
    assert events == ["start", "train", "eval"]
    done = cli("train", "--resume", "auto", "--out-dir", "run", "--stop-at-step", 6)
    assert done.returncode == 0, done.stderr


def test_other_commands_end_without_a_traceback(
    text: Path, long_text: Path, tmp_path: Path, environment: dict[str, str], cli: Cli
) -> None:
    done = cli("train", text.name, *TINY, "--max-steps", 2, "--out-dir", "run")
    assert done.returncode == 0, done.stderr
    process = Process(tmp_path, environment, ["eval", "run", long_text.name, "--progress", "json"])
    process.wait_for(in_task("encoding"))
    assert process.stop(signal.SIGTERM).endswith("stopped by SIGTERM\n")
    process = Process(tmp_path, environment, ["generate", "run", "-n", 10**8, "--prompt", "the"])
    assert process.process.stdout is not None
    assert process.process.stdout.read(3) == "the"
    assert process.stop(signal.SIGINT).endswith("stopped by SIGINT\n")
    process = Process(tmp_path, environment, ["tokenizer", "train", "pipe.txt", "--vocab-size", "300", "-o", "t.json"])
    os.mkfifo(tmp_path / "pipe.txt")
    process.process.send_signal(signal.SIGTERM)
    process.process.communicate(timeout=HANG_S)
    assert not (tmp_path / "t.json").exists()
