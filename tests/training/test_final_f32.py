"""The end of an int16 run: its held-out loss once more in f32, by an engine that takes the place of the run's."""

from __future__ import annotations

import json
import os
import signal
import types
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import planted
import symlm
from conftest import Cli
from planted import fit
from symlm import _symlm
from symlm.evaluation.windows import evaluate
from symlm.layout import METRICS, WEIGHTS
from symlm.run.metrics import read_lines
from symlm.training.due import final_f32
from symlm.training.resources import memory_of
from symlm.training.running import Running

STEPS = 12
HELD_OUT: dict[str, Any] = {"max_steps": STEPS, "precision": "int16", "val_split": 0.2, "progress": "plain"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SYMLM_CACHE_DIR", str(tmp_path / "cache"))
    planted.write_text(tmp_path / "text.txt", 120, 40)
    return tmp_path


def end_of(run: symlm.Run) -> dict[str, Any]:
    (end,) = (record for record in read_lines(run.path / METRICS) if record["event"] == "end")
    return end


def test_the_engine_of_the_run_is_gone_before_the_one_in_f32_is_made(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = _symlm.Engine
    made: list[tuple[weakref.ref[Any], int]] = []

    class Watched:
        """An engine that can be seen to go."""

        def __init__(self, *arguments: Any) -> None:
            self.others = sum(other() is not None for other, _ in made)
            made.append((weakref.ref(self), self.others))
            self.engine = real(*arguments)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.engine, name)

    monkeypatch.setattr(_symlm, "Engine", Watched)
    end = end_of(fit(folder, "run", **HELD_OUT))
    assert [others for _, others in made] == [0, 0]
    assert len(end["tasks_per_worker"]) == _symlm.available_cpus().count
    assert all(tasks > 0 for tasks in end["tasks_per_worker"])
    assert end["val_loss_f32"] == pytest.approx(end["val_loss"], rel=1e-3)


@pytest.mark.parametrize("adapters", [False, True])
def test_the_figure_is_that_of_other_programs(folder: Path, adapters: bool) -> None:
    held_out = folder / "held.txt"
    planted.write_text(held_out, 60, 5)
    settings: dict[str, Any] = {**HELD_OUT, "val_data": (str(held_out),), "val_split": 0.0}
    if adapters:
        base = fit(folder, "base", max_steps=4)
        shape = ("preset", "vocab_size", "seq_len", "tie_embeddings", "num_layers", "hidden_size", "intermediate_size")
        settings |= {**dict.fromkeys(shape), "init_from": str(base.path), "lora_rank": 3, "learning_rate": 1e-2}
    run = fit(folder, "run", **settings)
    found = evaluate(run.path, held_out, checkpoint="last", progress="off")
    assert end_of(run)["val_loss_f32"] == pytest.approx(found.loss, rel=1e-12)


class Damages(symlm.Callback):
    """Cuts off the weights of the last checkpoint once they are saved."""

    def on_save(self, step: int, path: Path) -> None:
        if step == STEPS:
            weights = path / WEIGHTS
            weights.write_bytes(weights.read_bytes()[:1000])


def test_a_figure_that_cannot_be_had_is_a_warning(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = fit(folder, "run", [Damages()], **HELD_OUT)
    assert run.finished
    assert "val_loss_f32" not in end_of(run)
    (line,) = (line for line in capfd.readouterr().err.splitlines() if "not evaluated in f32: " in line)
    assert WEIGHTS in line


def test_an_engine_that_cannot_start_is_a_warning(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    real = _symlm.Engine

    def limited(settings: Any, *others: Any) -> Any:
        if settings.train.precision == "f32":
            raise symlm.UserError("cannot start the control thread: Resource temporarily unavailable")
        return real(settings, *others)

    monkeypatch.setattr(_symlm, "Engine", limited)
    run = fit(folder, "run", **HELD_OUT)
    assert run.finished
    assert "val_loss_f32" not in end_of(run)
    assert "not evaluated in f32: cannot start the control thread" in capfd.readouterr().err


@pytest.mark.parametrize(("part", "warned"), [(0.9991, False), (1.0011, True), (0.9989, True)])
def test_figures_that_are_far_apart_are_a_warning(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], part: float, warned: bool
) -> None:
    """The second figure is a part of the first."""
    real = final_f32._report
    found: list[float] = []

    def apart(running: Running, windows: int) -> Any:
        report = real(running, windows)
        found.append(part * (running.progress.view.val_bpb or 0.0))
        return types.SimpleNamespace(loss=report.loss, bits_per_byte=found[0])

    monkeypatch.setattr(final_f32, "_report", apart)
    end = end_of(fit(folder, "run", **HELD_OUT))
    told = capfd.readouterr().err
    assert end["val_bpb_f32"] == found[0] > 0
    assert f"{100 * (part - 1):+.3f} % from int16" in told
    assert (f"last evaluation are {100 * abs(part - 1):.3f} % apart" in told) == warned


def test_a_signal_leaves_it_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    bar = Running.progress_bar

    def signalled(self: Running, label: str) -> Callable[[int, int], None]:
        if label == "evaluation in f32":
            os.kill(os.getpid(), signal.SIGTERM)
        return bar(self, label)

    monkeypatch.setattr(Running, "progress_bar", signalled)
    run = fit(folder, "run", **HELD_OUT)
    assert run.finished
    assert "val_loss_f32" not in end_of(run)
    assert "not evaluated in f32: stopped by SIGTERM" in capfd.readouterr().err


def test_the_plan_counts_it(folder: Path) -> None:
    def memory(**changes: Any) -> Any:
        config = symlm.TrainConfig(**{"preset": "3m", "precision": "int16", "sectors_in_flight": 1, **changes})
        return memory_of(config.with_model(), 2)

    held_out, alone = memory(val_split=0.1), memory(val_split=0.0)
    assert list(held_out.at_end) == ["evaluation in f32"]
    in_f32 = sum(memory(precision="f32").engine.values())
    assert held_out.at_end["evaluation in f32"] == pytest.approx(in_f32)
    assert not alone.at_end
    assert not memory(precision="f32", val_split=0.1).at_end
    # Never both at once.
    assert held_out.needed == max(alone.needed, round(in_f32))
    many = memory(val_split=0.1, sectors_in_flight=12)
    assert many.needed == sum(many.engine.values()) + max(many.beside.values())


def test_a_dry_run_names_it(folder: Path, cli: Cli) -> None:
    words = ["train", "text.txt", "--preset", "tiny", "--max-steps", 5, "--val-split", 0.2, "--dry-run"]
    shown = cli(*words, "--precision", "int16")
    assert shown.returncode == 0, shown.stderr
    assert "evaluation in f32" in shown.stdout
    told = json.loads(cli(*words, "--precision", "int16", "--progress", "json").stdout)
    assert told["memory"]["evaluation in f32"] > 0
    assert "evaluation in f32" not in cli(*words).stdout
