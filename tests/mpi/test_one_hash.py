"""The hash of a run is one hash, whatever the number of ranks, threads and instruction sets, and wherever it stops."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from symlm import _symlm
from test_golden_run import GOLDEN, QUIET, RUNS, SETTINGS, golden_text, sha256

from .launch import Launcher
from .runs import Jobs

pytestmark = pytest.mark.mpi

RANKS = (1, 2, 3, 4, 5, 6, 7, 12)
ISAS = [isa for isa in _symlm.available_isas() if not isa.endswith("soft")]
LORA: dict[str, Any] = {
    "lora_rank": 3,
    "lora_alpha": 6.0,
    "max_steps": 6,
    "seed": 5,
    "batch_size": 7,
    "eval_interval": 0,
    "val_split": 0.0,
}


def flags(settings: dict[str, Any]) -> list[str]:
    """Settings as the command line writes them."""
    words = []
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", str(value)]
    return words


def golden_words(run: str, folder: Path, name: str, **more: Any) -> list[object]:
    """The command that makes a golden run in `folder/name`."""
    return ["train", folder / "golden.jsonl", *flags({**SETTINGS, **QUIET, **RUNS[run], **more, "out_dir": name})]


def weights(folder: Path, step: int) -> str:
    return sha256(folder / "checkpoints" / f"step-{step:08d}" / "model.safetensors")


@pytest.fixture
def jobs(launcher: Launcher, tmp_path: Path) -> Iterator[Jobs]:
    (tmp_path / "golden.jsonl").write_text(golden_text(), encoding="utf-8")
    with Jobs(launcher, tmp_path) as started:
        yield started


@pytest.fixture(scope="module")
def golden() -> dict[str, str]:
    found: dict[str, str] = json.loads(GOLDEN.read_text(encoding="utf-8"))["model_sha256"]
    return found


@pytest.mark.parametrize("ranks", RANKS)
def test_ranks_and_threads(jobs: Jobs, golden: dict[str, str], ranks: int) -> None:
    for threads in (1, 2):
        name = f"run-{threads}"
        isas = [*ISAS[threads % len(ISAS) :], *ISAS[: threads % len(ISAS)]]
        jobs.run(ranks, golden_words("tied-wsd", jobs.folder, name, threads=threads), isas=isas)
        assert weights(jobs.folder / name, 12) == golden["tied-wsd"], (ranks, threads)


@pytest.mark.parametrize("ranks", [2, 3, 5, 12])
def test_an_untied_head(jobs: Jobs, golden: dict[str, str], ranks: int) -> None:
    jobs.run(ranks, golden_words("untied-cosine", jobs.folder, "run", threads=1), isas=ISAS)
    assert weights(jobs.folder / "run", 12) == golden["untied-cosine"]


@pytest.mark.parametrize("sectors", [1, 2, 12])
def test_sectors_in_flight(jobs: Jobs, golden: dict[str, str], sectors: int) -> None:
    jobs.run(2, golden_words("tied-wsd", jobs.folder, "run", threads=1, sectors_in_flight=sectors))
    assert weights(jobs.folder / "run", 12) == golden["tied-wsd"]


def test_adapters(jobs: Jobs, golden: dict[str, str]) -> None:
    jobs.run(0, golden_words("tied-wsd", jobs.folder, "base", threads=2))
    found = {}
    for ranks in (0, 2, 3, 5, 12):
        words = ["finetune", jobs.folder / "base", jobs.folder / "golden.jsonl", *flags(LORA), "--threads", 1]
        jobs.run(ranks, [*words, "--progress", "off", "--out-dir", f"lora-{ranks}"], isas=ISAS)
        found[ranks] = weights(jobs.folder / f"lora-{ranks}", LORA["max_steps"])
    assert len(set(found.values())) == 1, found


def test_stop_on_four_resume_on_others(jobs: Jobs, golden: dict[str, str]) -> None:
    for ranks in (0, 1, 3, 12):
        name = f"run-{ranks}"
        jobs.run(4, golden_words("tied-wsd", jobs.folder, name, threads=1, stop_at_step=5))
        assert weights(jobs.folder / name, 5) != golden["tied-wsd"]
        jobs.run(
            ranks, ["train", "--resume", "auto", "--out-dir", name, "--threads", 1, "--progress", "off"], isas=ISAS
        )
        assert weights(jobs.folder / name, 12) == golden["tied-wsd"], ranks


def test_stop_on_one_machine_resume_on_ranks(jobs: Jobs, golden: dict[str, str]) -> None:
    jobs.run(0, golden_words("tied-wsd", jobs.folder, "run", threads=2, stop_at_step=7))
    jobs.run(6, ["train", "--resume", "auto", "--out-dir", "run", "--threads", 1, "--progress", "off"])
    assert weights(jobs.folder / "run", 12) == golden["tied-wsd"]


def test_one_machine_verifies_and_replays_a_run_of_ranks(jobs: Jobs) -> None:
    words = golden_words("tied-wsd", jobs.folder, "run", threads=1, save_interval=4, log_interval=1, hash_interval=4)
    jobs.run(3, words)
    jobs.run(0, ["verify", "run", "--steps", 12])
    jobs.run(0, ["replay", "run", "--step", 7])


def test_metrics_are_those_of_one_process(jobs: Jobs) -> None:
    """Losses, gradient norms, evaluations and samples too, to the last digit."""
    found = []
    more = {"log_interval": 1, "val_split": 0.2, "eval_interval": 4, "sample_every": 6}
    for ranks in (0, 2, 5):
        jobs.run(ranks, golden_words("tied-wsd", jobs.folder, f"run-{ranks}", threads=1, **more))
        lines = map(json.loads, (jobs.folder / f"run-{ranks}" / "metrics.jsonl").read_text().splitlines())
        keys = ("event", "step", "loss", "grad_norm", "lr", "val_loss", "val_bpb", "tokens")
        kept = [{key: line.get(key) for key in keys} for line in lines if line["event"] in ("train", "eval")]
        assert len(kept) >= 12
        found.append((kept, (jobs.folder / f"run-{ranks}" / "samples.jsonl").read_text()))
    assert found[0] == found[1] == found[2]


def test_evaluation_on_ranks(jobs: Jobs) -> None:
    jobs.run(0, golden_words("tied-wsd", jobs.folder, "run", threads=1))
    said = [jobs.run(ranks, ["eval", "run", jobs.folder / "golden.jsonl", "--json"]).out for ranks in (0, 2)]
    results = [json.loads(next(line for line in text.splitlines() if line.startswith("{"))) for text in said]
    assert results[0]["loss"] == results[1]["loss"]
    assert said[1].count("{") == said[0].count("{"), "one rank speaks"
