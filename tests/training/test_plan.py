"""The plan of a training run: it is what is then allocated, it writes nothing, and it refuses what cannot fit."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import HANG_S, Cli
from symlm.config.train_config import TrainConfig
from symlm.training.resources import largest_batch, memory_of

MEASURE = """
import json, sys
from symlm import _symlm
from symlm.config.engine import engine_settings
from symlm.config.train_config import TrainConfig
from symlm.training.resources import memory_of

def held():
    with open("/proc/self/status") as lines:
        fields = dict(line.split(":", 1) for line in lines)
    return int(fields["RssAnon"].split()[0]) * 1024

config = TrainConfig(**json.loads(sys.argv[1])).with_model()
plan = memory_of(config, 2)
shards = _symlm.Shards.random("./ids", config.model.vocab_size, 200_000, 1)
before = held()
engine = _symlm.Engine(engine_settings(config, 2, max_steps=100), shards)
engine.run_until(1)
while engine.poll(1.0) is None:
    pass
engine.evaluate(shards, 12, None)
engine_bytes = held() - before
before = held()
generator = engine.snapshot()
stream = generator.stream([0], _symlm.SampleSettings(
    max_new_tokens=3, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0,
    seed=1, sample_index=0, stop_ids=[],
))
list(stream)
print(json.dumps([engine_bytes, sum(plan.engine.values()), held() - before, plan.beside["sampling copy"]]))
"""


@pytest.mark.parametrize(
    "settings",
    [
        {"preset": "3m", "batch_size": 24},
        {"preset": "12m", "batch_size": 12},
        {"preset": "3m", "batch_size": 36, "sectors_in_flight": 2, "tie_embeddings": False},
    ],
    ids=["small", "medium", "split triples"],
)
def test_the_plan_is_what_is_allocated(tmp_path: Path, settings: dict[str, Any]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps(settings)],
        cwd=tmp_path, capture_output=True, text=True, timeout=HANG_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    engine, planned, sampling, copy = json.loads(done.stdout)
    assert engine == pytest.approx(planned, rel=0.06)
    assert sampling == pytest.approx(copy, rel=0.15, abs=2e6)


def test_a_dry_run_writes_nothing(cli: Cli, text: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in tmp_path.iterdir())
    done = cli("train", text.name, "--preset", "1m", "--max-steps", 300, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    for word in ("parameters", "optimizer", "activations", "checkpoint copy", "checkpoints", "updates", "an estimate"):
        assert word in done.stdout
    done = cli("train", text.name, "--preset", "1m", "--max-steps", 300, "--dry-run", "--progress", "json")
    plan = json.loads(done.stdout)
    assert (plan["updates"], plan["batch_size"]) == (300, 32)
    assert plan["memory_needed_bytes"] == pytest.approx(sum(plan["memory"].values()), rel=0.3)
    assert plan["seconds_about"] > 0
    assert cli("train", "-", "--dry-run").returncode == 2


def test_a_dry_run_of_a_run_that_is_there(cli: Cli, text: Path, tmp_path: Path) -> None:
    words = ("train", text.name, "--preset", "tiny", "--vocab-size", 300, "--max-steps", 20, "--out-dir", "run")
    assert cli(*words, "--stop-at-step", 5).returncode == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    done = cli("train", "--resume", "auto", "--out-dir", "run", "--dry-run", "--progress", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["updates"] == 15
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert cli(*words, "--dry-run").returncode == 1


@pytest.fixture
def in_space(tmp_path: Path, environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command with `ulimit -v`."""

    def run(size: int, *words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "symlm", *map(str, words)],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=HANG_S, check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size)),
        )  # fmt: skip

    return run


def test_what_cannot_fit_is_refused_with_what_does(in_space: Any, text: Path, tmp_path: Path) -> None:
    space = 1_500_000_000
    words = ("train", text.name, "--preset", "12m", "--threads", 2, "--sectors-in-flight", 1, "--out-dir", "run")
    done = in_space(space, *words, "--batch-size", 4096)
    assert done.returncode == 4, done.stderr
    assert "are available (what ulimit -v leaves)" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
    found = re.search(r"^hint: what fits: --batch-size (\d+)$", done.stderr, re.MULTILINE)
    assert found is not None, done.stderr
    largest = int(found[1])
    assert 1 <= largest < 4096
    # What the process holds differs a little from call to call.
    for size, code in ((max(largest - 24, 1), 0), (largest + 24, 4)):
        done = in_space(space, *words, "--batch-size", size, "--dry-run")
        assert done.returncode == code, done.stderr
        assert "activations" in done.stdout


@given(st.integers(1, 5000), st.integers(0, 6000))
def test_the_largest_batch(most: int, fitting: int) -> None:
    found = largest_batch(most, lambda size: size <= fitting)
    assert found == (min(most, fitting) or None)


def test_every_part_has_a_size() -> None:
    for preset in ("tiny", "100m"):
        memory = memory_of(TrainConfig(preset=preset).with_model(), 2)
        assert all(size > 0 for size in (*memory.engine.values(), *memory.beside.values()))
    without = memory_of(TrainConfig(preset="tiny", sample_every=0).with_model(), 2)
    assert "sampling copy" not in without.beside
