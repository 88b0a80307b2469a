"""Whole training runs with the extension: files, resume, signals, threads, callbacks, generation."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import symlm
from conftest import HANG_S, Cli
from symlm import _symlm as symlm_core
from symlm.config.toml import parse_toml
from symlm.config.train_config import TrainConfig
from symlm.run.checkpoint import verify
from symlm.run.metrics import read_lines
from symlm.system.files import file_hash

SMALL = ["--preset", "tiny", "--vocab-size", "300", "--seq-len", "32", "--batch-size", "8", "--eval-interval", "10",
         "--sample-every", "10", "--save-interval", "10", "--progress", "plain"]  # fmt: skip


def weights(run: Path, step: int) -> str:
    return file_hash(run / "checkpoints" / f"step-{step:08d}" / "model.safetensors")


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    return [record for record in read_lines(run / "metrics.jsonl") if record["event"] == kind]


@pytest.fixture
def run(cli: Cli, text: Path, tmp_path: Path) -> Path:
    """A finished training of 30 updates."""
    done = cli("train", text.name, *SMALL, "--max-steps", 30, "--threads", 2, "--out-dir", "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return tmp_path / "run"


def test_the_run_folder_is_complete(run: Path) -> None:
    names = {path.name for path in run.iterdir()} - {".lock"}
    assert names == {"config.toml", "environment.json", "metrics.jsonl", "samples.jsonl", "tokenizer.json",
                     "checkpoints", "best", "last"}  # fmt: skip
    # The last two; the one before the decay is one of them, and before it the best so far is kept.
    names = {path.name for path in (run / "checkpoints").iterdir()}
    assert names == {"step-00000020", "step-00000024", "step-00000030"}
    for folder in (run / "best", *(run / "checkpoints").iterdir()):
        verify(folder)
    config = TrainConfig(**parse_toml((run / "config.toml").read_text()).values)
    assert (config.max_steps, config.warmup_steps, config.decay_start, config.vocab_size) == (30, 1, 24, 300)
    train = events(run, "train")
    assert [record["step"] for record in train] == [1, 10, 20, 30]
    assert train[-1]["loss"] < train[0]["loss"]
    assert set(train[0]) == {"event", "step", "tokens", "loss", "lr", "grad_norm", "tok_s", "peak_frac",
                             "worker_busy_frac", "elapsed_s", "eta_s"}  # fmt: skip
    assert train[-1]["tokens"] == 30 * 8 * 32
    evaluations = events(run, "eval")
    assert evaluations[-1]["best_val_bpb"] == min(record["val_bpb"] for record in evaluations)
    end = events(run, "end")
    assert len(end) == 1
    assert len(end[0]["tasks_per_worker"]) == 2
    assert len(list(read_lines(run / "samples.jsonl"))) == 3


def test_stop_and_resume_give_the_same_weights(cli: Cli, run: Path, tmp_path: Path) -> None:
    common = ("train", "text.txt", *SMALL, "--max-steps", 30, "--out-dir", "parts")
    done = cli(*common, "--threads", 1, "--stop-at-step", 17)
    assert done.returncode == 0, done.stderr
    assert "symlm train --resume auto --out-dir parts" in done.stderr
    parts = tmp_path / "parts"
    assert (parts / "last").read_text() == "checkpoints/step-00000017\n"
    done = cli("train", "--resume", "auto", "--out-dir", "parts", "--threads", 3, "--sectors-in-flight", 1)
    assert done.returncode == 0, done.stderr
    assert weights(parts, 30) == weights(run, 30)
    assert events(parts, "eval")[-1]["val_loss"] == events(run, "eval")[-1]["val_loss"]
    before = (parts / "metrics.jsonl").read_bytes()
    done = cli("train", "--resume", "auto", "--out-dir", "parts")
    assert done.returncode == 0
    assert "finished" in done.stderr
    assert (parts / "metrics.jsonl").read_bytes() == before


def test_killed_after_the_last_checkpoint(cli: Cli, run: Path) -> None:
    """What comes after the last update is done once more, and stands in the files once."""
    before = {kind: events(run, kind) for kind in ("train", "eval", "sample")}
    samples = (run / "samples.jsonl").read_bytes()
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    assert '"end"' in lines[-1]
    (run / "metrics.jsonl").write_text("".join(lines[:-1]))
    done = cli("train", "--resume", "auto", "--out-dir", "run")
    assert done.returncode == 0, done.stderr
    assert {kind: events(run, kind) for kind in before} == before
    assert (run / "samples.jsonl").read_bytes() == samples
    assert len(events(run, "end")) == 1


@pytest.mark.parametrize("start", ["checkpoints/step-00000020", "best"])
def test_killed_after_a_resume_from_an_older_checkpoint(
    cli: Cli, run: Path, environment: dict[str, str], start: str
) -> None:
    """No line of the metrics is lost: the run resumes from there again, not from what it had before."""
    before = {kind: events(run, kind) for kind in ("eval", "sample")}
    if start == "best":
        shutil.rmtree(run / "best")
        shutil.copytree(run / "checkpoints" / "step-00000020", run / "best")
        shutil.rmtree(run / "checkpoints" / "step-00000020")
    script = """
import os, signal, sys, symlm
class Kill(symlm.Callback):
    def on_step(self, metrics):
        if metrics["step"] == 22:
            os.kill(os.getpid(), signal.SIGKILL)
from symlm.config.toml import parse_toml
values = parse_toml(open("run/config.toml").read()).values
symlm.Trainer(symlm.TrainConfig(**{**values, "resume": sys.argv[1], "progress": "off"}), callbacks=[Kill()]).fit()
"""
    killed = subprocess.run(
        [sys.executable, "-c", script, str(run / start)], cwd=run.parent, env=environment, timeout=HANG_S, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    done = cli("train", "--resume", "auto", "--out-dir", "run")
    assert done.returncode == 0, done.stderr
    assert {kind: events(run, kind) for kind in before} == before
    assert [record["step"] for record in events(run, "train")] == [1, 10, 20, 30]


def test_a_damaged_checkpoint_is_skipped(cli: Cli, run: Path, tmp_path: Path) -> None:
    reference = weights(run, 30)
    broken = run / "checkpoints" / "step-00000030" / "model.safetensors"
    broken.write_bytes(broken.read_bytes()[:-1])
    done = cli("train", "--resume", "auto", "--out-dir", "run")
    assert done.returncode == 0, done.stderr
    assert "damaged" in done.stderr
    assert weights(run, 30) == reference
    assert [record["step"] for record in events(run, "train")] == [1, 10, 20, 30]


def test_the_config_of_a_run_makes_the_same_run(cli: Cli, run: Path, tmp_path: Path) -> None:
    done = cli("train", "-c", "run/config.toml", "--out-dir", "again")
    assert done.returncode == 0, done.stderr
    assert weights(tmp_path / "again", 30) == weights(run, 30)


def test_an_existing_run_is_not_touched(cli: Cli, run: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    done = cli("train", "text.txt", "--out-dir", "run")
    assert done.returncode == 1
    assert "there is a run already" in done.stderr
    done = cli("train", "text.txt", "--out-dir", "run", "--resume", "auto", "--seed", 7, "--lr", "1e-3")
    assert done.returncode == 1
    assert "--seed: the run has 42, asked for 7" in done.stderr
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_other_text_is_refused_on_resume(cli: Cli, text: Path, tmp_path: Path) -> None:
    common = ("train", text.name, *SMALL, "--max-steps", 30, "--out-dir", "run")
    assert cli(*common, "--stop-at-step", 5).returncode == 0
    text.write_text(text.read_text() + "\nsomething new\n" * 10)
    done = cli(*common, "--resume", "auto")
    assert done.returncode == 1, done.stderr
    assert "the text is not the one" in done.stderr


def test_a_checkpoint_knows_its_text_and_tokenizer(cli: Cli, text: Path, tmp_path: Path) -> None:
    common = ("train", text.name, *SMALL, "--max-steps", 12)
    run = tmp_path / "run"
    assert cli(*common, "--out-dir", "run", "--stop-at-step", 5).returncode == 0
    tokenizer = (run / "tokenizer.json").read_bytes()
    # Without the description of the run nothing else tells the text from another.
    (run / "environment.json").unlink()
    words = text.read_text()
    text.write_text(words.replace("fox", "dog"))
    done = cli("train", "--resume", "auto", "--out-dir", "run")
    assert (done.returncode, "the text is not the one" in done.stderr) == (1, True), done.stderr
    text.write_text(words)
    # Two bytes that the text does not have change their places: it has the same tokens.
    raw = json.loads(tokenizer)
    vocab = raw["model"]["vocab"]
    vocab["Q"], vocab["X"] = vocab["X"], vocab["Q"]
    (run / "tokenizer.json").write_text(json.dumps(raw))
    done = cli("train", "--resume", "auto", "--out-dir", "run")
    assert (done.returncode, "not the tokenizer" in done.stderr) == (3, True), done.stderr
    # One that is lost follows from the text, and comes back.
    (run / "tokenizer.json").unlink()
    done = cli("train", "--resume", "auto", "--out-dir", "run")
    assert done.returncode == 0, done.stderr
    assert (run / "tokenizer.json").read_bytes() == tokenizer


def test_a_terminal_is_not_waited_for(cli: Cli, text: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    piped = cli("train", "-", *SMALL, "--max-steps", 2, "--out-dir", "run", "--stop-at-step", 1, stdin=text.read_text())
    assert piped.returncode == 0, piped.stderr
    ours, theirs = os.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "symlm", "train", "--resume", "auto", "--out-dir", "run"],
        cwd=tmp_path, env=environment, stdin=theirs, capture_output=True, text=True, timeout=HANG_S, check=False,
    )  # fmt: skip
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 1, done.stderr
    assert "the text of the run was standard input" in done.stderr
    assert "hint: pipe it in again, or name its file" in done.stderr


def test_a_time_limit_is_resolved_once(cli: Cli, text: Path, tmp_path: Path) -> None:
    done = cli("train", text.name, *SMALL, "--max-time", "3s", "--out-dir", "run", "--save-interval", "1h")
    assert done.returncode == 0, done.stderr
    parsed = parse_toml((tmp_path / "run" / "config.toml").read_text())
    assert parsed.requested == {"max_time": 3.0}
    assert events(tmp_path / "run", "end")[0]["step"] == parsed.values["max_steps"]


def start(cli_folder: Path, environment: dict[str, str], *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "symlm", *map(str, words)],
        cwd=cli_folder, env=environment, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
    )  # fmt: skip


def wait_for_steps(process: subprocess.Popen[str], run: Path, step: int) -> None:
    deadline = time.monotonic() + HANG_S
    while process.poll() is None and time.monotonic() < deadline:
        if any(record.get("step", 0) >= step for record in read_lines(run / "metrics.jsonl")):
            return
        time.sleep(0.05)
    process.kill()
    raise AssertionError(process.communicate()[1])


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_the_run_can_go_on(
    text: Path, tmp_path: Path, environment: dict[str, str], cli: Cli, signum: int, code: int
) -> None:
    process = start(tmp_path, environment, "train", text.name, *SMALL, "--max-steps", 100_000, "--out-dir", "run")
    wait_for_steps(process, tmp_path / "run", 10)
    process.send_signal(signum)
    error = process.communicate(timeout=HANG_S)[1]
    assert process.returncode == code, error
    assert "symlm train --resume auto --out-dir run" in error
    stop = events(tmp_path / "run", "stop")[0]
    assert (tmp_path / "run" / "last").read_text() == f"checkpoints/step-{stop['step']:08d}\n"
    done = cli("train", "--resume", "auto", "--out-dir", "run", "--stop-at-step", stop["step"] + 3)
    assert done.returncode == 0, done.stderr


def test_the_process_has_three_threads_more_than_workers(
    text: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    words = ["--max-steps", 100_000, "--threads", 5, "--eval-interval", 0, "--sample-every", 0, "--save-interval", "1h"]
    process = start(tmp_path, environment, "train", text.name, *SMALL, *words, "--out-dir", "run")
    wait_for_steps(process, tmp_path / "run", 10)
    tasks = Path(f"/proc/{process.pid}/task")
    names = sorted((task / "comm").read_text().strip() for task in tasks.iterdir() if task.name != str(process.pid))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=HANG_S)
    assert names == ["symlm-ctl", "symlm-pre", "symlm-w00", "symlm-w01", "symlm-w02", "symlm-w03", "symlm-w04"]


def test_the_training_path_does_not_import_numpy(text: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    code = (
        "import sys, symlm\n"
        "config = symlm.TrainConfig(preset='tiny', vocab_size=300, seq_len=32, batch_size=4, max_steps=2,\n"
        "                           out_dir='run', progress='rich')\n"
        f"symlm.Trainer(config, data={str(text)!r}).fit()\n"
        "assert not {'numpy', 'matplotlib'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


class Recorder(symlm.Callback):
    """Notes every call and stops after a number of steps."""

    def __init__(self, stop_after: int) -> None:
        self.stop_after = stop_after
        self.calls: list[str] = []
        self.steps: list[int] = []

    def on_step(self, metrics: Mapping[str, Any]) -> symlm.Control | None:
        self.steps.append(metrics["step"])
        return symlm.Control.STOP if len(self.steps) >= self.stop_after else None

    def on_log(self, metrics: Mapping[str, Any]) -> None:
        self.calls.append("log")

    def on_eval(self, metrics: Mapping[str, Any]) -> None:
        self.calls.append("eval")

    def on_save(self, step: int, path: Path) -> None:
        assert path.is_dir()
        self.calls.append("save")

    def on_sample(self, step: int, text: str) -> None:
        self.calls.append("sample")


def test_callbacks_see_everything_and_can_stop(
    text: Path, tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMLM_CACHE_DIR", environment["SYMLM_CACHE_DIR"])
    config = symlm.TrainConfig(
        preset="tiny", vocab_size=300, seq_len=32, batch_size=4, max_steps=50, eval_interval=3, sample_every=4,
        log_interval=2, out_dir=str(tmp_path / "run"), progress="off",
    )  # fmt: skip
    recorder = Recorder(stop_after=7)
    run = symlm.Trainer(config, data=[text], callbacks=[recorder]).fit()
    assert (run.step, run.finished) == (7, False)
    assert recorder.steps == [1, 2, 3, 4, 5, 6, 7]
    assert recorder.calls == ["log", "log", "eval", "log", "sample", "log", "eval", "eval", "save"]


class Spoiled:
    """An engine whose evaluations or samples fail after a step, as those of weights that are not finite do."""

    made_by = symlm_core.Engine
    where = "evaluate"
    since = 20

    def __init__(self, *arguments: Any) -> None:
        self.engine = self.made_by(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def evaluate(self, *arguments: Any) -> Any:
        report = self.engine.evaluate(*arguments)
        if self.where != "evaluate" or self.engine.step < self.since:
            return report
        return SimpleNamespace(loss=math.nan, bits_per_byte=math.nan, windows=report.windows)

    def snapshot(self) -> Any:
        if self.where != "snapshot" or self.engine.step < self.since:
            return self.engine.snapshot()

        def stream(*arguments: Any) -> Any:
            raise symlm.NanError("the logits are not finite numbers")

        return SimpleNamespace(stream_behind=stream)


@pytest.mark.parametrize("where", ["evaluate", "snapshot"])
def test_weights_that_are_not_finite_are_never_saved(
    text: Path, tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setenv("SYMLM_CACHE_DIR", environment["SYMLM_CACHE_DIR"])
    monkeypatch.setattr(symlm_core, "Engine", Spoiled)
    monkeypatch.setattr(Spoiled, "where", where)
    config = symlm.TrainConfig(
        preset="tiny", vocab_size=300, seq_len=32, batch_size=4, max_steps=50, eval_interval=10, sample_every=10,
        save_interval=10, out_dir=str(tmp_path / "run"), progress="off",
    )  # fmt: skip
    with pytest.raises(symlm.NanError, match=r"step 20: .*; the last good checkpoint is .*step-00000010"):
        symlm.Trainer(config, data=[text]).fit()
    run = tmp_path / "run"
    assert (run / "last").read_text() == "checkpoints/step-00000010\n"
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000010"]
    assert [record["step"] for record in events(run, "nan")] == [20]
    assert [record["step"] for record in events(run, "eval")] == ([10] if where == "evaluate" else [10, 20])


def test_a_damaged_model_is_refused(cli: Cli, run: Path) -> None:
    file = run / "best" / "model.safetensors"
    raw = file.read_bytes()
    file.unlink()
    file.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    for words in (("generate", "run", "-n", 3), ("generate", "run/best", "-n", 3), ("eval", "run", "text.txt")):
        done = cli(*words)
        assert done.returncode == 3, done.stderr
        assert "run/best/model.safetensors: damaged" in done.stderr
        assert "--checkpoint" in done.stderr
    assert cli("generate", "run", "-n", 3, "--checkpoint", "20").returncode == 0
    (run / "best" / "MANIFEST.json").unlink()
    assert cli("generate", "run", "-n", 3).returncode == 0


def test_an_evaluation_that_is_not_a_number_fails(
    run: Path, text: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMLM_CACHE_DIR", environment["SYMLM_CACHE_DIR"])
    monkeypatch.setattr(symlm_core, "Engine", Spoiled)
    monkeypatch.setattr(Spoiled, "since", 0)
    with pytest.raises(symlm.NanError, match="the loss on this text is nan"):
        symlm.evaluate(run, text, checkpoint="last", progress="off")


def test_a_full_disk_is_found_first(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    config = symlm.TrainConfig(preset="tiny", keep_last=10**6, out_dir=str(tmp_path / "run"), progress="off")
    with pytest.raises(symlm.MemoryPlanError, match=r"1 MiB free on its disk, 5 checkpoints of .* parameters need"):
        symlm.Trainer(config, data=[text]).fit()
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_checkpoint_starts_afresh(cli: Cli, run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    shutil.rmtree(run / "best")
    (run / "last").unlink()
    done = cli("train", "--resume", "auto", "--out-dir", "run", "--max-steps", 10)
    assert done.returncode == 0, done.stderr
    assert "no checkpoint yet, starting from the beginning" in done.stderr
    assert [record["step"] for record in events(run, "train")] == [1, 10]
    values = parse_toml((run / "config.toml").read_text()).values
    assert (values["max_steps"], values["decay_start"], values["batch_size"]) == (10, 8, 8)


def test_threads_beyond_the_cores_do_not_change_the_peak(
    text: Path, tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def peak(threads: int, seconds: float) -> float:
        asked.append(threads)
        return 1.0

    monkeypatch.setenv("SYMLM_CACHE_DIR", environment["SYMLM_CACHE_DIR"])
    monkeypatch.setattr(symlm_core, "fma_peak", peak)
    monkeypatch.setattr(symlm_core, "available_cpus", lambda: SimpleNamespace(count=2, rule="test"))
    config = symlm.TrainConfig(
        preset="tiny", vocab_size=300, seq_len=32, batch_size=4, max_steps=1, threads=3, out_dir=str(tmp_path / "run"),
        progress="off",
    )  # fmt: skip
    symlm.Trainer(config, data=[text]).fit()
    assert set(asked) == {2}


def test_generation(cli: Cli, run: Path) -> None:
    generator = symlm.Generator.from_pretrained(run)
    options: dict[str, Any] = {"max_new_tokens": 40, "seed": 3}
    pieces = list(generator.stream("the quick", **options))
    whole = "".join(pieces)
    assert whole
    assert generator.generate("the quick", **options) == whole
    assert generator.generate("the quick", **options, sample_index=1) != whole
    stop = whole[5:8]
    assert generator.generate("the quick", **options, stop=[stop]) == whole[: whole.find(stop)]
    ids = generator.tokenizer.encode("the quick")
    logits = generator.logits(ids)
    assert (logits.shape, str(logits.dtype)) == ((len(ids), 300), "float32")
    greedy = generator.generate("the quick", max_new_tokens=1, temperature=0)
    assert greedy == generator.tokenizer.decode([int(logits[-1].argmax())])
    done = cli("generate", "run", "--prompt", "the quick", "-n", 40, "--seed", 3)
    assert (done.returncode, done.stdout) == (0, f"the quick{whole}\n")
    assert "seed: 3" in done.stderr
    assert cli("generate", "run", "-n", 40, "--seed", 3, "--no-echo", stdin="the quick\n").stdout == f"{whole}\n"
    assert cli("generate", "run", "--checkpoint", "20", "-n", 3).returncode == 0
    assert cli("generate", "run", "--checkpoint", "21", "-n", 3).returncode == 1


def test_evaluation_repeats_what_the_run_measured(cli: Cli, run: Path, text: Path, tmp_path: Path) -> None:
    held_out = tmp_path / "held.txt"
    shutil.copy(text, held_out)
    done = cli("train", text.name, *SMALL, "--max-steps", 5, "--eval-batches", 0, "--val-data", held_out.name,
               "--out-dir", "other")  # fmt: skip
    assert done.returncode == 0, done.stderr
    measured = events(tmp_path / "other", "eval")[-1]
    done = cli("eval", "other", held_out.name, "--checkpoint", "last", "--json", "--threads", 1)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["loss"], result["bits_per_byte"]) == (measured["val_loss"], measured["val_bpb"])
    assert result["windows"] == measured["windows"]


def test_one_writer(text: Path, tmp_path: Path, environment: dict[str, str], cli: Cli) -> None:
    process = start(tmp_path, environment, "train", text.name, *SMALL, "--max-steps", 100_000, "--out-dir", "run")
    wait_for_steps(process, tmp_path / "run", 1)
    done = cli("train", "--resume", "auto", "--out-dir", "run")
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=HANG_S)
    assert done.returncode == 1
    assert "another process is training this run" in done.stderr
