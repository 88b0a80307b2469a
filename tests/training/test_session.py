"""Opening a run: settings meet those of the run once, a dry run opens what training would, and what is due when."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import Cli
from symlm.config.sources import Request
from symlm.config.train_config import TrainConfig
from symlm.display.view import View
from symlm.errors import UserError
from symlm.run.folder import RunFolder
from symlm.training.due.part import is_multiple, next_multiple
from symlm.training.due.saves import Saves
from symlm.training.progress import Progress
from symlm.training.session import Session

SMALL = (
    "--preset", "tiny", "--vocab-size", 300, "--seq-len", 32, "--batch-size", 4, "--sample-every", 0,
    "--eval-interval", 0, "--hash-interval", 0, "--save-interval", 5,
)  # fmt: skip


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_is_looked_for_once(cli: Cli, text: Path, tmp_path: Path) -> None:
    """Its own settings do not lead to another folder than those that were given."""
    started = cli("train", text.name, *SMALL, "--max-steps", 12, "--out-dir", "runs/stdlib-tiny", "--stop-at-step", 4)
    assert started.returncode == 0, started.stderr
    done = cli("train", "--resume", "auto")
    assert done.returncode == 0, done.stderr
    assert "resuming from step 4" in done.stderr
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["stdlib-tiny"]
    assert RunFolder(tmp_path / "runs" / "stdlib-tiny").finished(12)


def test_a_dry_run_opens_what_training_would(cli: Cli, text: Path, tmp_path: Path) -> None:
    words = ("train", "--resume", "auto", "--out-dir", "run", "--dry-run", "--progress", "json")
    assert cli("train", text.name, *SMALL, "--max-steps", 20, "--out-dir", "run").returncode == 0
    before = contents(tmp_path / "run")
    refused = cli(*words, "--learning-rate", 1)
    assert refused.returncode == 1
    assert "--learning-rate: the run has 0.004, asked for 1.0" in refused.stderr
    assert refused.stdout == ""
    for more, updates in (((), 0), (("--extend-steps", 10), 14)):
        done = cli(*words, *more)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["updates"] == updates
    older = cli(*words[:2], "run/checkpoints/step-00000016", *words[3:])
    assert json.loads(older.stdout)["updates"] == 4
    assert contents(tmp_path / "run") == before
    # It only looks: also into a run that somebody trains.
    holder = RunFolder(tmp_path / "run")
    holder.lock()
    try:
        assert cli(*words).returncode == 0
        assert "another process is training" in cli("train", "--resume", "auto", "--out-dir", "run").stderr
    finally:
        holder.unlock()


def test_only_what_was_given_can_be_in_conflict(tmp_path: Path) -> None:
    run = TrainConfig(preset="tiny", max_steps=100, warmup_steps=5, decay_start=80, learning_rate=2e-3)
    folder = RunFolder(tmp_path / "run")
    folder.lock()
    folder.start(run.with_model(), {"max_steps": 100}, {"data": {}})
    (folder.checkpoint_path(10)).mkdir()
    folder.unlock()
    asked = TrainConfig(preset="3m", learning_rate=1.0, out_dir=str(folder.path), resume="auto", threads=3)
    with pytest.raises(UserError, match=r"--learning-rate: the run has 0\.002, asked for 1\.0"):
        Session.open(Request(asked, frozenset({"out_dir", "resume", "learning_rate"})))
    with pytest.raises(UserError, match=r"--preset: the run has tiny, asked for 3m; .*--learning-rate"):
        Session.open(Request.of(asked))
    # The checkpoint is none, which is found only when the settings are agreed on.
    with pytest.raises(Exception, match="no checkpoint to resume from"):
        Session.open(Request(asked, frozenset({"out_dir", "resume", "threads"})))
    (folder.checkpoint_path(10)).rmdir()
    with Session.open(Request(asked, frozenset({"out_dir", "resume", "threads"}))) as session:
        assert (session.config.preset, session.config.learning_rate, session.config.threads) == ("tiny", 2e-3, 3)
        assert session.config.max_steps == 100
        with pytest.raises(UserError, match="another process"):
            RunFolder(folder.path).lock()
        with Session.open(Request(asked, frozenset({"out_dir", "resume"})), dry=True) as looking:
            assert (looking.config.max_steps, looking.start_step, looking.is_new) == (100, 0, True)
    RunFolder(folder.path).lock()


@given(st.integers(0, 10**6), st.integers(0, 1000))
def test_updates_wait_where_something_is_due(step: int, interval: int) -> None:
    following = next_multiple(step, interval)
    if following is None:
        assert interval == 0 and not is_multiple(step, interval)
        return
    assert step < following <= step + interval and is_multiple(following, interval)
    assert not any(is_multiple(between, interval) for between in range(step + 1, following))


def test_a_checkpoint_waits_for_an_update_that_was_applied() -> None:
    running: Any = SimpleNamespace(
        config=TrainConfig(save_interval=10),
        pre_decay=35,
        policy=SimpleNamespace(skips=0),
        progress=SimpleNamespace(checkpoint_step=0, improved=False),
    )
    saves = Saves(running, SimpleNamespace())  # type: ignore[arg-type]
    assert [step for step in range(30) if saves.due(step)] == list(range(10, 30))
    running.policy.skips = 2
    assert not saves.due(10) and saves.due(35)
    running.policy.skips = 0
    assert saves.due(13)
    running.progress.checkpoint_step = 13
    assert [step for step in range(14, 21) if saves.due(step)] == [20]
    assert [saves.next_after(step) for step in (0, 10, 29, 30, 35, 40)] == [10, 20, 30, 35, 40, 50]
    running.progress.improved = True
    assert saves.due(14)


def test_a_step_that_is_undone_is_not_saved_as_the_best() -> None:
    """The evaluation called it the best; a rollback came before the save."""
    progress = Progress(View(), 10, step=7, tokens=70, improved=True, finite_step=7, checkpoint_step=5)
    progress.restart()
    assert (progress.step, progress.tokens, progress.finite_step, progress.checkpoint_step) == (0, 0, -1, 0)
    assert not progress.improved
