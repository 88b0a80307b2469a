"""Settings of a recipe: the same bits whoever computes the run, and each does what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import symlm
from beside_ranks import Ranks, maker, shards
from symlm import _symlm
from symlm.config.engine import BEFORE
from symlm.model.tensors import read_tensors

STEPS = 4
CHANGES: dict[str, Any] = {"embedding_lr_ratio": 0.4, "initial_weights": "width"}
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Ranks]]:
    with maker(shards(tmp_path)) as made:
        yield made


@pytest.mark.parametrize("precision", ["f32", "int16"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_one_hash_over_threads_instructions_sectors_and_ranks(
    make: Callable[..., Ranks], tied: bool, precision: str
) -> None:
    how: dict[str, Any] = {"model": {"tie_embeddings": tied}}
    before = {name: BEFORE[name] for name in CHANGES}
    changed, usual = ({"precision": precision, **what} for what in (CHANGES, before))
    expected = run(make(1, train=changed, **how))
    without = run(make(1, train={"precision": precision}, **how))
    assert run(make(1, train=usual, **how)) == without
    each = [run(make(1, train={"precision": precision, name: value}, **how)) for name, value in CHANGES.items()]
    assert len({without, expected, *each}) == len(CHANGES) + 2
    isas = tuple(_symlm.available_isas())
    for index, threads in enumerate((2, 3, 5, 12, 63)):
        single = make(
            1, threads=threads, isas=isas[index % len(isas) :], sectors_in_flight=(0, 1, 4, 12)[index % 4],
            train=changed, **how,
        )  # fmt: skip
        assert run(single) == expected, threads
    for count in (3, 7):
        assert run(make(count, isas=isas, train=changed, **how)) == expected, count


def run(ranks: Ranks) -> tuple[str, str]:
    """Hashes of weights and moments after some updates."""
    ranks.train(STEPS)
    found = ranks.hashes()
    ranks.close()
    return found


def train(text: Path, out: Path, **changes: Any) -> Path:
    config = symlm.TrainConfig(
        out_dir=str(out), preset="tiny", vocab_size=300, seq_len=16, batch_size=4, tie_embeddings=False, max_steps=6,
        eval_interval=0, sample_every=0, threads=1, weight_decay=0.0, progress="off", **changes,
    )  # fmt: skip
    return symlm.Trainer(config, data=[text]).fit().path


def weights(run: Path, step: int) -> dict[str, np.ndarray[Any, Any]]:
    found = read_tensors(run / "checkpoints" / f"step-{step:08d}")
    return {name: tensor.floats() for name, tensor in found.items()}


def test_ratio_0_leaves_the_embedding_as_it_is(text: Path, tmp_path: Path) -> None:
    kept = {"embedding_lr_ratio": 0.0, "save_interval": 1, "keep_last": 10}
    frozen = train(text, tmp_path / "frozen", **kept)
    before, after = weights(frozen, 1), weights(frozen, 6)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == set(before) - {EMBEDDING}


def test_stop_and_resume_give_the_run_without_a_stop(text: Path, tmp_path: Path) -> None:
    whole = train(text, tmp_path / "whole", embedding_lr_ratio=3.0)
    train(text, tmp_path / "parts", embedding_lr_ratio=3.0, stop_at_step=3)
    parts = train(text, tmp_path / "parts", embedding_lr_ratio=3.0, resume="auto")
    a, b = weights(whole, 6), weights(parts, 6)
    assert all(np.array_equal(a[name], b[name]) for name in a)
    with pytest.raises(symlm.UserError, match=r"--embedding-lr-ratio: the run has 3\.0, asked for 2\.0"):
        train(text, tmp_path / "parts", embedding_lr_ratio=2.0, resume="auto")


def test_initial_weights_by_width(text: Path, tmp_path: Path) -> None:
    """The normal numbers are the same, times another deviation; what adds to the residual stream is 0."""
    # A rate so small moves nothing but zeros.
    start = {"learning_rate": 1e-30, "save_interval": 1, "keep_last": 10}
    gpt2 = weights(train(text, tmp_path / "gpt2", initial_weights="gpt2", **start), 1)
    width = weights(train(text, tmp_path / "width", initial_weights="width", **start), 1)
    hidden = gpt2[EMBEDDING].shape[1]
    for name, values in width.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            assert np.abs(values).max() < 1e-25, name
        elif values.ndim == 2:
            np.testing.assert_allclose(values * np.sqrt(hidden), gpt2[name] / 0.02, rtol=1e-6)
            assert abs(values.std() * np.sqrt(hidden) - 1) < 0.03, name
        else:
            assert np.array_equal(values, np.ones_like(values)), name
