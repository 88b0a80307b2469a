"""`symlm replay` and `symlm verify`: updates computed again, and the hashes of weights in the metrics."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import planted
import symlm
from conftest import Cli
from planted import fit, plant
from symlm import _symlm
from symlm.check.replay import Recorded
from symlm.check.verify import verify as verify_run
from symlm.layout import MANIFEST
from symlm.run.checkpoint import State, verify
from symlm.run.metrics import read_lines, rewrite
from symlm.system.files import file_hash


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    return [record for record in read_lines(run / "metrics.jsonl") if record["event"] == kind]


def snapshot(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SYMLM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(_symlm, "fma_peak", lambda threads, seconds: 1.0)
    planted.write_text(tmp_path / "text.txt", 90, 40)
    return tmp_path


@pytest.fixture
def run(folder: Path) -> Path:
    """A finished training of 40 updates with checkpoints at 30, where the decay begins, and 40."""
    return fit(folder, "run", max_steps=40, keep_last=2, decay_frac=0.25).path


def test_hashes_are_those_of_the_files(run: Path) -> None:
    hashes = {record["step"]: record["weights_sha256"] for record in records(run, "hash")}
    assert sorted(hashes) == [10, 20, 30, 40]
    for step in (30, 40):
        assert hashes[step] == file_hash(run / "checkpoints" / f"step-{step:08d}" / "model.safetensors")


def test_no_hashes_without_an_interval(folder: Path) -> None:
    run = fit(folder, "none", max_steps=3, hash_interval=0)
    assert records(run.path, "hash") == []


def test_verify_from_anywhere_on_any_threads(run: Path, cli: Cli) -> None:
    before = snapshot(run)
    done = cli("verify", "run", "--steps", 10, "--threads", 3, "--progress", "off")
    assert done.returncode == 0, done.stderr
    assert "from run/checkpoints/step-00000030 (step 30), 3 threads" in done.stdout
    assert "verified: 10 steps, equal" in done.stdout
    for what in ("loss", "gradient norm", "learning rate"):
        assert any(line.split() == [*what.split(), "10", "10"] for line in done.stdout.splitlines())
    for what in ("weights, by their hash", "weights of a checkpoint", "moments of a checkpoint"):
        assert any(line.split() == [*what.split(), "1", "1"] for line in done.stdout.splitlines())
    done = cli("verify", "run", "--steps", 10, "--from", "start", env={"SYMLM_ISA": "portable"})
    assert done.returncode == 0, done.stderr
    assert "from the initial weights (step 0)" in done.stdout
    assert done.stdout.splitlines()[0].endswith("portable")
    result = verify_run(run, steps=25, threads=1, progress="off")
    assert (result.begin.step, result.steps, result.difference) == (0, 25, None)
    result = verify_run(run, steps=1000, start="start", threads=2, progress="off")
    assert (result.steps, result.compared["loss"], result.compared["weights of a checkpoint"]) == (40, 40, 2)
    result = verify_run(run, steps=1000, start="30", threads=2, progress="off")
    assert (result.begin.step, result.steps) == (30, 10)
    assert before == snapshot(run)


@pytest.mark.parametrize("field", ["loss", "grad_norm", "lr", "weights_sha256", "model", "optimizer"])
def test_verify_finds_any_difference(run: Path, cli: Cli, field: str) -> None:
    """The smallest one: the last bit of a number, a digit of a hash, a weight of a later checkpoint."""
    if field in ("model", "optimizer"):
        path = run / "checkpoints" / "step-00000040" / f"{field}.safetensors"
        raw = bytearray(path.read_bytes())
        raw[-1] ^= 1
        path.write_bytes(raw)
        what = path.name
    else:
        lines = list(read_lines(run / "metrics.jsonl"))
        line = next(line for line in lines if line["step"] >= 33 and field in line)
        if field == "weights_sha256":
            line[field] = "0" * 64
        else:
            line[field] = math.nextafter(line[field], math.inf)
        rewrite(run / "metrics.jsonl", lines)
        what = f"step {line['step']}: "
    done = cli("verify", "run", "--steps", 10, "--progress", "off")
    assert done.returncode == 6, done.stderr
    assert what in done.stderr
    assert "recorded" in done.stderr
    assert "verified" not in done.stdout


def test_verify_says_when_there_is_nothing_to_compare(run: Path, cli: Cli) -> None:
    assert cli("verify", "run", "--from", "40").returncode == 1
    done = cli("verify", "run", "--from", "35")
    assert done.returncode == 1
    assert "start, auto, or one of the steps: 30, 40" in done.stderr
    rewrite(run / "metrics.jsonl", [line for line in read_lines(run / "metrics.jsonl") if line["step"] in (0, 40)])
    done = cli("verify", "run", "--steps", 5, "--from", "start")
    assert done.returncode == 1, done.stderr
    assert "nothing is recorded of the steps 1 to 5" in done.stderr
    assert cli("verify", "none").returncode == 1
    assert cli("verify", "run", "--steps", 0).returncode == 2


@pytest.mark.parametrize("change", [("batch_size = ", "batch_size = -"), ("num_heads = ", "num_heads = 1")])
def test_a_damaged_configuration_is_damage(run: Path, cli: Cli, change: tuple[str, str]) -> None:
    """Nobody typed it: it is not a usage error, and the file is named."""
    path = run / "config.toml"
    path.write_text(path.read_text().replace(*change))
    for words in (("verify", "run"), ("replay", "run", "--step", 5), ("train", "--resume", "auto", "--out-dir", "run")):
        done = cli(*words)
        assert done.returncode == 3, done.stderr
        assert "error: run/config.toml: " in done.stderr
        assert "the run is damaged: restore run/config.toml" in done.stderr


def test_a_text_that_has_changed_is_refused(run: Path, cli: Cli, folder: Path) -> None:
    text = folder / "text.txt"
    moved = text.rename(folder / "moved.txt")
    for words in (("verify", "run"), ("replay", "run", "--step", 5)):
        done = cli(*words)
        assert done.returncode != 0
        assert "the text of run is needed again" in done.stderr
        assert "--data" in done.stderr
    assert cli("verify", "run", "--steps", 3, "--data", "moved.txt").returncode == 0
    text.write_text(moved.read_text() + "\nmore\n" * 9)
    done = cli("verify", "run")
    assert done.returncode == 1
    assert "the text is not the one" in done.stderr


def test_replay_of_a_step(run: Path, cli: Cli) -> None:
    before = snapshot(run)
    done = cli("replay", "run", "--step", 33, "--threads", 3, "--progress", "off", "--out", "state")
    assert done.returncode == 0, done.stderr
    assert before == snapshot(run)
    lines = [line.split() for line in done.stdout.splitlines()[1:]]
    recorded = {record["step"]: record for record in records(run, "train")}
    assert [line[0] for line in lines] == ["31", "32", "33"]
    for step, loss, norm, rate, verdict in lines:
        record = recorded[int(step)]
        assert (float(loss), float(norm), float(rate)) == (record["loss"], record["grad_norm"], record["lr"])
        assert verdict == "equal"
    state = run.parent / "state"
    verify(state)
    assert State.read(state).step == 33
    assert cli("generate", "state", "-n", 3).returncode == 0
    # What is there already stays.
    assert cli("replay", "run", "--step", 33, "--out", "state").returncode == 1
    assert cli("replay", "run", "--step", 41).returncode == 1
    assert "1 to 40" in cli("replay", "run", "--step", 41).stderr


def test_replay_goes_around_a_damaged_checkpoint(run: Path, cli: Cli) -> None:
    path = run / "checkpoints" / "step-00000030" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    done = cli("replay", "run", "--step", 35)
    assert done.returncode == 0, done.stderr
    assert "damaged" in done.stderr
    assert "from the initial weights" in done.stderr
    assert "35" in done.stdout


def test_replay_shows_a_difference(run: Path, cli: Cli) -> None:
    lines = list(read_lines(run / "metrics.jsonl"))
    for line in lines:
        if line["event"] == "train" and line["step"] == 33:
            line["loss"] += 1e-9
    rewrite(run / "metrics.jsonl", lines)
    done = cli("replay", "run", "--step", 34)
    assert done.returncode == 6
    assert [line.split()[-1] for line in done.stdout.splitlines()[1:]] == ["equal", "equal", "differs", "equal"]
    assert "step 33: loss" in done.stderr


@pytest.fixture
def spoiled(folder: Path) -> Path:
    """A run at step 10 that meets numbers that are not finite in every epoch of some 12 updates."""
    run = fit(folder, "run", max_steps=60, stop_at_step=10).path
    plant(run, 10)
    return run


def test_replay_of_a_bundle(spoiled: Path, folder: Path, cli: Cli) -> None:
    with pytest.raises(symlm.NanError):
        fit(folder, "run", resume="auto")
    (failure,) = records(spoiled, "nan")
    done = cli("replay", "run", "--step", failure["step"], "--threads", 2, "--out", "before")
    assert done.returncode == 0, done.stderr
    assert f"from run/nan/step-{failure['step']:08d} (step {failure['step'] - 1})" in done.stderr
    (line,) = (line.split() for line in done.stdout.splitlines()[1:2])
    assert line == [str(failure["step"]), "inf", str(failure["grad_norm"]), repr(failure["lr"]), "equal"]
    assert "not finite: the loss of 1 of 4 windows (window" in done.stdout
    assert State.read(folder / "before").step == failure["step"] - 1
    # Without the bundle, from a checkpoint, with the same result.
    (spoiled / failure["bundle"] / MANIFEST).unlink()
    again = cli("replay", "run", "--step", failure["step"])
    assert again.returncode == 0, again.stderr
    assert done.stdout.splitlines()[1] in again.stdout


def test_a_bundle_before_the_first_checkpoint(folder: Path, cli: Cli) -> None:
    with pytest.raises(symlm.NanError):
        fit(folder, "run", max_steps=400, learning_rate=100.0, weight_decay=100.0, grad_clip=0.0, save_interval=0)
    (failure,) = records(folder / "run", "nan")
    done = cli("replay", "run", "--step", failure["step"])
    assert done.returncode == 0, done.stderr
    assert f"{failure['step']} " in done.stdout
    result = verify_run(folder / "run", steps=400, progress="off")
    assert (result.begin.step, result.difference) == (0, None)


def test_verify_follows_skips_and_rollbacks(spoiled: Path, folder: Path) -> None:
    fit(folder, "run", resume="auto", on_nan="skip", stop_at_step=30)
    result = verify_run(spoiled, steps=1000, start="10", progress="off")
    assert records(spoiled, "nan")
    assert (result.steps, result.compared["loss"], result.difference) == (20, 20, None)
    lines = list(read_lines(spoiled / "metrics.jsonl"))
    failure = next(line for line in lines if line["event"] == "nan")
    rewrite(spoiled / "metrics.jsonl", [{**line, "loss": 1.0} if line == failure else line for line in lines])
    result = verify_run(spoiled, steps=1000, start="10", progress="off")
    assert result.difference == f"step {failure['step']}: loss 'inf', recorded 1.0"
    rewrite(spoiled / "metrics.jsonl", lines)
    fit(folder, "run", resume="auto", on_nan="rollback", stop_at_step=59)
    assert Recorded.read(spoiled / "metrics.jsonl").left_out
    result = verify_run(spoiled, steps=1000, start="10", threads=3, progress="off")
    assert (result.steps, result.difference) == (49, None)
    assert result.compared["weights, by their hash"] == 4
