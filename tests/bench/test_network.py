"""The prediction for several machines: bounds that hold whatever was recorded, and what it says about pay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import symlm
from conftest import Cli
from symlm import _symlm
from symlm.bench.engines import timed_config
from symlm.bench.network import Link, Machines, Scale, rows
from symlm.bench.settings import BenchConfig
from symlm.bench.simulate import TaskGraph
from symlm.config.engine import engine_settings
from symlm.errors import UsageError
from symlm.ranks.division import MOST_RANKS, SECTORS, payload, rank_sectors

FAST = Link(1e15, 0.0)
BATCH = 24
SHAPE: dict[str, Any] = {
    "num_layers": 2, "num_heads": 2, "hidden_size": 16, "intermediate_size": 16, "vocab_size": 300, "seq_len": 8,
}  # fmt: skip
WORDS = tuple(word for name, value in SHAPE.items() for word in (f"--{name.replace('_', '-')}", value))


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def machines(request: pytest.FixtureRequest, tmp_path: Path) -> Machines:
    """A real plan whose tasks take a millisecond each, those without work aside."""
    config = symlm.TrainConfig(preset="tiny", batch_size=BATCH, tie_embeddings=request.param, **SHAPE)
    config = timed_config(config, SHAPE["vocab_size"])
    shards = _symlm.Shards.random(str(tmp_path / "ids"), SHAPE["vocab_size"], 4000, 1)
    engine = _symlm.Engine(engine_settings(config, 1, max_steps=10), shards)
    nodes = engine.task_graph()
    engine.close()
    seconds = [0.0 if node.kind == "join" else 1e-3 for node in nodes]
    kinds, urgent = [node.kind for node in nodes], [node.urgent for node in nodes]
    graph = TaskGraph(kinds, [node.after for node in nodes], seconds, urgent)
    return Machines(nodes, graph, config.model, BATCH, 1)


def test_one_machine_does_everything(machines: Machines) -> None:
    assert machines.forecast(1, FAST).seconds == pytest.approx(machines.graph.work)
    assert machines.forecast(1, FAST).exchange == 0


@pytest.mark.parametrize("count", range(1, MOST_RANKS + 1))
def test_machines_share_the_work(machines: Machines, count: int) -> None:
    """Each task is done once, and with 24 windows each sector takes equally long."""
    shares = [sum(machines.share(node, sectors) for node in machines.nodes) for sectors in rank_sectors(count)]
    afterwards = sum(node.kind in ("squares", "finish", "update") for node in machines.nodes)
    joins = sum(node.kind == "join" for node in machines.nodes)
    assert sum(shares) == pytest.approx(len(machines.nodes) - afterwards, abs=joins)
    ends = [end for end, _ in machines.gradients(count)]
    most = max(map(len, rank_sectors(count)))
    assert max(ends) == pytest.approx(machines.gradients(1)[0][0] * most / SECTORS)


@pytest.mark.parametrize("count", range(2, MOST_RANKS + 1))
def test_a_prediction_is_within_its_bounds(machines: Machines, count: int) -> None:
    one = machines.forecast(1, FAST).seconds
    largest = max(map(len, rank_sectors(count))) / SECTORS
    assert one * largest * 0.5 < machines.forecast(count, FAST).seconds
    slow = Link(1e5, 0.0)
    sent = [payload(machines.model, BATCH, count, rank) for rank in range(count)]
    # No link carries its bytes faster than its rate, and values leave when the gradients are there.
    assert machines.forecast(count, slow).seconds >= max(s.gradients + s.values for s in sent) / slow.rate * 0.999
    times = [machines.forecast(count, Link(rate, 1e-5)).seconds for rate in (1e5, 1e6, 1e7, 1e8)]
    assert times == sorted(times, reverse=True)
    late = [machines.forecast(count, Link(1e8, latency)).seconds for latency in (0.0, 1e-4, 1e-2)]
    assert late == sorted(late)


def test_a_larger_batch_pays_sooner(machines: Machines) -> None:
    link = Link(1e6, 1e-4)
    speedups = [machines.speedup(4, link, Scale(batch=factor)) for factor in (0.1, 1, 10, 100)]
    assert speedups == sorted(speedups)
    factor = machines.pays_from(4, link, batch=True)
    assert factor is not None
    assert factor > 0
    assert machines.speedup(4, link, Scale(batch=factor)) >= 2
    assert machines.speedup(4, link, Scale(batch=factor * 0.95)) < 2
    assert (machines.pays_from(4, FAST, batch=True) or 0) < factor
    assert machines.pays_from(4, Link(1.0, 100.0), batch=True) is None


def test_rows_have_every_machine_at_every_rate(machines: Machines) -> None:
    found = rows(machines, 1000.0, [1.0, 10.0], 50e-6)
    assert [(row.gbit_s, row.forecast.machines) for row in found] == [(g, m) for g in (1.0, 10.0) for m in range(1, 13)]
    assert found[0].tok_s == 1000.0
    assert all(row.pays_from_batch is None or row.pays_from_batch >= SECTORS for row in found)


def test_the_command_predicts(cli: Cli, tmp_path: Path) -> None:
    done = cli(
        "bench", *WORDS, "--batch-size", 12, "--threads", 1, "--rounds", 1, "--updates", 1, "--no-scaling",
        "--no-switches", "--quick", "--simulate-network", "--link-gbit", "2.5,1", "--link-latency", 20,
        "--out-dir", "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert [row["machines"] for row in record["network"]] == [*range(1, 13), *range(1, 13)]
    assert {row["gbit_s"] for row in record["network"]} == {1.0, 2.5}
    assert "2.5 Gbit/s" in done.stdout
    assert "20 us" in done.stdout


@pytest.mark.parametrize(
    "given", [{"link_gbit": "1,x"}, {"link_gbit": "0"}, {"link_gbit": "nan"}, {"link_latency": -1}]
)
def test_links_that_cannot_be(given: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="--link"):
        BenchConfig(simulate_network=True, **given)  # type: ignore[arg-type]


def test_a_link_needs_the_simulation() -> None:
    with pytest.raises(UsageError, match="--link-gbit without --simulate-network"):
        BenchConfig(link_gbit="1")
