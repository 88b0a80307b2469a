"""What a plan says of the time of a run with `--precision int16`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from conftest import Cli
from symlm import _symlm
from symlm.config.engine import model_shape
from symlm.config.sources import Request
from symlm.config.train_config import TrainConfig
from symlm.training.plan import Plan, make_plan
from symlm.training.schedule import steps_in_time

GIGA = 1e9


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SYMLM_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog " * 4000, encoding="utf-8")
    return path


@pytest.fixture
def peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor of 100 GFLOP/s that multiplies twice as many integers."""
    monkeypatch.setattr(_symlm, "fma_peak", lambda threads, seconds: 100.0)
    monkeypatch.setattr(_symlm, "integer_peak", lambda threads, seconds: 200.0)


def plan(text: Path, **changes: Any) -> Plan:
    values: dict[str, Any] = {"data": (str(text),), "preset": "tiny", "max_steps": 100, "eval_interval": 0, **changes}
    config = TrainConfig(**values, out_dir=str(text.parent / "run"))
    return make_plan(Request.of(config))


@pytest.mark.usefixtures("peaks")
def test_each_precision_has_its_part_of_its_peak(text: Path) -> None:
    """Measured: 74 to 77 % of the FMA peak in f32, 52 to 59 % of the integer peak in int16."""
    in_f32, in_int16 = (plan(text, precision=precision, val_split=0.0) for precision in ("f32", "int16"))
    model = in_f32.config.model
    work = in_f32.config.batch_size * model.seq_len * _symlm.flops_per_token(model_shape(model)) / GIGA
    assert in_f32.seconds_per_update == pytest.approx(work / 70)
    assert work / (0.59 * 200) <= in_int16.seconds_per_update <= work / (0.52 * 200)
    assert in_int16.seconds == pytest.approx(100 * in_int16.seconds_per_update)


@pytest.mark.usefixtures("peaks")
def test_the_last_evaluation_is_counted_in_both(text: Path) -> None:
    def evaluations(precision: str) -> float:
        """Time of them as updates."""
        held, without = (plan(text, precision=precision, val_split=share) for share in (0.2, 0.0))
        assert held.updates == without.updates == 100
        return (held.seconds - without.seconds) / held.seconds_per_update

    once = evaluations("f32")
    assert once > 0
    # One in int16, and one that takes at least half as long again.
    assert 2.5 * once <= evaluations("int16") <= 3 * once


def test_a_limit_of_time_leaves_room_for_both() -> None:
    config = TrainConfig(preset="tiny", max_time=1000).with_model()
    in_int16 = dataclasses.replace(config, precision="int16")
    assert steps_in_time(in_int16, 1000, 0.1, 50) < steps_in_time(config, 1000, 0.1, 50)
    assert steps_in_time(in_int16, 1000, 0.1, 0) == steps_in_time(config, 1000, 0.1, 0)
    # One of four ranks evaluates in f32, at a quarter of the speed.
    assert steps_in_time(in_int16, 1000, 0.1, 50, ranks=4) < 0.9 * steps_in_time(in_int16, 1000, 0.1, 50)
    assert steps_in_time(config, 1000, 0.1, 50, ranks=4) == steps_in_time(config, 1000, 0.1, 50)


def test_the_table_names_the_part(text: Path, cli: Cli) -> None:
    words = ["train", text.name, "--preset", "tiny", "--max-steps", 5, "--precision", "int16", "--dry-run"]
    shown = cli(*words)
    assert shown.returncode == 0, shown.stderr
    (line,) = (line for line in shown.stdout.splitlines() if line.startswith("  an update"))
    assert line.endswith(("at 55 % of the integer peak", "at 70 % of the FMA peak"))
    assert json.loads(cli(*words, "--progress", "json").stdout)["seconds_about"] > 0
