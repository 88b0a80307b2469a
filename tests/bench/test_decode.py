"""`symlm bench --decode`: every task is measured, and what does not go together is refused."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from exporting import train_apart
from symlm.bench.decode import DecodeBench
from symlm.bench.settings import BenchConfig
from symlm.errors import UsageError, UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_apart(tmp_path_factory.mktemp("run"))


def test_every_task_is_measured(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "decode.json"
    assert DecodeBench(BenchConfig(decode=str(run), rounds=2, json=str(path))).run() == 0
    record = json.loads(path.read_text())
    found = {(entry["weights"], entry["task"]) for entry in record["entries"]}
    assert found == {(weights, task) for weights in ("f32", "q8") for task in ("decode", "batch", "prefill")}
    assert all(len(entry["seconds"]) == 2 and entry["tok_s"] > 0 for entry in record["entries"])
    assert all(rate > 0 for rate in record["read_bytes_s"].values())
    shown = capsys.readouterr().out
    for label in ("f32, one text", "q8, 32 texts", "q8, prompt"):
        assert label in shown


def test_what_does_not_go_together_is_refused(run: Path) -> None:
    with pytest.raises(UsageError, match=r"--peers llama.cpp without --decode"):
        BenchConfig(peers="llama.cpp")
    with pytest.raises(UsageError, match="--peers torch with --decode"):
        BenchConfig(peers="torch", decode=str(run))


def test_a_peer_that_is_not_there_is_said_so(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="cannot import llama_cpp"):
        DecodeBench(BenchConfig(decode=str(run), peers="llama.cpp")).run()
