"""A short fault campaign; `make torture` runs the whole one."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from torture import corruptions, disk, kills
from torture.lab import Truth, fault_of, look, sha256
from torture.report import Case, Part, Say, describe, table

JOBS = 2


def check(part: Part, count: int) -> None:
    assert len(part.cases) == count
    assert not part.failed and not part.problems, "\n".join([*map(describe, part.failed), *part.problems])


def test_killed_and_resumed(tmp_path: Path) -> None:
    check(kills.torture(10, 11, JOBS, tmp_path / "kills", Say(), every=False), 10)


def test_damaged_files_are_noticed(tmp_path: Path) -> None:
    check(corruptions.torture(range(1, 19), 12, JOBS, tmp_path / "corruptions", Say()), 18)


def test_full_disks_do_no_harm(tmp_path: Path) -> None:
    check(disk.torture(range(1, 4), 13, JOBS, tmp_path / "disk", Say()), 3)


# --- that the campaign itself sees what is wrong ----------------------------------------------------------------------


def make_run(folder: Path, loss: float = 1.5) -> Path:
    """A run folder of two updates with one checkpoint, made by hand."""
    checkpoint = folder / "checkpoints" / "step-00000002"
    (folder / "best").mkdir(parents=True)
    checkpoint.mkdir(parents=True)
    for name in ("model.safetensors", "optimizer.safetensors", "trainer_state.json"):
        (checkpoint / name).write_bytes(name.encode() * 50)
        (folder / "best" / name).write_bytes(name.encode() * 50)
    files = {path.name: {"size": path.stat().st_size, "sha256": sha256(path)} for path in checkpoint.iterdir()}
    for place in (checkpoint, folder / "best"):
        (place / "MANIFEST.json").write_text(json.dumps({"files": files}))
    (folder / "last").write_text("checkpoints/step-00000002\n")
    lines = [{"event": "train", "step": step, "loss": loss} for step in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_the_campaign_sees_what_is_wrong(tmp_path: Path) -> None:
    truth = Truth.of(make_run(tmp_path / "truth"), 2)
    good = make_run(tmp_path / "good")
    assert truth.differences(good) == []
    assert look(good).newest == look(good).trained == look(good).pointer == 2
    checkpoint = good / "checkpoints" / "step-00000002"
    for name in ("model.safetensors", "optimizer.safetensors", "trainer_state.json", "MANIFEST.json"):
        raw = (checkpoint / name).read_bytes()
        for damaged in (raw[:-1], b"", bytes([raw[0] ^ 1]) + raw[1:]):
            (checkpoint / name).write_bytes(damaged)
            assert fault_of(checkpoint) is not None
            assert truth.differences(good)
        (checkpoint / name).write_bytes(raw)
    assert fault_of(checkpoint) is None
    assert any("train: line 1" in problem for problem in truth.differences(make_run(tmp_path / "other", loss=1.25)))
    metrics = good / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    for wrong in ([lines[0], *lines], lines[:1], lines[::-1]):
        metrics.write_text("".join(wrong))
        assert any(problem.startswith("train") for problem in truth.differences(good))
    metrics.write_text("".join(lines))
    (good / "checkpoints" / ".tmp-step-00000003").mkdir()
    assert truth.differences(good) == ["left behind: .tmp-step-00000003"]


def test_a_failure_shows_in_the_table() -> None:
    good, bad = Case("kill", 1, "what", "here", "resumed"), Case("kill", 2, "what", "here", "resumed", ["lost"], "/x")
    text = table([Part("kill", [good, bad])])
    assert "1 of 2 good" in text
    assert text.count("FAILED") == 1
    assert "lost" in describe(bad)
    assert "/x" in describe(bad)


@pytest.mark.parametrize("kind", corruptions.KINDS, ids=lambda kind: kind.name)
def test_damage_is_damage(tmp_path: Path, kind: corruptions.Kind) -> None:
    folder = make_run(tmp_path / "run")
    for number in range(5):
        rng = random.Random(number)
        path = folder / "checkpoints" / "step-00000002" / "model.safetensors"
        path.parent.mkdir(exist_ok=True)
        raw = bytes(range(256)) * 5
        if path.is_dir():
            path.rmdir()
        path.write_bytes(raw)
        said = kind.do(path, rng, [path, folder / "last"])
        assert said
        assert not path.is_file() or path.read_bytes() != raw
