"""Recording of updates, the switches for measuring, and `train --trace`."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from conftest import Cli
from symlm import _symlm
from symlm.config.engine import engine_settings
from symlm.config.train_config import TrainConfig
from symlm.errors import UsageError, UserError
from symlm.system.files import file_hash
from symlm.training.trace import MOST_UPDATES, WARM_UP, summary

SMALL = ["--preset", "tiny", "--vocab-size", "300", "--seq-len", "32", "--batch-size", "8", "--sample-every", "0",
         "--progress", "plain", "--threads", "2", "--out-dir", "run"]  # fmt: skip


@pytest.fixture
def shards(text: Path, tmp_path: Path) -> _symlm.Shards:
    corpus = _symlm.Corpus.open([str(text)])
    tokenizer = corpus.train_tokenizer(300, 1, None)
    return corpus.prepare(tokenizer, str(tmp_path), 0.0, 32, 1, None).train


def make(shards: _symlm.Shards, threads: int, **switches: Any) -> _symlm.Engine:
    config = TrainConfig(
        preset="tiny", num_layers=2, vocab_size=300, seq_len=32, batch_size=13, max_steps=50, warmup_steps=0
    )
    return _symlm.Engine(engine_settings(config.with_model(), threads), shards, **switches)


def run_until(engine: _symlm.Engine, step: int) -> None:
    engine.run_until(step)
    while engine.step < step:
        engine.poll(1.0)


SWITCHES = [
    {"prefetch": prefetch, "barriers": barriers, "isa": isa}
    for prefetch, barriers, isa in itertools.product([True, False], [False, True], ["portable", None])
]


def test_no_switch_changes_a_bit(shards: _symlm.Shards, tmp_path: Path) -> None:
    hashes = set()
    for threads, switches in itertools.product([1, 2, 3], SWITCHES):
        engine = make(shards, threads, **switches)
        engine.record(threads == 2)
        run_until(engine, 3)
        assert engine.isa == (switches["isa"] or _symlm.isa())
        engine.save_begin(str(tmp_path)).finish()
        engine.close()
        hashes.add(tuple(file_hash(tmp_path / name) for name in ("model.safetensors", "optimizer.safetensors")))
    assert len(hashes) == 1


def test_an_unknown_instruction_set_is_refused(shards: _symlm.Shards) -> None:
    with pytest.raises(UsageError, match=r'instruction set "mmx", symlm has .*portable'):
        make(shards, 1, isa="mmx")


@pytest.mark.parametrize("barriers", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_trace_is_complete_and_consistent(shards: _symlm.Shards, threads: int, barriers: bool) -> None:
    engine = make(shards, threads, barriers=barriers, prefetch=not barriers)
    run_until(engine, 1)
    engine.record(True)
    run_until(engine, 3)
    engine.evaluate(shards, 8, None)
    run_until(engine, 4)
    engine.record(False)
    run_until(engine, 5)
    graph, trace = engine.task_graph(), engine.take_trace()
    assert engine.take_trace().updates == []
    engine.close()

    assert len(trace.updates) == len(trace.prefetch_waits) == 3
    assert trace.updates[0].end_ns == trace.updates[1].start_ns
    assert trace.updates[1].end_ns < trace.updates[2].start_ns
    for update, wait in zip(trace.updates, trace.prefetch_waits, strict=True):
        start, end = update.start_ns, update.end_ns
        spans = {span.node: span for span in trace.spans if start <= span.start_ns and span.end_ns <= end}
        assert sorted(spans) == list(range(len(graph)))
        for node, task in enumerate(graph):
            assert all(spans[before].end_ns <= spans[node].start_ns for before in task.after)
        assert start <= wait.start_ns <= wait.end_ns <= min(span.start_ns for span in spans.values())
    assert len(trace.spans) == 3 * len(graph)
    for worker in range(threads):
        own = [span for span in trace.spans if span.worker == worker]
        assert all(a.end_ns <= b.start_ns for a, b in itertools.pairwise(own))
    wall = sum(update.end_ns - update.start_ns for update in trace.updates) * 1e-9
    assert len(trace.workers) == threads
    for index, of in enumerate(trace.workers):
        times = (of.busy_s, of.steal_s, of.idle_s, of.prefetch_wait_s)
        assert sum(times) == pytest.approx(wall, abs=1e-8)
        assert min(times) >= 0
        assert of.tasks == sum(span.worker == index for span in trace.spans)
    assert sum(worker.steals for worker in trace.workers) == 0 or (threads > 1 and not barriers)


def test_the_graph_names_every_kind_of_work(shards: _symlm.Shards) -> None:
    engine = make(shards, 2)
    graph = engine.task_graph()
    engine.close()
    kinds = Counter(task.kind for task in graph)
    assert {"forward", "attention", "loss", "backward", "attention backward", "squares", "finish", "update"} <= set(
        kinds
    )
    assert {f"{of} gradient" for of in ("head", "matrix", "norm", "embedding")} <= set(kinds)
    assert kinds["finish"] == 1
    assert kinds["attention"] == kinds["attention backward"]
    assert any("layer 1" in task.detail and "window 12" in task.detail for task in graph if task.kind == "attention")


def read(path: Path) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """The complete events of a file and the names of its rows."""
    events = json.loads(path.read_text())["traceEvents"]
    names = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    return [event for event in events if event["ph"] == "X"], names


def test_train_writes_a_trace(cli: Cli, text: Path, tmp_path: Path) -> None:
    done = cli("train", text.name, *SMALL, "--max-steps", 30, "--eval-interval", 10, "--trace", "trace.json")
    assert done.returncode == 0, done.stderr
    events, names = read(tmp_path / "trace.json")
    assert names == {0: "symlm-ctl", 1: "symlm-w00", 2: "symlm-w01"}
    updates = [event for event in events if event["name"] == "step"]
    assert len(updates) == MOST_UPDATES
    assert sum(event["name"] == "prefetch wait" for event in events) == MOST_UPDATES
    tasks = [event for event in events if event["cat"] == "task"]
    per_node = Counter(event["args"]["node"] for event in tasks)
    assert set(per_node.values()) == {MOST_UPDATES}
    assert sorted(per_node) == list(range(len(per_node)))
    for tid in (1, 2):
        row = sorted((event["ts"], event["dur"]) for event in tasks if event["tid"] == tid)
        assert row
        # Microseconds with three digits after the point: the sum may round.
        assert all(a[0] + a[1] <= b[0] + 1e-6 for a, b in itertools.pairwise(row))
    assert {event["tid"] for event in tasks} == {1, 2}
    assert f"updates {WARM_UP + 1} to {WARM_UP + MOST_UPDATES} in trace.json" in done.stderr
    assert "prefetch wait" in done.stderr
    assert "\ntrace = " not in (tmp_path / "run" / "config.toml").read_text()


def test_a_short_run_and_a_resumed_one_are_recorded_too(cli: Cli, text: Path, tmp_path: Path) -> None:
    common = ("train", text.name, *SMALL, "--max-steps", 8)
    done = cli(*common, "--stop-at-step", 1, "--trace", "first.json")
    assert done.returncode == 0, done.stderr
    assert "trace: update 1 in first.json" in done.stderr
    done = cli(*common, "--resume", "auto", "--trace", "second.json")
    assert done.returncode == 0, done.stderr
    assert "trace: updates 5 to 8 in second.json" in done.stderr
    names = [sum(e["name"] == "step" for e in read(tmp_path / f"{n}.json")[0]) for n in ("first", "second")]
    assert names == [1, 4]


def test_ctrl_c_leaves_a_trace(text: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    words = ["train", text.name, *SMALL, "--batch-size", "512", "--max-steps", "1000", "--log-interval", "1",
             "--trace", "trace.json"]  # fmt: skip
    command = [sys.executable, "-m", "symlm", *words]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(f"step {WARM_UP + 1:>4}/"):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
        assert process.wait(120) == 128 + signal.SIGINT, rest
    assert " in trace.json" in rest
    assert any(event["name"] == "step" for event in read(tmp_path / "trace.json")[0])


def test_a_path_that_cannot_be_written_is_refused_before_training(cli: Cli, text: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    refused = ["run-folder", "none/trace.json", "pipe", "other-name"]
    refused += [] if os.access(closed, os.W_OK) else ["closed/trace.json"]
    (tmp_path / "run-folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "other-name").symlink_to(text)
    before = text.read_bytes()
    for path in refused:
        done = cli("train", text.name, *SMALL, "--max-steps", 8, "--resume", "auto", "--trace", path)
        assert done.returncode == 1, done.stderr
        assert path in done.stderr
        assert "hint:" in done.stderr
        assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "other-name").is_symlink()
    assert text.read_bytes() == before
    assert cli("train", text.name, *SMALL, "--trace", "").returncode == 2


def test_a_file_that_cannot_be_written_is_an_error(shards: _symlm.Shards, tmp_path: Path) -> None:
    engine = make(shards, 1)
    engine.record(True)
    run_until(engine, 1)
    trace = engine.take_trace()
    engine.close()
    with pytest.raises(UserError, match=r"cannot write .*none/trace.json"):
        trace.write_chrome(str(tmp_path / "none" / "trace.json"))
    assert len(summary(trace)) == 2
