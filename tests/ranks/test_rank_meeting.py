"""How ranks meet is known before the run is opened: its own settings count where none are given."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import symlm
from symlm.config.sources import Request
from symlm.config.train_config import TrainConfig
from symlm.ranks import carrier as carriers
from symlm.ranks.carrier import Carrier
from symlm.ranks.hello import Hello
from symlm.training import trainer
from symlm.training.opening import how_ranks_meet

SMALL: dict[str, Any] = {
    "preset": "tiny",
    "vocab_size": 290,
    "max_steps": 1,
    "seq_len": 16,
    "batch_size": 2,
    "sample_every": 0,
    "threads": 1,
}


@pytest.fixture
def run(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was told how its ranks are to meet."""
    monkeypatch.setenv("SYMLM_CACHE_DIR", str(tmp_path / "cache"))
    asked = TrainConfig(**SMALL, rank_timeout=77, mpi="off", out_dir=str(tmp_path / "run"), progress="off")
    symlm.Trainer(asked, text).fit()
    return tmp_path / "run"


def resumed(run: Path, **more: Any) -> Request:
    given: dict[str, Any] = {"resume": "auto", "out_dir": str(run), **more}
    return Request(TrainConfig(**given), frozenset(given))


def test_settings_of_the_run_count_where_none_are_given(run: Path) -> None:
    found = how_ranks_meet(resumed(run))
    assert (found.rank_timeout, found.mpi) == (77, "off")
    found = how_ranks_meet(resumed(run, rank_timeout=5, mpi="on"))
    assert (found.rank_timeout, found.mpi) == (5, "on")
    found = how_ranks_meet(resumed(run.with_name("new")))
    assert (found.rank_timeout, found.mpi) == (60, "auto")
    (run / "config.toml").write_text("damaged = [", encoding="utf-8")
    assert how_ranks_meet(resumed(run)).mpi == "auto"


def test_a_run_that_was_alone_stays_alone(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def joined(*_: object) -> None:
        raise AssertionError("it looks for other ranks")

    monkeypatch.setattr(trainer, "joined", joined)
    monkeypatch.setenv("PMI_SIZE", "4")
    monkeypatch.setenv("PMI_RANK", "0")
    assert trainer.train(resumed(run)).finished
    with pytest.raises(AssertionError, match="looks for other ranks"):
        trainer.train(resumed(run, mpi="auto"))


def test_the_time_limit_of_rank_0_counts_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    hellos = [Hello(f"host-{rank}", "", (), "", 0, {}, 60.0 + rank) for rank in range(2)]
    carrier = Carrier(61.0, {})

    class Mpi:
        class Comm:
            @staticmethod
            def Dup() -> type[Mpi.Comm]:
                return Mpi.Comm

            @staticmethod
            def Get_rank() -> int:
                return 1

            @staticmethod
            def Get_size() -> int:
                return 2

            @staticmethod
            def Split_type(kind: int) -> type[Mpi.Comm]:
                return Mpi.Comm

            @staticmethod
            def Free() -> None:
                pass

        COMM_WORLD = Comm
        COMM_TYPE_SHARED = 1

        @staticmethod
        def Get_library_version() -> str:
            return "pretended"

    monkeypatch.setattr(carriers, "library", lambda: SimpleNamespace(start=lambda: Mpi))
    monkeypatch.setattr(carrier, "_all_gather", lambda own: [hello.to_bytes() for hello in hellos])
    carrier._start()
    assert carrier._timeout == 60.0
    now = time.monotonic()
    assert carrier.watch.silence(now + 60.5, set(), carrier.name) is not None
