"""`--precision int16` on several ranks: the weights of one process, which are those of golden/int16.json."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from beside_ranks import LORA, Ranks, maker, shards
from int16_cases import golden_hashes
from mpirun import alone, good, hashes, metrics, mpirun, needs_mpi
from symlm import _symlm
from test_golden_run import RUNS, SETTINGS, golden_text, sha256

STEPS = 4
KINDS: dict[str, dict[str, Any]] = {
    "tied": {},
    "untied": {"model": {"tie_embeddings": False}},
    "adapters": {"train": {"lora": LORA}},
}


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Ranks]]:
    with maker(shards(tmp_path)) as made:
        yield lambda count, train, **others: made(count, train={"precision": "int16", **train}, **others)


@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_ranks_gives_the_bits_of_one(make: Callable[..., Ranks], kind: str) -> None:
    how = {"train": {}, **KINDS[kind]}
    alone = make(1, **how)
    alone.train(STEPS)
    expected = alone.hashes(), alone.metrics()
    in_f32 = make(1, **{**how, "train": {**how["train"], "precision": "f32"}})
    in_f32.train(STEPS)
    assert in_f32.hashes() != expected[0]
    isas = tuple(_symlm.available_isas())
    for count in (2, 3, 5, 12):
        ranks = make(count, threads=1 + count % 2, isas=isas, sectors_in_flight=count % 4, **how)
        ranks.train(STEPS)
        assert (ranks.hashes(), ranks.metrics()) == expected, count


def flags(settings: dict[str, Any]) -> list[str]:
    """As words of the command line."""
    words = []
    for name, value in settings.items():
        flag = name.replace("_", "-")
        words += [f"--{'' if value else 'no-'}{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return words


@needs_mpi
def test_two_processes_give_the_golden_weights(tmp_path: Path) -> None:
    (tmp_path / "golden.jsonl").write_text(golden_text(), encoding="utf-8")
    settings = {**SETTINGS, **RUNS["tied-wsd"], "precision": "int16", "threads": 1, "progress": "plain"}
    quiet = {"eval_interval": 0, "sample_every": 0, "save_interval": 0, "hash_interval": 4}
    words = ["golden.jsonl", *flags({**settings, **quiet})]
    cache = {"SYMLM_CACHE_DIR": str(tmp_path / "cache")}
    good(tmp_path, mpirun(2, "train", *words, "--cross-check", "3", "--out-dir", "two"), **cache)
    good(tmp_path, alone("train", *words, "--out-dir", "one"), **cache)
    weights = tmp_path / "two" / "checkpoints" / f"step-{SETTINGS['max_steps']:08d}" / "model.safetensors"
    assert sha256(weights) == golden_hashes()["tied-wsd"]
    assert hashes(tmp_path / "two") == hashes(tmp_path / "one")
    assert metrics(tmp_path / "two") == metrics(tmp_path / "one")


@needs_mpi
def test_the_end_of_a_run_on_ranks_has_both_figures(tmp_path: Path) -> None:
    """The engine in f32 is made on rank 0 alone; the others wait for the end."""
    (tmp_path / "golden.jsonl").write_text(golden_text() * 8, encoding="utf-8")
    settings = {**SETTINGS, **RUNS["tied-wsd"], "precision": "int16", "threads": 1, "progress": "plain"}
    more = {"eval_interval": 6, "sample_every": 0, "save_interval": 0, "val_split": 0.2}
    words = ["golden.jsonl", *flags({**settings, **more})]
    said = {}
    for name, command in (("two", mpirun(2, "train", *words, "--out-dir", "two")),
                          ("one", alone("train", *words, "--out-dir", "one"))):  # fmt: skip
        shown = good(tmp_path, command, SYMLM_CACHE_DIR=str(tmp_path / "cache"))
        said[name] = [line.split("in f32, ")[1] for line in shown.splitlines() if "in f32, " in line]
    assert len(said["one"]) == 1
    assert said["two"] == said["one"]
