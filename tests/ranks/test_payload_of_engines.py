"""The formula of what a rank sends is what its engine gives to MPI: rank by rank, of all parameters and of adapters."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import symlm
from beside_ranks import LORA, MODEL, TRAIN, shards
from symlm import _symlm
from symlm.config.engine import settings_of
from symlm.ranks import launch
from symlm.ranks.division import Payload, adapter_payload, nodes_of, payload, rank_sectors
from symlm.training.plan import _sent_bytes

# Large enough for the parts of the owners to be about equal: they are whole blocks of 4,096 elements.
SHAPE = {**MODEL, "hidden_size": 384, "intermediate_size": 1024, "num_layers": 1, "seq_len": 16, "vocab_size": 2048}
SHORT = {**SHAPE, "hidden_size": 96, "intermediate_size": 160, "num_layers": 3, "vocab_size": 301}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> _symlm.Shards:
    return shards(tmp_path_factory.mktemp("payload"))


def sent(tokens: _symlm.Shards, shape: dict[str, Any], ranks: int, rank: int, **train: Any) -> int:
    """Bytes of all transfers that leave an engine in an update."""
    made = {"model": shape, "train": {**TRAIN, **train}, "threads": 1, "ranks": ranks, "rank": rank}
    engine = _symlm.Engine(settings_of(made), tokens)
    try:
        return sum(transfer.bytes for transfer in engine.exchange().plan() if not transfer.incoming)
    finally:
        engine.close()


def config_of(shape: dict[str, Any], **more: Any) -> symlm.TrainConfig:
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads", "num_kv_heads", "seq_len")
    return symlm.TrainConfig(**{name: shape[name] for name in names}, tie_embeddings=True, **more)


@pytest.mark.parametrize("ranks", range(2, 13))
def test_of_all_parameters(tokens: _symlm.Shards, ranks: int) -> None:
    model = config_of(SHAPE).model
    most = max(range(ranks), key=lambda rank: len(nodes_of(rank_sectors(ranks)[rank])))
    for rank in {0, most, ranks - 1}:
        found = sent(tokens, SHAPE, ranks, rank)
        assert found == pytest.approx(payload(model, TRAIN["batch_size"], ranks, rank).total, rel=0.03)


@pytest.mark.parametrize("ranks", range(2, 13))
def test_of_adapters(tokens: _symlm.Shards, ranks: int, tmp_path: Path) -> None:
    config = config_of(
        SHORT, init_from=str(tmp_path), lora_rank=3, lora_targets=",".join(LORA["targets"]),
        batch_size=TRAIN["batch_size"],
    )  # fmt: skip
    each: list[Payload] = []
    for rank in range(ranks):
        each.append(adapter_payload(config.model, config.adapted, 3, TRAIN["batch_size"], ranks, rank))
        found = sent(tokens, SHORT, ranks, rank, lora=LORA)
        assert found == pytest.approx(each[-1].total, rel=0.03)
    assert _sent_bytes(config, ranks) == round(max(of.total for of in each)) > 0


def test_machines_that_send_more_than_one_sum() -> None:
    """What the guide to clusters says of numbers of machines."""
    most = {ranks: max(len(nodes_of(sectors)) for sectors in rank_sectors(ranks)) for ranks in range(2, 13)}
    assert {ranks: sums for ranks, sums in most.items() if sums > 1} == {3: 3, 6: 2, 7: 2}


def test_ranks_of_a_plan_share_processors_unless_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = {"PMI_SIZE": "4", "PMI_RANK": "0", "MPI_LOCALNRANKS": "4"}
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    for cpus, expected in (((0, 1), 1), (tuple(range(8)), 4), (None, 4)):
        monkeypatch.setattr(launch, "allowed_cpus", lambda cpus=cpus: cpus)
        assert launch.sharing(launcher) == expected
