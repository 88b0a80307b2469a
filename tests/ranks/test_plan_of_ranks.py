"""`--dry-run` under a launcher: the plan of one of several ranks, said once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import symlm
from conftest import Cli
from symlm.ranks.division import payload

WORDS = ("--preset", "tiny", "--batch-size", 24, "--max-steps", 100, "--threads", 1, "--dry-run")


def launcher(ranks: int, rank: int = 0) -> dict[str, str]:
    return {"PMI_SIZE": str(ranks), "PMI_RANK": str(rank)}


@pytest.mark.parametrize("ranks", [2, 3, 12])
def test_bytes_and_share_of_a_rank(cli: Cli, text: Path, ranks: int) -> None:
    done = cli("train", text, *WORDS, "--progress", "json", env=launcher(ranks))
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    model = symlm.TrainConfig(preset="tiny").model
    most = max(payload(model, 24, ranks, rank).total for rank in range(ranks))
    assert plan["ranks"] == ranks
    assert plan["sent_bytes_per_update"] == round(most)


def test_only_the_first_rank_speaks(cli: Cli, text: Path) -> None:
    assert "ranks" in cli("train", text, *WORDS, env=launcher(4)).stdout
    other = cli("train", text, *WORDS, env=launcher(4, 3))
    assert (other.returncode, other.stdout, other.stderr) == (0, "", "")


def test_without_a_launcher_nothing_is_said_of_ranks(cli: Cli, text: Path) -> None:
    assert "ranks" not in cli("train", text, *WORDS).stdout
    assert "ranks" not in cli("train", text, *WORDS, "--mpi", "off", env=launcher(4)).stdout


def test_more_ranks_than_sectors_are_refused(cli: Cli, text: Path) -> None:
    done = cli("train", text, *WORDS, env=launcher(13))
    assert done.returncode == 2
    assert "found 13 ranks, expected 1 to 12" in done.stderr


def test_the_engine_that_checks_a_sector_is_in_the_plan(cli: Cli, text: Path) -> None:
    def planned(*words: object) -> dict[str, int]:
        done = cli("train", text, *WORDS, *words, "--progress", "json", env=launcher(2))
        assert done.returncode == 0, done.stderr
        memory: dict[str, int] = json.loads(done.stdout)["memory"]
        return memory

    checked = planned("--cross-check", 10)
    plain = planned()
    assert "cross-check" not in plain
    assert checked.pop("cross-check") > 0
    assert checked == plain
