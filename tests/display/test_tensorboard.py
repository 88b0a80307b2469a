"""Event files for TensorBoard: read back by an independent reader here, and by TensorBoard's where it is installed."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import symlm
from symlm.cli import main
from symlm.display.tensorboard import EventFile, TensorBoard, export_events, masked_crc32c, scalars_of
from symlm.errors import UserError
from symlm.run.metrics import read_lines, to_line

TAGS = ["train/loss", "train/lr", "train/grad_norm", "perf/tok_s", "perf/peak_frac", "perf/worker_busy_frac"]


def checksum(data: bytes) -> int:
    """CRC-32C bit by bit, masked."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 * (crc & 1))
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17 & 0xFFFFFFFF)) + 0xA282EAD8) % 2**32


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of the fields of a protocol buffer."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte, at = data[at], at + 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while at < len(data):
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint()
            continue
        size = {1: 8, 5: 4}.get(kind) or varint()
        value, at = data[at : at + size], at + size
        assert len(value) == size
        yield key >> 3, struct.unpack("<d" if kind == 1 else "<f", value)[0] if kind in (1, 5) else value


@dataclass
class Event:
    wall_time: float
    step: int
    scalars: dict[str, float]
    version: bytes | None = None
    starts: bool = False


def read_events(path: Path) -> list[Event]:
    """Every record of an event file, its checksums checked."""
    raw, at, events = path.read_bytes(), 0, []
    while at < len(raw):
        length, check = struct.unpack_from("<QI", raw, at)
        assert check == checksum(raw[at : at + 8])
        data = raw[at + 12 : at + 12 + length]
        assert len(data) == length and struct.unpack_from("<I", raw, at + 12 + length)[0] == checksum(data)
        at += 16 + length
        event = Event(math.nan, 0, {})
        for number, value in fields(data):
            if number == 1:
                event.wall_time = value
            elif number == 2:
                event.step = value
            elif number == 3:
                event.version = value
            elif number == 7:
                event.starts = dict(fields(value)) == {1: 1}
            else:
                assert number == 5
                for _, item in fields(value):
                    parts = dict(fields(item))
                    event.scalars[parts[1].decode()] = parts[2]
        events.append(event)
    return events


def shown(folder: Path) -> dict[str, dict[int, float]]:
    """What TensorBoard shows of a folder: name -> step -> value. Fails where a step would appear twice."""
    series: dict[str, dict[int, float]] = {}
    for path in sorted(folder.iterdir()):
        first, *events = read_events(path)
        assert first.version == b"brain.Event:2"
        for event in events:
            if event.starts:
                series = {
                    tag: {step: v for step, v in points.items() if step < event.step} for tag, points in series.items()
                }
            for tag, value in event.scalars.items():
                points = series.setdefault(tag, {})
                assert event.step not in points, (tag, event.step)
                points[event.step] = value
    return series


def expected(run: Path) -> dict[str, dict[int, float]]:
    """The same from the metrics of a run."""
    series: dict[str, dict[int, float]] = {}
    for record in read_lines(run / "metrics.jsonl"):
        for tag, value in scalars_of(record).items():
            series.setdefault(tag, {})[record["step"]] = struct.unpack("<f", struct.pack("<f", value))[0]
    return series


def test_the_checksum() -> None:
    # The check value of CRC-32C is 0xe3069283.
    assert masked_crc32c(b"123456789") == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) & 0xFFFFFFFF


@given(st.binary(max_size=80))
def test_checksums_bit_by_bit(data: bytes) -> None:
    assert masked_crc32c(data) == checksum(data)


@settings(max_examples=30)
@given(
    step=st.integers(0, 2**62),
    values=st.dictionaries(st.text(max_size=200), st.floats(width=32), max_size=5),
    wall_time=st.floats(0, 1e11),
)
def test_scalars_come_back(
    tmp_path_factory: pytest.TempPathFactory, step: int, values: dict[str, float], wall_time: float
) -> None:
    file = EventFile(tmp_path_factory.getbasetemp() / "any")
    file.start(step)
    file.scalars(step, values, wall_time)
    file.close()
    file.close()
    version, start, event = read_events(file.path)
    assert version.version and start.starts and start.step == step
    assert (event.step, event.wall_time) == (step, wall_time)
    assert list(event.scalars) == list(values)
    assert list(map(repr, event.scalars.values())) == [repr(value) for value in values.values()]


def test_what_a_record_is() -> None:
    record = {
        "event": "train",
        "step": 3,
        "loss": math.nan,
        "lr": 1e-3,
        "grad_norm": 1e300,
        "tok_s": None,
        "peak_frac": "x",
    }
    found = scalars_of(record)
    assert list(found) == ["train/loss", "train/lr", "train/grad_norm"]
    assert math.isnan(found["train/loss"]) and found["train/grad_norm"] == math.inf
    evaluation = {"event": "eval", "step": 3, "val_loss": 2.0, "val_bpb": 1.0, "final": False}
    assert scalars_of(evaluation) == {"val/loss": 2.0, "val/bpb": 1.0}
    assert scalars_of({**evaluation, "final": True}) == {"val_final/loss": 2.0, "val_final/bpb": 1.0}
    assert scalars_of({"event": "save", "step": 3, "loss": 1.0}) == {}


# --- in a training run ------------------------------------------------------------------------------------------------

SETTINGS: dict[str, Any] = {
    "preset": "tiny", "vocab_size": 300, "seq_len": 32, "batch_size": 4, "max_steps": 14, "eval_interval": 4,
    "log_interval": 3, "save_interval": 5, "keep_last": 9, "sample_every": 0, "progress": "off", "threads": 2,
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMLM_CACHE_DIR", str(tmp_path / "cache"))


def test_a_training_that_is_stopped_and_goes_on(text: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = symlm.TrainConfig(**SETTINGS, out_dir=str(run), tensorboard="auto", stop_at_step=13)
    symlm.Trainer(config, data=text).fit()
    assert shown(run / "tensorboard") == expected(run)
    # From further back: what was written of steps 11 to 13 is replaced. The folder is that of the run's configuration.
    config = symlm.TrainConfig(**SETTINGS, resume=str(run / "checkpoints" / "step-00000010"))
    symlm.Trainer(config, data=text).fit()
    found = shown(run / "tensorboard")
    assert len(list((run / "tensorboard").iterdir())) == 2
    assert found == expected(run)
    assert sorted(found["train/loss"]) == [1, 3, 6, 9, 12, 14] and sorted(found["val/bpb"]) == [4, 8, 12, 14]
    assert set(found) == {*TAGS, "val/loss", "val/bpb"} | {tag for tag in found if tag.startswith("val_final/")}
    # The same from the metrics alone.
    path = export_events(run, tmp_path / "exported")
    assert shown(path.parent) == found
    started = read_events(path)[2].wall_time
    assert abs(started - path.stat().st_mtime) < 300


class Hooks(symlm.Callback):
    """Notes what is called, by way of `TensorBoard` where that is given."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_start(self, step: int, path: Path) -> None:
        self.calls.append(f"start {step} {path.name}")

    def on_end(self) -> None:
        self.calls.append("end")


def test_callbacks_hear_of_the_start_and_the_end(text: Path, tmp_path: Path) -> None:
    hooks = Hooks()
    board = TensorBoard(tmp_path / "board")
    settings = {**SETTINGS, "max_steps": 6, "out_dir": str(tmp_path / "run")}
    config = symlm.TrainConfig(**settings, stop_at_step=4)
    symlm.Trainer(config, data=text, callbacks=[hooks, board]).fit()
    symlm.Trainer(symlm.TrainConfig(**settings, resume="auto"), data=text, callbacks=[hooks, board]).fit()
    assert hooks.calls == ["start 0 run", "end", "start 4 run", "end"]
    assert shown(tmp_path / "board") == expected(tmp_path / "run")


def test_a_disk_that_fails_ends_only_the_event_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    board = TensorBoard(tmp_path / "board", said.append)
    board.on_start(0, tmp_path)
    record: Mapping[str, Any] = {"event": "train", "step": 1, "loss": 2.0}
    board.on_log(record)
    write = os.write
    (path,) = (tmp_path / "board").iterdir()
    before = path.read_bytes()

    def full(file: int, data: bytes) -> int:
        if len(data) > 20:
            return write(file, data[:20])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    board.on_log({**record, "step": 2})
    monkeypatch.setattr(os, "write", write)
    board.on_log({**record, "step": 3})
    board.on_end()
    # Nothing of the record that failed is left.
    assert path.read_bytes() == before and len(read_events(path)) == 3
    assert said == [f"{tmp_path / 'board'}: no more metrics for TensorBoard: no space left on device"]
    (tmp_path / "file").write_text("")
    TensorBoard(tmp_path / "file", said.append).on_start(0, tmp_path)
    assert said[1].endswith("file exists")


def test_a_folder_that_cannot_be_is_refused_first(text: Path, tmp_path: Path) -> None:
    config = symlm.TrainConfig(**SETTINGS, out_dir=str(tmp_path / "run"), tensorboard=str(text))
    with pytest.raises(UserError, match="is not a folder"):
        symlm.Trainer(config, data=text).fit()
    assert not (tmp_path / "run").exists()


# --- from the metrics -------------------------------------------------------------------------------------------------


def make_runs(folder: Path) -> list[Path]:
    records = [
        {"event": "train", "step": 1, "tokens": 9, "loss": 3.0, "elapsed_s": 1.5},
        {"event": "train", "step": -1, "loss": 1.0},
        {"event": "train", "step": "x", "loss": 1.0},
        {"event": "eval", "step": 2, "val_loss": math.nan, "val_bpb": 2.0, "final": False},
    ]
    runs = [folder / "a" / "run", folder / "b" / "run", folder / "c"]
    for run in runs:
        run.mkdir(parents=True)
        (run / "metrics.jsonl").write_text("".join(to_line(record) + "\n" for record in records))
        (run / "environment.json").write_text('{"started": "2026-01-02T03:04:05+00:00", "data": {}}')
    return runs


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    make_runs(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["plot", "a/run", "b/run", "c", "--tensorboard", "tb"]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.parent for path in paths] == [Path("tb/a-run"), Path("tb/b-run"), Path("tb/c")]
    _, start, first, second = read_events(paths[0])
    assert start.starts and start.step == 0
    assert (first.step, first.scalars, first.wall_time) == (1, {"train/loss": 3.0}, 1767323045 + 1.5)
    assert second.step == 2 and second.wall_time == first.wall_time and math.isnan(second.scalars["val/loss"])
    assert main(["plot", "c", "--tensorboard", "c/metrics.jsonl"]) == 1
    assert "is not a folder" in capsys.readouterr().err
