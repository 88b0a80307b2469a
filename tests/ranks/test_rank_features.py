"""What several ranks have beside the updates: a time limit, figures of each rank, checks of each other, the plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from beside_ranks import MODEL, TRAIN
from mpirun import SETTINGS, alone, good, hashes, mpirun, needs_mpi, run, with_one_process
from symlm import _symlm
from symlm.config.engine import settings_of
from symlm.layout import METRICS
from symlm.ranks.cross_check import pair
from symlm.ranks.division import rank_sectors

CLOCK = ("--log-interval", "3")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_one_process(tmp_path_factory.mktemp("features"))


@needs_mpi
def test_a_time_limit_is_turned_into_updates_of_all_ranks(place: Path) -> None:
    words = [word for word in SETTINGS if word not in ("--max-steps", "9")]
    shown = good(place, mpirun(3, "train", "text.txt", *words, "--max-time", "3s", "--out-dir", "limited"))
    assert "--max-time 3s at " in shown
    steps = json.loads((place / "limited" / METRICS).read_text().splitlines()[0])["max_steps"]
    # The same updates as those of a run that was asked for as many.
    same = ["--max-steps", str(steps)]
    good(place, alone("train", "text.txt", *words, *same, "--out-dir", "counted"))
    assert hashes(place / "limited") == hashes(place / "counted")


@needs_mpi
def test_metrics_say_how_each_rank_spends_its_time(place: Path) -> None:
    shown = good(place, mpirun(3, "train", "text.txt", *SETTINGS, *CLOCK, "--out-dir", "metrics"))
    lines = [json.loads(line) for line in (place / "metrics" / METRICS).read_text().splitlines()]
    last = [line for line in lines if line["event"] == "train" and "ranks" in line][-1]
    assert [of["rank"] for of in last["ranks"]] == [0, 1, 2]
    for of in last["ranks"]:
        assert 0 < of["busy_frac"] <= 1
        assert 0 <= of["exchange_frac"] <= 1
        assert of["busy_frac"] + of["wait_frac"] == pytest.approx(1)
        assert of["sent_bytes_per_update"] > 1000
    assert last["slowest_rank"] in (0, 1, 2)
    assert "slowest rank " in shown
    alone_lines = (place / "one" / METRICS).read_text().splitlines()
    assert not any("ranks" in json.loads(line) for line in alone_lines)


@needs_mpi
def test_a_trace_has_a_process_for_each_rank_on_one_clock(place: Path) -> None:
    good(place, mpirun(3, "train", "text.txt", *SETTINGS, "--trace", "trace.json", "--out-dir", "traced"))
    events = json.loads((place / "trace.json").read_text())["traceEvents"]
    names = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert [names[pid].split(" on ")[0] for pid in sorted(names)] == ["rank 0", "rank 1", "rank 2"]
    spans = {pid: [e for e in events if e["pid"] == pid and e["ph"] == "X"] for pid in sorted(names)}
    # They compute the same updates, so each one works while the others do.
    begins = [min(e["ts"] for e in of) for of in spans.values()]
    ends = [max(e["ts"] + e["dur"] for e in of) for of in spans.values()]
    assert max(begins) < min(ends)
    assert all(begin >= 0 for begin in begins)
    # New values come when their owner knows the norm: no rank finishes an update before another has begun it.
    longest = max(end - begin for begin, end in zip(begins, ends, strict=True))
    assert max(begins) - min(begins) < longest / 2


@needs_mpi
@pytest.mark.parametrize("ranks", [2, 5])
def test_ranks_that_agree_go_on_with_the_same_bits(place: Path, ranks: int) -> None:
    name = f"checked-{ranks}"
    good(place, mpirun(ranks, "train", "text.txt", *SETTINGS, "--cross-check", "1", "--out-dir", name))
    assert hashes(place / name) == hashes(place / "one")


@needs_mpi
def test_a_rank_that_computes_a_sector_wrongly_is_named(place: Path) -> None:
    script = place / "wrong.py"
    script.write_text(
        "import sys\nfrom symlm.cli import main\nfrom symlm.ranks.cross_check import Checker\n"
        "Checker.wrong = lambda self, step, sector: self.rank == 1 and step >= 4\nsys.exit(main())\n",
        encoding="utf-8",
    )
    words = ("text.txt", *SETTINGS, "--cross-check", "1", "--save-interval", "1", "--out-dir", "wrong")
    command = mpirun(3, "train", *words)
    at = command.index("-m")
    found = run(place, [*command[:at], str(script), *command[at + 2 :]])
    assert found.returncode == 7, found.stderr
    assert "error: rank 1 on " in found.stderr
    assert "computes wrongly: the gradient of sector" in found.stderr
    # Its pair has its turn soon after, and nothing later than that is saved.
    steps = [int(path.name[-8:]) for path in (place / "wrong" / "checkpoints").glob("step-*")]
    assert max(steps) < 9


def test_every_pair_of_ranks_checks_each_other() -> None:
    for ranks in range(2, 13):
        found = [pair(number, ranks) for number in range(12 * (ranks - 1))]
        for sector, owner, other in found:
            assert sector in rank_sectors(ranks)[owner]
            assert other != owner
        assert {(owner, other) for _, owner, other in found} == {
            (a, b) for a in range(ranks) for b in range(ranks) if a != b
        }


def test_memory_of_a_rank_is_what_it_touches() -> None:
    def plan(ranks: int, rank: int) -> dict[str, float]:
        settings = {"model": MODEL, "train": TRAIN, "threads": 1, "sectors_in_flight": 1, "ranks": ranks, "rank": rank}
        return {part.name: part.bytes for part in _symlm.memory_plan(settings_of(settings)).engine}

    one, first, other = plan(1, 0), plan(4, 0), plan(4, 3)
    # Rank 0 gathers the moments of all; the others hold their own.
    assert first["optimizer"] == one["optimizer"]
    assert other["optimizer"] < 0.3 * one["optimizer"]
    # Sums that arrive, and those of the embedding's rows, which are folded apart.
    assert first["partial gradients"] > one["partial gradients"]
    # On 3 ranks the tree is cut into seven sums.
    assert plan(3, 1)["partial gradients"] > first["partial gradients"]
