"""The run folder: lock, checkpoints, manifest, metrics, MODEL arguments."""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symlm._symlm import CONTRACT_VERSION
from symlm.config.model_config import ModelConfig
from symlm.config.sources import Request
from symlm.config.train_config import TrainConfig
from symlm.errors import DataError, UsageError, UserError
from symlm.layout import BEST, MANIFEST, OPTIMIZER, STATE, WEIGHTS
from symlm.model.resolve import resolve_model
from symlm.run.checkpoint import State, recover, verify
from symlm.run.folder import RunFolder, default_out_dir
from symlm.run.metrics import LineLog, read_lines, to_line, truncate_past
from symlm.system.files import file_hash
from symlm.training.saving import Saved, Saver, Start, write_checkpoint
from symlm.training.session import Session

MODEL = TrainConfig().model


@dataclass(frozen=True)
class Whole:
    """A file that was written."""

    bytes: int
    sha256: str


class Files:
    """Files of a save that are there after `wait` was called some times."""

    def __init__(self, folder: Path, error: Exception | None = None, waits: int = 1) -> None:
        self.folder, self.error, self.waits = folder, error, waits

    def wait(self, timeout_s: float = 0.0) -> bool:
        self.waits -= 1
        return self.waits <= 0

    def finish(self) -> dict[str, Whole]:
        if self.error is not None:
            raise self.error
        return {path.name: Whole(path.stat().st_size, file_hash(path)) for path in self.folder.iterdir()}


def write_state(step: int, size: int = 64, best: int | None = None, **how: Any) -> Start:
    def start(folder: Path) -> tuple[Files, State]:
        assert list(folder.iterdir()) == []
        (folder / WEIGHTS).write_bytes(bytes([step % 256]) * size)
        (folder / OPTIMIZER).write_bytes(b"o" * size)
        engine = {"step": step, "contract": CONTRACT_VERSION}
        trainer = {"step": step, "tokens": 1, "elapsed_s": 0.5, "best_step": best}
        return Files(folder, **how), State(engine, trainer, {"model": {}, "train": {}})

    return start


def make_run(path: Path, steps: list[int], best: int | None = None, **changes: Any) -> RunFolder:
    config = TrainConfig(**{"preset": "tiny", "max_steps": 100, "warmup_steps": 5, "decay_start": 80, **changes})
    folder = RunFolder(path)
    folder.lock()
    folder.start(config.with_model(), {"max_steps": 100}, {"data": {}})
    (path / "tokenizer.json").write_text("{}")
    saver = Saver(folder, MODEL.to_hf(), keep=2)
    for step in steps:
        saver.begin(step, write_state(step, best=best), best=step == best)
    saver.wait()
    folder.unlock()
    return folder


def test_checkpoints_are_complete_and_pruned(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [10, 20, 30], best=20)
    assert run.steps() == [20, 30]
    assert run.last() == run.checkpoint_path(30)
    for folder in (run.checkpoint_path(20), run.checkpoint_path(30), run.path / BEST):
        verify(folder)
        assert {path.name for path in folder.iterdir()} == {WEIGHTS, OPTIMIZER, STATE, "config.json", MANIFEST}
    assert State.read(run.path / BEST).step == 20
    assert ModelConfig.from_hf(run.path / BEST / "config.json") == MODEL


@pytest.mark.parametrize("name", [WEIGHTS, OPTIMIZER, STATE])
@pytest.mark.parametrize("damage", ["missing", "shorter", "changed"])
def test_every_damage_is_found(tmp_path: Path, name: str, damage: str) -> None:
    folder = tmp_path / "step"
    write_checkpoint(folder, MODEL.to_hf(), write_state(3))
    verify(folder)
    file = folder / name
    raw = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(raw[:-1] if damage == "shorter" else bytes([raw[0] ^ 1]) + raw[1:])
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        verify(folder)


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"files": 3}', '{"files": {}}'])
def test_a_damaged_manifest_is_found(tmp_path: Path, content: str | None) -> None:
    folder = tmp_path / "step"
    write_checkpoint(folder, MODEL.to_hf(), write_state(3))
    if content is None:
        (folder / MANIFEST).unlink()
    else:
        (folder / MANIFEST).write_text(content)
    with pytest.raises(DataError, match=r"anifest|MANIFEST"):
        verify(folder)


def test_a_save_that_fails_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "step"
    write_checkpoint(folder, MODEL.to_hf(), write_state(1))
    with pytest.raises(UserError, match="step: cannot save the checkpoint: no space left on device"):
        write_checkpoint(folder, MODEL.to_hf(), write_state(2, error=OSError(28, "No space left on device")))
    verify(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["step"]


def test_recovery_after_a_crash(tmp_path: Path) -> None:
    best = tmp_path / "best"
    write_checkpoint(best, MODEL.to_hf(), write_state(1))
    best.rename(tmp_path / ".old-best")
    (tmp_path / ".tmp-best").mkdir()
    (tmp_path / ".tmp-best" / "part").write_bytes(b"x")
    (tmp_path / ".tmp-last").write_text("half")
    recover(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    verify(best)


def test_new_folders_are_flushed_with_those_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[Path] = []
    for module in ("symlm.system.files", "symlm.run.folder"):
        monkeypatch.setattr(f"{module}.sync_file", flushed.append)
    make_run(tmp_path / "a" / "run", [])
    assert {tmp_path, tmp_path / "a", tmp_path / "a" / "run"} <= set(flushed)


def test_one_writer(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [10])
    run.lock()
    with pytest.raises(UserError, match="another process"):
        RunFolder(run.path).lock()
    run.unlock()
    RunFolder(run.path).lock()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [10])
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="there is a run already"):
        Session.open(Request.of(TrainConfig(out_dir=str(run.path))))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="not empty"):
        Session.open(Request.of(TrainConfig(out_dir=str(tmp_path / "other"))))
    with pytest.raises(UserError, match="not a folder"):
        Session.open(Request.of(TrainConfig(out_dir=str(tmp_path / "other" / "mine.txt"))))
    assert before == {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}


def test_a_folder_in_which_nothing_was_started_goes_away(tmp_path: Path) -> None:
    opened = Session.open(Request.of(TrainConfig(out_dir=str(tmp_path / "a" / "b"))))
    assert opened.is_new
    opened.folder.unlock()
    assert not (tmp_path / "a").exists()


def test_resume_takes_the_last_checkpoint_that_is_whole(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [10, 20])
    opened = Session.open(Request.of(TrainConfig(out_dir=str(run.path), resume="auto", threads=3)))
    assert (opened.checkpoint, opened.config.threads) == (run.checkpoint_path(20), 3)
    opened.folder.unlock()
    (run.checkpoint_path(20) / WEIGHTS).write_bytes(b"broken")
    opened = Session.open(Request.of(TrainConfig(out_dir=str(run.path), resume="auto")))
    assert opened.checkpoint == run.checkpoint_path(10)
    assert len(opened.notes) == 1
    opened.folder.unlock()
    with pytest.raises(DataError, match="damaged"):
        Session.open(Request.of(TrainConfig(out_dir=str(run.path), resume="last")))


def test_a_run_with_no_usable_checkpoint_is_left_as_it_is(tmp_path: Path) -> None:
    """It never starts afresh: that would overwrite everything in the folder."""
    run = make_run(tmp_path / "run", [10, 20], best=10)
    for folder in (run.checkpoint_path(10), run.checkpoint_path(20), run.path / BEST):
        raw = json.loads((folder / MANIFEST).read_text())
        (folder / MANIFEST).unlink()
        (folder / MANIFEST).write_text(json.dumps(raw | {"version": 2}))
    before = sorted(run.path.rglob("*"))
    with pytest.raises(
        DataError, match=r"no checkpoint to resume from: .*step-00000020.*version 2, expected 1"
    ) as caught:
        Session.open(Request.of(TrainConfig(out_dir=str(run.path), resume="auto")))
    assert "2 other checkpoints" in caught.value.message
    assert sorted(run.path.rglob("*")) == before


def test_a_run_that_was_started_meanwhile_is_not_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = RunFolder.lock

    def after_another(folder: RunFolder) -> None:
        monkeypatch.setattr(RunFolder, "lock", lock)
        make_run(tmp_path / "run", [10])
        lock(folder)

    monkeypatch.setattr(RunFolder, "lock", after_another)
    with pytest.raises(UserError, match="there is a run already"):
        Session.open(Request.of(TrainConfig(out_dir=str(tmp_path / "run"), resume="auto")))
    RunFolder(tmp_path / "run").lock()
    assert RunFolder(tmp_path / "run").steps() == [10]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (MANIFEST, lambda raw: raw | {"version": 2}, "version 2, expected 1"),
        (
            STATE,
            lambda raw: raw | {"engine": raw["engine"] | {"contract": 3}},
            "numeric contract 3, expected at most 2",
        ),
        (STATE, lambda raw: raw | {"engine": raw["engine"] | {"step": 19}}, "the engine is at step 19"),
        (STATE, lambda raw: {part: raw[part] | {"step": 15} for part in raw}, "holds step 15, the name says 20"),
        (STATE, lambda raw: {"engine": 1}, "damaged trainer state: engine: found 1"),
        (STATE, None, "missing from the checkpoint"),
    ],
)
def test_resume_passes_over_what_it_cannot_use(tmp_path: Path, name: str, change: Any, message: str) -> None:
    run = make_run(tmp_path / "run", [10, 20])
    folder = run.checkpoint_path(20)
    if change is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(json.dumps(change(json.loads((folder / name).read_text()))))
    if name != MANIFEST and change is not None:
        # What the manifest says is right: it is the content that is not for this program.
        manifest = json.loads((folder / MANIFEST).read_text())
        manifest["files"][name] = {"size": (folder / name).stat().st_size, "sha256": file_hash(folder / name)}
        (folder / MANIFEST).write_text(json.dumps(manifest))
    opened = Session.open(Request.of(TrainConfig(out_dir=str(run.path), resume="auto")))
    opened.folder.unlock()
    assert opened.checkpoint == run.checkpoint_path(10)
    assert len(opened.notes) == 1
    assert message in opened.notes[0]
    assert (run.path / "last").read_text() == "checkpoints/step-00000020\n"
    for resume in ("last", str(folder)):
        with pytest.raises(DataError, match=message):
            Session.open(Request.of(TrainConfig(out_dir=str(run.path), resume=resume)))


def test_one_save_at_a_time(tmp_path: Path) -> None:
    """The checkpoint is complete when it is reported, and the next save waits for the one before."""
    folder, done = RunFolder(tmp_path / "run"), []
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)

    def report(saved: Saved) -> None:
        verify(saved.path)
        assert folder.last() == saved.path
        done.append(saved.state.step)

    saver = Saver(folder, MODEL.to_hf(), 2, report=report)
    saver.begin(10, write_state(10, waits=3))
    assert done == []
    saver.poll()
    assert (done, folder.steps()) == ([], [])
    saver.begin(20, write_state(20, waits=3))
    assert (done, folder.steps()) == ([10], [10])
    saver.begin(20, write_state(20))
    assert done == [10, 20]
    saver.begin(30, write_state(30, waits=10**9), best=True)
    assert saver.settle(limit=25) is None
    assert (done, folder.steps(), folder.best_step()) == ([10, 20], [10, 20], None)
    saver.begin(40, write_state(40), only_best=True)
    saver.wait()
    assert (done, folder.steps(), folder.best_step()) == ([10, 20], [10, 20], 40)
    assert not [path for path in folder.path.rglob("*") if path.name.startswith(".tmp-")]


def test_a_save_that_fails_in_the_end_leaves_the_run_as_it_was(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [10], best=10)
    saver = Saver(folder, MODEL.to_hf(), 2)
    saver.begin(20, write_state(20, error=UserError("cannot write x: no space left on device")), best=True)
    with pytest.raises(UserError, match="step-00000020: cannot save the checkpoint: cannot write x: no space left"):
        saver.wait()
    assert (folder.steps(), folder.best_step(), folder.last()) == ([10], 10, folder.checkpoint_path(10))
    assert saver.settle() is None
    saver.begin(30, write_state(30, error=UserError("cannot write x: no space left on device")))
    assert "no space left" in (saver.settle() or "")
    assert not [path for path in folder.path.rglob("*") if path.name.startswith(".tmp-")]


def test_a_crash_between_the_pointer_and_the_checkpoint_loses_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [10, 20])
    run.point_last(30)
    assert run.last() == run.checkpoint_path(20)
    run.point_last(5)
    assert run.last() is None


def test_a_best_that_a_crash_prevented_is_made_up_for(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [10, 20], best=10)
    saver = Saver(run, MODEL.to_hf(), 2)
    saver.begin(30, write_state(30, best=30))
    saver.wait()
    assert run.best_step() == 10
    Saver(run, MODEL.to_hf(), 2).resumed(run.checkpoint_path(30), State.read(run.checkpoint_path(30)))
    assert run.best_step() == 30
    verify(run.path / BEST)


def test_resume_by_path(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [10, 20], best=10)
    for resume, step in ((str(run.path), 20), (str(run.checkpoint_path(10)), 10), (str(run.path / BEST), 10)):
        opened = Session.open(Request.of(TrainConfig(resume=resume)))
        assert opened.state is not None
        assert opened.state.step == step
        opened.folder.unlock()
    with pytest.raises(UsageError, match="--out-dir is elsewhere"):
        Session.open(Request.of(TrainConfig(resume=str(run.path), out_dir="elsewhere")))
    with pytest.raises(UserError, match="no run and no checkpoint"):
        Session.open(Request.of(TrainConfig(resume=str(tmp_path / "none"))))
    with pytest.raises(UserError, match="no run to resume"):
        Session.open(Request.of(TrainConfig(resume="last", out_dir=str(tmp_path / "none"))))


def test_resume_with_other_settings_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [10])
    with pytest.raises(UserError) as caught:
        Session.open(Request.of(TrainConfig(out_dir=str(run.path), resume="auto", batch_size=16, seed=7)))
    assert "--batch-size: the run has 32, asked for 16" in caught.value.message
    assert "--seed: the run has 42, asked for 7" in caught.value.message


def test_a_finished_run_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [90, 100])
    config = TrainConfig(out_dir=str(run.path), resume="auto")
    opened = Session.open(Request.of(config))
    assert not opened.finished
    opened.folder.unlock()
    log = LineLog(run.path / "metrics.jsonl")
    log.write({"event": "end", "step": 100})
    log.close()
    opened = Session.open(Request.of(config))
    assert opened.finished
    opened.folder.unlock()


def test_a_pointer_that_leads_nowhere(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [10, 20], best=10)
    shutil.rmtree(run.checkpoint_path(10))
    # Killed between the pointer and the rename of the first checkpoint; `best/` is all there is.
    run.checkpoint_path(20).rename(run.checkpoint_path(20).with_name(".tmp-step-00000020"))
    found = resolve_model(run.path, "last")
    assert found.folder == run.path / BEST
    assert found.note == f'{run.path}: "last" leads to no checkpoint, using best'
    # The newest that is whole, whatever the pointer is.
    (run.path / "last").write_text("rubbish")
    run = make_run(tmp_path / "other", [10, 20], best=10)
    (run.path / "last").write_text("rubbish")
    assert resolve_model(run.path, "last").folder == run.checkpoint_path(20)
    (run.checkpoint_path(20) / WEIGHTS).write_bytes(b"damaged")
    assert resolve_model(run.path, "last").folder == run.checkpoint_path(10)
    for path in (run.checkpoint_path(10), run.path / BEST):
        (path / MANIFEST).unlink()
    with pytest.raises(UserError, match="no checkpoint yet"):
        resolve_model(run.path, "last")


def test_why_there_is_no_best_checkpoint(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [10, 20], best=10)
    shutil.rmtree(run.path / BEST)

    def note() -> str:
        found = resolve_model(run.path)
        assert found.folder == run.checkpoint_path(20) and found.note is not None
        return found.note.removeprefix(f"{run.path}: no best checkpoint").removesuffix(
            ", using checkpoints/step-00000020"
        )

    assert note() == ""
    lines = [{"event": "eval", "step": 10, "val_bpb": 2.0, "best_val_bpb": value} for value in (None, 2.0)]
    log = LineLog(run.path / "metrics.jsonl")
    log.write(lines[0])
    assert note() == " (no evaluation to choose one by)"
    log.write(lines[1])
    assert note() == " (best/ is gone)"
    log.close()


def test_model_arguments(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [10, 20], best=10)
    assert resolve_model(run.path).folder == run.path / BEST
    assert resolve_model(run.path, "last").folder == run.checkpoint_path(20)
    assert resolve_model(run.path, "20").folder == run.checkpoint_path(20)
    inner = resolve_model(run.checkpoint_path(20))
    assert inner.tokenizer == run.path / "tokenizer.json"
    assert inner.model_config() == MODEL
    with pytest.raises(UserError, match="no checkpoint of step 30"):
        resolve_model(run.path, "30")
    with pytest.raises(UserError, match='no checkpoint "worst"'):
        resolve_model(run.path, "worst")
    with pytest.raises(UserError, match="no such model"):
        resolve_model(tmp_path / "none")
    with pytest.raises(UserError, match="neither a run folder nor"):
        resolve_model(tmp_path)
    plain = make_run(tmp_path / "plain", [10])
    assert "no best checkpoint, using checkpoints/step-00000010" in (resolve_model(plain.path).note or "")


def test_default_names(tmp_path: Path) -> None:
    config = TrainConfig(data=("texts/my book.txt.gz",))
    assert default_out_dir(config, tmp_path) == tmp_path / "my-book-3m"
    (tmp_path / "my-book-3m").mkdir()
    assert default_out_dir(config, tmp_path) == tmp_path / "my-book-3m-2"
    assert default_out_dir(TrainConfig(data=config.data, resume="auto"), tmp_path) == tmp_path / "my-book-3m"
    assert default_out_dir(TrainConfig(), tmp_path) == tmp_path / "stdlib-tiny"


records = st.fixed_dictionaries(
    {
        "event": st.sampled_from(["train", "eval", "save"]),
        "step": st.integers(0, 50),
        "loss": st.floats(allow_nan=False),
    }
)


@given(st.lists(records), st.integers(0, 50))
def test_metrics_are_cut_past_the_restored_step(
    tmp_path_factory: pytest.TempPathFactory, items: Any, step: int
) -> None:
    path = tmp_path_factory.mktemp("metrics") / "metrics.jsonl"
    log = LineLog(path)
    for item in items:
        log.write(item)
    log.close()
    with path.open("a") as file:
        file.write('{"event": "train", "step": 1, "lo')
    dropped = truncate_past(path, step)
    kept = list(read_lines(path))
    assert dropped == len(items) - len(kept)
    assert [to_line(item) for item in kept] == [to_line(item) for item in items if item["step"] <= step]


def test_metrics_are_valid_json_and_exact() -> None:
    line = to_line({"loss": math.nan, "norm": math.inf, "busy": [0.1, -math.inf], "text": "ü\n"})
    assert json.loads(line) == {"loss": "nan", "norm": "inf", "busy": [0.1, "-inf"], "text": "ü\n"}
    assert "\n" not in line
    value = 0.1 + 0.2
    assert json.loads(to_line({"x": value}))["x"] == value


def test_the_pointer_cannot_leave_the_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [10])
    (run.path / "last").write_text(f"..{os.sep}..\n")
    assert run.last() is None
