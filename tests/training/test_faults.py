"""What goes wrong around a training run: full disks, folders and files that go away or change, clocks that jump."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import symlm
from conftest import HANG_S, Cli
from symlm.errors import UserError
from symlm.run.checkpoint import verify
from symlm.run.folder import RunFolder
from symlm.run.metrics import LineLog, read_lines
from symlm.system.files import file_hash

SMALL = ["--preset", "tiny", "--vocab-size", "300", "--seq-len", "32", "--batch-size", "8", "--eval-interval", "10",
         "--sample-every", "10", "--save-interval", "10", "--log-interval", "1", "--progress", "plain"]  # fmt: skip
ENDLESS = [*SMALL, "--max-steps", "1000000", "--save-interval", "1h", "--out-dir", "run"]


def limited(size: int) -> Callable[[], None]:
    """Before a process starts: no file of it may become larger."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.fixture
def start(tmp_path: Path, environment: dict[str, str]) -> Callable[..., subprocess.Popen[str]]:
    """Starts a command."""

    def run(*words: object, before: Callable[[], None] | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "symlm", *map(str, words)],
            cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, preexec_fn=before,  # noqa: PLW1509 - there is one thread
        )  # fmt: skip

    return run


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and errors."""
    error = process.communicate(timeout=HANG_S)[1]
    assert "Traceback" not in error
    return process.returncode, error


def wait_for_step(process: subprocess.Popen[str], run: Path, step: int) -> None:
    deadline = time.monotonic() + HANG_S
    while not any(record.get("step", 0) >= step for record in read_lines(run / "metrics.jsonl")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def weights(run: Path, step: int) -> str:
    return file_hash(run / "checkpoints" / f"step-{step:08d}" / "model.safetensors")


def one_error(error: str) -> str:
    """The one line of an error, which a hint follows."""
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, error
    assert error.splitlines()[-1].startswith("hint: ")
    return lines[0]


def test_no_room_for_the_encoded_text(text: Path, tmp_path: Path, start: Any, cli: Cli) -> None:
    code, error = ended(start("train", text.name, *SMALL, "--out-dir", "run", before=limited(20_000)))
    assert code == 1
    assert "-train.ids: file too large" in one_error(error)
    assert not (tmp_path / "run").exists()
    assert list((tmp_path / "cache").iterdir()) == []


def test_no_room_for_a_checkpoint(text: Path, tmp_path: Path, start: Any, cli: Cli) -> None:
    """The one before stays, and the run resumes from it with the same bits."""
    common = ("train", text.name, *SMALL, "--max-steps", 20)
    assert cli(*common, "--out-dir", "whole").returncode == 0
    assert cli(*common, "--out-dir", "run", "--stop-at-step", 10).returncode == 0
    resume = ("train", "--resume", "auto", "--out-dir", "run")
    code, error = ended(start(*resume, before=limited(300_000)))
    assert code == 1
    message = one_error(error)
    # The checkpoint before the decay is the next one.
    assert "step-00000016: cannot save the checkpoint" in message
    assert "file too large" in message
    run = tmp_path / "run"
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000010"]
    verify(run / "checkpoints" / "step-00000010")
    done = cli(*resume)
    assert done.returncode == 0, done.stderr
    assert weights(run, 20) == weights(tmp_path / "whole", 20)


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl"])
def test_no_room_for_a_log(text: Path, tmp_path: Path, cli: Cli, name: str) -> None:
    """The training is not lost: it is saved where it is."""
    common = ("train", text.name, *SMALL, "--max-steps", 30, "--save-interval", 0)
    assert cli(*common, "--out-dir", "whole").returncode == 0
    assert cli(*common, "--out-dir", "run", "--stop-at-step", 8).returncode == 0
    run = tmp_path / "run"
    kept = (run / name).read_bytes() if (run / name).exists() else b""
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to("/dev/full")
    done = cli("train", "--resume", "auto", "--out-dir", "run")
    assert done.returncode == 1, done.stderr
    assert one_error(done.stderr) == f"error: run/{name}: cannot write: no space left on device"
    assert "symlm train --resume auto --out-dir run" in done.stderr
    step = RunFolder(run).steps()[-1]
    assert step == (9 if name == "metrics.jsonl" else 10)
    verify(run / "checkpoints" / f"step-{step:08d}")
    (run / name).unlink()
    (run / name).write_bytes(kept)
    done = cli("train", "--resume", "auto", "--out-dir", "run")
    assert done.returncode == 0, done.stderr
    assert weights(run, 30) == weights(tmp_path / "whole", 30)


LINES = """
from symlm.run.metrics import LineLog
from symlm.errors import UserError
from pathlib import Path
log = LineLog(Path("log.jsonl"))
for number in range(100):
    try:
        log.write({"step": number, "text": "x" * 90})
    except UserError as error:
        print(number, error.message)
        break
"""


def test_no_part_of_a_line_is_left(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LINES], cwd=tmp_path, capture_output=True, text=True, check=True,
        preexec_fn=limited(1000),
    )  # fmt: skip
    assert done.stdout == "8 log.jsonl: cannot write: file too large\n"
    raw = (tmp_path / "log.jsonl").read_bytes()
    assert (len(raw.splitlines()), raw[-1:]) == (8, b"\n")
    with pytest.raises(UserError, match="no space left on device"):
        LineLog(Path("/dev/full")).write({"step": 1})


@pytest.mark.parametrize("moved", [False, True], ids=["removed", "moved"])
def test_the_run_folder_goes_away(text: Path, tmp_path: Path, start: Any, cli: Cli, moved: bool) -> None:
    process = start("train", text.name, *ENDLESS)
    run = tmp_path / "run"
    wait_for_step(process, run, 3)
    aside = tmp_path / "aside"
    run.rename(aside)
    code, error = ended(process)
    assert code == 1
    assert "run: the run folder was removed or moved under way" in one_error(error)
    assert not run.exists()
    if moved:
        done = cli("train", "--resume", "auto", "--out-dir", "aside", "--stop-at-step", 5)
        assert done.returncode == 0, done.stderr


def test_tokens_that_change_under_way(text: Path, tmp_path: Path, start: Any, cli: Cli) -> None:
    """A file that is cut ends training cleanly; what was learnt is saved, the tokens are made again."""
    process = start("train", text.name, *ENDLESS)
    wait_for_step(process, tmp_path / "run", 3)
    shard = next((tmp_path / "cache").glob("*-train.ids"))
    os.truncate(shard, 1000)
    code, error = ended(process)
    assert code == 3, error
    assert "the tokens changed while they were in use" in one_error(error)
    step = RunFolder(tmp_path / "run").steps()[-1]
    done = cli("train", "--resume", "auto", "--out-dir", "run", "--stop-at-step", step + 2)
    assert done.returncode == 0, done.stderr


def test_text_that_goes_away_between_two_runs(text: Path, tmp_path: Path, cli: Cli) -> None:
    assert cli("train", text.name, *SMALL, "--max-steps", 8, "--stop-at-step", 4, "--out-dir", "run").returncode == 0
    text.rename(tmp_path / "elsewhere.txt")
    done = cli("train", "--resume", "auto", "--out-dir", "run")
    assert done.returncode == 3
    assert "text.txt" in one_error(done.stderr)
    done = cli("train", "elsewhere.txt", "--resume", "auto", "--out-dir", "run")
    assert done.returncode == 0, done.stderr


def test_a_killed_process_leaves_no_lock(text: Path, tmp_path: Path, start: Any, cli: Cli) -> None:
    process = start("train", text.name, *ENDLESS, "--save-interval", "1")
    wait_for_step(process, tmp_path / "run", 3)
    second = cli("train", "--resume", "auto", "--out-dir", "run")
    assert "another process is training this run" in one_error(second.stderr)
    process.kill()
    assert ended(process)[0] == -signal.SIGKILL
    step = RunFolder(tmp_path / "run").steps()[-1]
    done = cli("train", "--resume", "auto", "--out-dir", "run", "--stop-at-step", step + 2)
    assert done.returncode == 0, done.stderr


def test_a_start_that_was_killed_is_no_obstacle(text: Path, tmp_path: Path, cli: Cli) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    for name in (".lock", "tokenizer.json", "environment.json", ".tmp-config.toml", ".tokenizer-x1"):
        (run / name).write_text("half")
    done = cli("train", text.name, *SMALL, "--max-steps", 2, "--out-dir", "run", "--resume", "auto")
    assert done.returncode == 0, done.stderr
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "tokenizer.json").write_text("mine")
    done = cli("train", text.name, *SMALL, "--max-steps", 2, "--out-dir", "mine")
    assert done.returncode == 1
    assert "not empty and holds no run" in one_error(done.stderr)
    assert [path.name for path in mine.iterdir()] == ["tokenizer.json"]


def test_a_clock_that_jumps(
    text: Path, tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Times in the metrics and intervals follow the clock that cannot be set."""
    monkeypatch.setenv("SYMLM_CACHE_DIR", environment["SYMLM_CACHE_DIR"])
    clock = [time.time()]

    def backwards() -> float:
        clock[0] -= 3600.0
        return clock[0]

    monkeypatch.setattr(time, "time", backwards)
    config = symlm.TrainConfig(
        preset="tiny", vocab_size=300, seq_len=32, batch_size=8, max_time=2.0, save_interval="1h", schedule="constant",
        log_interval=1, sample_every=0, out_dir=str(tmp_path / "run"), progress="off",
    )  # fmt: skip
    run = symlm.Trainer(config, data=[text]).fit()
    assert run.finished
    records = list(read_lines(run.path / "metrics.jsonl"))
    elapsed = [record["elapsed_s"] for record in records if record["event"] == "train"]
    assert elapsed == sorted(elapsed)
    assert elapsed[0] >= 0
    assert sum(record["event"] == "save" for record in records) == 1


def test_a_folder_of_somebody_else_is_not_cleared(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.lock()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    folder.unlock()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]
    shutil.rmtree(tmp_path / "run")
