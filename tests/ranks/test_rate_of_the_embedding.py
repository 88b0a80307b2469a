"""`--embedding-lr-ratio`: the same bits whoever computes the run, and the embedding alone is concerned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import symlm
from beside_ranks import Ranks, maker, shards
from symlm import _symlm
from symlm.model.tensors import read_tensors

STEPS = 4
RATE = {"embedding_lr_ratio": 0.4}
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Ranks]]:
    with maker(shards(tmp_path)) as made:
        yield made


@pytest.mark.parametrize("more", [{}, {"precision": "int16"}], ids=["f32", "int16"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_one_hash_over_threads_instructions_sectors_and_ranks(
    make: Callable[..., Ranks], more: dict[str, Any], tied: bool
) -> None:
    how: dict[str, Any] = {"model": {"tie_embeddings": tied}}
    expected = run(make(1, train={**RATE, **more}, **how))
    assert run(make(1, train=more, **how)) != expected
    assert run(make(1, train={"embedding_lr_ratio": 1.0, **more}, **how)) == run(make(1, train=more, **how))
    isas = tuple(_symlm.available_isas())
    for index, threads in enumerate((2, 3, 5, 12, 63)):
        single = make(
            1, threads=threads, isas=isas[index % len(isas) :], sectors_in_flight=(0, 1, 4, 12)[index % 4],
            train={**RATE, **more}, **how,
        )  # fmt: skip
        assert run(single) == expected, threads
    for count in (3, 7):
        assert run(make(count, isas=isas, train={**RATE, **more}, **how)) == expected, count


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
