"""`--extend-steps`: a finished run becomes the longer run, whatever happens on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conftest import Cli
from symlm.config.sources import Request
from symlm.config.toml import parse_toml
from symlm.config.train_config import TrainConfig
from symlm.errors import DataError, UserError
from symlm.run.checkpoint import link_checkpoint, verify
from symlm.run.folder import RunFolder
from symlm.run.metrics import LineLog, read_lines
from symlm.system.files import file_hash, write_atomic
from symlm.training.extend import extend, plan_extension
from symlm.training.saving import Saver
from symlm.training.schedule import pre_decay_step
from symlm.training.session import Session
from test_run_folder import MODEL, write_state

SHORT = ["--preset", "tiny", "--vocab-size", "300", "--seq-len", "32", "--batch-size", "8", "--eval-interval", "7",
         "--sample-every", "0", "--save-interval", "10", "--progress", "plain"]  # fmt: skip


def hashes(run: Path, folder: str) -> list[str]:
    return [file_hash(run / folder / name) for name in ("model.safetensors", "optimizer.safetensors")]


def evaluations(run: Path) -> list[Any]:
    return [(r["step"], r["val_loss"]) for r in read_lines(run / "metrics.jsonl") if r["event"] == "eval"]


def test_an_extended_run_is_the_longer_run(cli: Cli, text: Path, tmp_path: Path) -> None:
    run, long = tmp_path / "run", tmp_path / "long"
    assert cli("train", text.name, *SHORT, "--max-steps", 30, "--keep-last", 1, "--out-dir", "run").returncode == 0
    done = cli("train", text.name, *SHORT, "--max-steps", 50, "--warmup-steps", 1, "--out-dir", "long")
    assert done.returncode == 0, done.stderr
    # The one before the decay, at update 24, is there whatever else is kept, and so is the best one up to there.
    assert RunFolder(run).steps() == [21, 24, 30]
    done = cli("train", "--extend-steps", 20, "--out-dir", "run", "--threads", 3, "--stop-at-step", 27)
    assert done.returncode == 0, done.stderr
    assert "20 updates more, 50 in all; the decay begins at 40, resuming from 24" in done.stderr
    done = cli("train", "--extend-steps", 20, "--out-dir", "run")
    assert (done.returncode, "the run of 50 updates is not finished" in done.stderr) == (1, True)
    done = cli("train", "--resume", "auto", "--out-dir", "run")
    assert done.returncode == 0, done.stderr
    for folder in ("checkpoints/step-00000040", "checkpoints/step-00000050", "best"):
        verify(run / folder)
        assert hashes(run, folder) == hashes(long, folder)
    assert (run / "last").read_text() == (long / "last").read_text()
    assert [e for e in evaluations(run) if e[0] != 27] == evaluations(long)
    ours, theirs = (parse_toml((folder / "config.toml").read_text()) for folder in (run, long))
    assert (ours.requested, ours.values | {"keep_last": 2}) == (theirs.requested, theirs.values)
    ends = [record["step"] for record in read_lines(run / "metrics.jsonl") if record["event"] == "end"]
    assert ends == [50]


def finished(path: Path, steps: list[int], *, best: dict[int, int] | None = None, **changes: Any) -> RunFolder:
    """A folder as a run of 100 updates, of which the last 20 decay, leaves it. `best`: step -> best step then."""
    config = TrainConfig(**{"preset": "tiny", "max_steps": 100, "warmup_steps": 5, "decay_start": 80, **changes})
    folder = RunFolder(path)
    folder.lock()
    folder.start(config.with_model(), {"max_steps": 100}, {"data": {}})
    saver = Saver(folder, MODEL.to_hf(), 1, pre_decay_step(config))
    for step in steps:
        known = (best or {}).get(step)
        saver.begin(step, write_state(step, best=known), best=known == step)
    saver.wait()
    log = LineLog(path / "metrics.jsonl")
    log.write({"event": "end", "step": config.max_steps})
    log.close()
    folder.unlock()
    return folder


def opened(folder: RunFolder, **how: Any) -> tuple[int | None, int | None]:
    """Where a run is resumed, and its length."""
    run = Session.open(Request.of(TrainConfig(out_dir=str(folder.path), **how)))
    run.folder.unlock()
    return None if run.state is None else run.state.step, run.config.max_steps


def test_what_an_extension_needs_is_kept(tmp_path: Path) -> None:
    best = {60: 60, 70: 60, 80: 60, 90: 90, 100: 90}
    folder = finished(tmp_path / "run", [60, 70, 80, 90, 100], best=best)
    assert folder.steps() == [60, 80, 100]
    assert folder.best_step() == 90
    assert opened(folder, extend_steps=50) == (80, 150)
    # Nothing has changed before the text is known to be the same.
    assert folder.steps() == [60, 80, 100]
    run = Session.open(Request.of(TrainConfig(out_dir=str(folder.path), extend_steps=50)))
    assert run.extension is not None
    assert extend(folder, run.extension).trainer["best_step"] == 60
    run.folder.unlock()
    assert (folder.steps(), folder.best_step(), folder.last()) == ([60, 80], 60, folder.checkpoint_path(80))
    assert opened(folder, resume="auto") == (80, 150)
    stored = folder.settings()
    assert (stored.values["decay_start"], stored.values["warmup_steps"]) == (120, 5)


def test_a_best_checkpoint_that_is_lost_is_not_made_up(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", [60, 80, 90, 100], best={60: 60, 80: 60, 90: 90, 100: 90})
    (folder.checkpoint_path(60)).rename(tmp_path / "elsewhere")
    run = Session.open(Request.of(TrainConfig(out_dir=str(folder.path), extend_steps=50)))
    assert run.extension is not None
    state = extend(folder, run.extension)
    run.folder.unlock()
    assert (state.trainer["best_step"], state.trainer["best_val_bpb"], folder.best_step()) == (None, None, None)


@pytest.mark.parametrize("call", range(1, 5))
def test_killed_while_it_extends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Before each change of the folder: the run is then the old one, to be resumed or extended again."""
    folder = finished(tmp_path / "run", [60, 80, 90, 100], best={60: 60, 80: 60, 90: 90, 100: 90})
    left = [call]

    class Killed(BaseException):
        pass

    def dying(function: Any) -> Any:
        def wrapped(*arguments: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return function(*arguments)

        return wrapped

    run = Session.open(Request.of(TrainConfig(out_dir=str(folder.path), extend_steps=50)))
    assert run.extension is not None
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "point_last", dying(RunFolder.point_last))
        patch.setattr(RunFolder, "drop_past", dying(RunFolder.drop_past))
        patch.setattr("symlm.training.extend.link_checkpoint", dying(link_checkpoint))
        patch.setattr("symlm.training.extend.write_atomic", dying(write_atomic))
        with pytest.raises(Killed):
            extend(folder, run.extension)
    run.folder.unlock()
    assert opened(folder, resume="auto") == (100 if call == 1 else 80, 100)
    assert opened(folder, extend_steps=50) == (80, 150)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "cosine", "decay_start": 100}, "the schedule is cosine, only a wsd run can be extended"),
        ({"max_steps": 90}, "the run of 90 updates is not finished"),
        ({"decay_start": 0, "warmup_steps": 0}, "decays from its first update"),
        ({"decay_start": 70}, "step-00000070: the checkpoint before the decay is missing"),
    ],
)
def test_runs_that_cannot_be_extended(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = finished(tmp_path / "run", [80, 100])
    config = TrainConfig(**{**folder.settings().values, **changes})
    if "max_steps" in changes:
        (folder.path / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match=message):
        plan_extension(folder, config, {}, 10)


def test_an_extension_from_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", [80, 100])
    (folder.checkpoint_path(80) / "model.safetensors").write_bytes(b"x")
    with pytest.raises(DataError, match=r"step-00000080/model\.safetensors: damaged"):
        opened(folder, extend_steps=50)
    with pytest.raises(UserError, match="no run to extend"):
        Session.open(Request.of(TrainConfig(out_dir=str(tmp_path / "none"), extend_steps=50)))
    assert folder.steps() == [80, 100]
