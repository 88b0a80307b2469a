"""The benchmark: figures that agree with each other, a simulator within its bounds, errors before any long work."""

from __future__ import annotations

import itertools
import json
import signal
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import HANG_S, Cli
from symlm import _symlm
from symlm.bench.cases import Case, instruction_sets, plan
from symlm.bench.engines import Engines, load_tokens, timed_config
from symlm.bench.figures import Figures
from symlm.bench.rounds import Entry, Turn
from symlm.bench.settings import BenchConfig, default_out_dir, model_settings
from symlm.bench.simulate import TaskGraph, makespan, predict
from symlm.display import OffDisplay
from symlm.errors import MemoryPlanError, UsageError
from symlm.system.signals import StopSignals

SMALL = (
    "--num-layers", 1, "--num-heads", 2, "--hidden-size", 16, "--intermediate-size", 16, "--vocab-size", 300,
    "--seq-len", 8, "--batch-size", 4,
)  # fmt: skip


# --- the simulator ------------------------------------------------------------------------------------------------


def graph_of(
    after: list[list[int]], seconds: list[float], kinds: list[str] | None = None, urgent: list[bool] | None = None
) -> TaskGraph:
    """A graph whose tasks are all urgent unless `urgent` says otherwise."""
    count = len(after)
    return TaskGraph(kinds or ["forward"] * count, after, seconds, urgent or [True] * count)


def test_a_chain_gains_nothing_from_workers() -> None:
    chain = graph_of([[], [0], [1], [2]], [1.0, 2.0, 3.0, 4.0])
    assert [makespan(chain, workers) for workers in (1, 2, 7)] == [10.0, 10.0, 10.0]
    assert chain.critical_path() == [0, 1, 2, 3]
    assert predict(chain, 2).limit == "chain"


def test_a_fan_is_shared_out() -> None:
    """One task, then six of 2 s, then one that waits for all of them."""
    fan = graph_of([[], *([0] for _ in range(6)), [1, 2, 3, 4, 5, 6]], [1.0, *([2.0] * 6), 1.0])
    assert [makespan(fan, workers) for workers in (1, 2, 3, 4, 6, 100)] == [14.0, 8.0, 6.0, 6.0, 4.0, 4.0]
    assert fan.work == 14.0
    assert sum(fan.seconds[task] for task in fan.critical_path()) == 4.0


def test_what_nothing_waits_for_comes_last() -> None:
    """Weight gradients fill the gap at the end; first in, first out they would hold the chain up."""
    after = [[], [], [], [2], [3]]
    gaps = graph_of(after, [3.0, 3.0, 2.0, 2.0, 2.0], urgent=[False, False, True, True, True])
    assert makespan(gaps, 2) == 6.0
    assert makespan(graph_of(after, [3.0, 3.0, 2.0, 2.0, 2.0]), 2) == 9.0


def test_the_newest_task_is_taken_first_and_the_oldest_is_stolen() -> None:
    """Task 0 makes 1, 2, 3 ready: its worker continues with 3, the other one takes 1, so 4 behind 1 starts at 2."""
    tree = graph_of([[], [0], [0], [0], [1]], [1.0, 1.0, 5.0, 1.0, 2.0])
    assert makespan(tree, 2) == 7.0


def test_the_chain_is_summed_up_by_kinds() -> None:
    graph = graph_of([[], [0], [1], [0]], [1.0, 5.0, 2.0, 1.0], ["forward", "loss", "forward", "backward"])
    assert graph.chain() == [("loss", 1, 5.0), ("forward", 2, 3.0)]


def test_an_empty_graph_takes_no_time() -> None:
    assert makespan(graph_of([], []), 3) == 0.0
    assert graph_of([], []).critical_path() == []


@st.composite
def task_graphs(draw: st.DrawFn) -> TaskGraph:
    """Any graph of up to 30 tasks of whole seconds, so that sums are exact."""
    count = draw(st.integers(min_value=1, max_value=30))
    after: list[list[int]] = [[]]
    for task in range(1, count):
        after.append(sorted(draw(st.sets(st.integers(min_value=0, max_value=task - 1), max_size=4))))
    seconds = draw(st.lists(st.integers(min_value=0, max_value=20), min_size=count, max_size=count))
    kinds = draw(st.lists(st.sampled_from(["forward", "loss"]), min_size=count, max_size=count))
    urgent = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    return TaskGraph(kinds, after, [float(second) for second in seconds], urgent)


@given(task_graphs(), st.integers(min_value=1, max_value=9))
def test_bounds_of_list_scheduling(graph: TaskGraph, workers: int) -> None:
    found = predict(graph, workers)
    path = graph.critical_path()
    assert all(before in graph.after[task] for before, task in itertools.pairwise(path))
    assert graph.after[path[0]] == []
    assert sum(seconds for _, _, seconds in graph.chain()) == found.chain
    assert max(found.work / workers, found.chain) <= found.seconds <= found.work / workers + found.chain
    if workers == 1:
        assert found.seconds == found.work
    if workers >= len(graph.after):
        assert found.seconds == found.chain


# --- cases and figures --------------------------------------------------------------------------------------------


def test_each_optimisation_is_compared_alone_and_among_the_others() -> None:
    found = plan(2, ["avx512", "avx2", "portable"], [1, 2, 4], True)
    names = [case.name for case in found.cases]
    assert len(set(names)) == len(names)
    assert found.cases[0] == found.base
    assert {case.threads for case in found.scaling} == {1, 2, 4}
    bare = next(c.off for c in found.comparisons if c.name == "all together")
    assert (bare.threads, bare.isa, bare.prefetch, bare.barriers) == (1, "portable", False, True)
    for comparison in found.comparisons[:-1]:
        pairs = zip(vars(comparison.on).items(), vars(comparison.off).values(), strict=True)
        assert len([name for (name, on), off in pairs if on != off]) == 1, comparison
        assert comparison.rest in ("on", "off")
        if comparison.rest == "on":
            assert comparison.on == found.base
    assert plan(1, ["portable"], [], False).cases == [plan(1, ["portable"], [], True).base]


def test_slower_instruction_sets_are_compared() -> None:
    available = ["avx512", "avx2", "portable", "portable-soft"]
    assert instruction_sets("avx512", available) == ["avx512", "avx2", "portable"]
    assert instruction_sets("avx2", available) == ["avx2", "portable"]
    assert instruction_sets("portable-soft", available) == ["portable-soft"]


def test_ratios_are_taken_per_round() -> None:
    """The machine is half as fast in round 1: medians of rates apart would hide that the ratio is 2 in each."""
    found = plan(2, ["portable"], [1, 2], False)
    speeds = {found.base.name: {0: 400, 1: 200, 2: 400}, found.scaling[0].name: {0: 200, 1: 100}}
    entries = [
        Entry(case.name, case, turns=[Turn(r, 1, s, 1.0, 10.0) for r, s in speeds[case.name].items()])
        for case in found.cases
    ]
    figures = Figures(found, entries, 1e9)
    ratio = figures.ratio(found.base.name, found.scaling[0].name)
    assert ratio.rounds == {0: 2.0, 1: 2.0}
    assert ratio.factor == 2.0
    assert figures.measured_speedup(2) == 2.0
    assert figures.measured_speedup(4) is None


def test_settings() -> None:
    assert BenchConfig(scaling=" 8, 2,2").thread_counts == [1, 2, 8]
    assert BenchConfig(scaling=None).thread_counts == []
    assert BenchConfig(updates=7).updates_for(100.0) == 7
    assert BenchConfig().updates_for(100.0) == 1
    assert BenchConfig(quick=True).updates_for(0.05) == 5
    assert default_out_dir(model_settings((), {})) == Path("runs/bench-3m")
    assert default_out_dir(model_settings((), {"num_layers": "8"})) == Path("runs/bench-5.5M")
    with pytest.raises(UsageError, match="--torch-python without --peers torch"):
        BenchConfig(torch_python="python3")


# --- the command --------------------------------------------------------------------------------------------------


def check_figures(record: dict[str, Any]) -> None:
    """Every figure follows from the turns."""
    cases = {case["name"]: case for case in record["cases"]}
    assert record["base"] in cases
    for case in cases.values():
        for turn in case["turns"]:
            assert turn["tokens"] == turn["updates"] * record["batch_size"] * record["model"]["seq_len"]
            assert turn["tok_s"] == pytest.approx(turn["tokens"] / turn["seconds"])
            assert turn["gflops"] == pytest.approx(turn["tok_s"] * record["flops_per_token"] / 1e9)
            assert turn["peak_frac"] == pytest.approx(turn["gflops"] / turn["peak_gflops"])
            assert turn["busy_frac"] > 0
            assert 0 <= turn["prefetch_wait_s"] <= turn["seconds"]
        if case["turns"]:
            assert case["median"]["tok_s"] == pytest.approx(statistics.median(t["tok_s"] for t in case["turns"]))
    for ratio in [*record["scaling"], *record["optimisations"]]:
        rates = [{t["round"]: t["tok_s"] for t in cases[ratio[which]]["turns"]} for which in ("of", "to")]
        factors = {number: rate / rates[1][number] for number, rate in rates[0].items() if number in rates[1]}
        assert {f["round"]: f["factor"] for f in ratio["rounds"]} == pytest.approx(factors)
        if factors:
            assert ratio["factor"] == pytest.approx(statistics.median(factors.values()))


def test_a_benchmark_from_end_to_end(cli: Cli, tmp_path: Path) -> None:
    done = cli(
        "bench", *SMALL, "--threads", 2, "--rounds", 2, "--updates", 2, "--scaling", "1,3", "--simulate", "--quick",
        "--out-dir", "out", "--json", "copy.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert json.loads((tmp_path / "copy.json").read_text()) == record
    assert record["complete"]
    assert record["command"][:2] == ["symlm", "bench"]
    assert record["machine"]["cpu"] is not None
    assert record["machine"]["isa"] in record["machine"]["isa_available"]
    assert len(record["started"]) > 10
    assert {"commit", "parameters", "threads", "rounds"} <= record.keys()
    assert all(len(case["turns"]) == 2 for case in record["cases"])
    assert [row["threads"] for row in record["scaling"]] == [1, 3]
    assert record["scaling"][0]["factor"] == 1.0
    assert {row["name"] for row in record["optimisations"]} >= {"prefetch", "deques, not barriers", "all together"}
    check_figures(record)
    assert [row["workers"] for row in record["simulation"]] == [1, 2, 4, 8, 16, 32, 64, 128]
    for row in record["simulation"]:
        least = max(row["work_s"] / row["workers"], row["chain_s"])
        assert least * 0.999999 <= row["seconds"] <= (row["work_s"] / row["workers"] + row["chain_s"]) * 1.000001
        assert row["efficiency"] == pytest.approx(row["speedup"] / row["workers"])
        assert row["recorded_with"] == min(row["workers"], 2)
        assert sum(part["seconds"] for part in row["chain"]) == pytest.approx(row["chain_s"])
    for title in ("End to end", "Threads", "Optimisations", "Simulated workers"):
        assert title in done.stdout
    assert "Traceback" not in done.stderr
    again = cli("bench", *SMALL, "--out-dir", "out")
    assert again.returncode == 1
    assert "there is a benchmark already" in again.stderr


def test_charts_are_drawn(tmp_path: Path) -> None:
    from symlm.bench import charts

    found = plan(2, ["avx2", "portable"], [1, 2, 63], True)
    entries = [Entry(case.name, case, turns=[Turn(0, 1, 100 + k, 1.0, 10.0)]) for k, case in enumerate(found.cases)]
    for cores in (2, 64):
        paths = charts.draw(Figures(found, entries, 1e9), "title", cores, tmp_path)
        assert [path.name for path in paths] == ["scaling.png", "optimisations.png"]
        assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    assert charts.draw(Figures(plan(1, ["portable"], [], False), [], 1e9), "title", 2, tmp_path) == []


def test_a_broken_matplotlib_costs_no_figures(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "matplotlib.py").write_text("raise ImportError('built for another numpy')")
    done = cli("bench", *SMALL, "--rounds", 1, "--updates", 1, "--scaling", "1,2", "--no-switches", "--quick",
               "--threads", 1, env={"PYTHONPATH": str(folder)})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "End to end" in done.stdout
    assert "warning: matplotlib cannot be imported, so no charts are drawn" in done.stderr
    assert "1 round of 2 turns took" in done.stderr
    assert [path.name for path in (tmp_path / "runs" / "bench-6.6k").iterdir()] == ["bench.json"]


def small_engines() -> Engines:
    """Engines of the small model on random tokens."""
    flags = [str(flag)[2:].replace("-", "_") for flag in SMALL[::2]]
    train = timed_config(model_settings((), dict(zip(flags, SMALL[1::2], strict=True))), 300)
    shards, vocab_size = load_tokens(train, None, 1, OffDisplay())
    assert vocab_size == 300
    return Engines(train, shards, StopSignals())


def test_the_plan_of_a_larger_machine_runs_on_this_one() -> None:
    """The same tasks as with so many threads, other ones than with as many as there are, and the same bits."""
    found = small_engines()
    cases = (Case(1, "portable", plan_threads=8), Case(8, "portable"), Case(1, "portable"))
    try:
        here, there, usual = (found.get(case) for case in cases)
        assert here.task_graph() == there.task_graph() != usual.task_graph()
        assert len(here.worker_stats()) == 1
        assert {task.kind for task in here.task_graph() if not task.urgent} == {
            "matrix gradient", "embedding gradient", "norm gradient",
        }  # fmt: skip
        losses = [[report.loss for report in found.advance(engine, 3)[0]] for engine in (here, there, usual)]
        assert losses[0] == losses[1] == losses[2]
    finally:
        found.close()


def test_the_peak_of_a_named_instruction_set() -> None:
    assert _symlm.fma_peak(1, 0.01, "portable") > 0
    with pytest.raises(UsageError, match='"sse9"'):
        _symlm.fma_peak(1, 0.01, "sse9")


def test_under_pressure_the_engine_that_waits_longest_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is room for two; all three cases continue where they were, or start again."""
    found = small_engines()

    def check_memory(_: str) -> None:
        if len(found.kept) == 2:
            raise MemoryPlanError("no room")

    monkeypatch.setattr(_symlm, "check_memory", check_memory)
    first, second, third = (Case(threads, "portable") for threads in (1, 2, 3))
    try:
        for case in (first, second, first, third):
            reports, seconds = found.advance(found.get(case), 2)
            assert len(reports) == 2
            assert seconds > 0
        assert list(found.kept) == [first, third]
        assert found.get(first).step == 2 + 2 + 2
        assert found.get(second).step == 2
        assert list(found.kept) == [first, second]
    finally:
        found.close()


def test_a_text_can_be_named(cli: Cli, tmp_path: Path, text: Path) -> None:
    done = cli("bench", text.name, *SMALL, "--rounds", 1, "--updates", 1, "--no-scaling", "--no-switches")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "runs" / "bench-6.6k" / "bench.json").read_text())
    assert len(record["cases"]) == 1
    assert record["scaling"] == record["optimisations"] == record["simulation"] == []
    check_figures(record)


def test_ctrl_c_writes_what_was_measured(environment: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "symlm", "bench", *map(str, SMALL), "--rounds", "1000", "--updates", "1"]
    process = subprocess.Popen(
        [*command, "--scaling", "1,2"],
        cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if line.startswith("measuring"):
                break
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=HANG_S)
    finally:
        process.kill()
    assert process.returncode == 130, error
    assert "stopped by SIGINT" in out
    assert " took " not in error
    record = json.loads((tmp_path / "runs" / "bench-6.6k" / "bench.json").read_text())
    assert not record["complete"]
    assert any(case["turns"] for case in record["cases"])
    check_figures(record)


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--scaling", "1,x"], 2, "--scaling: expected whole numbers from 1 to 1,024, found 'x'"),
        (["--scaling", "0"], 2, "--scaling: expected whole numbers from 1 to 1,024, found '0'"),
        (["--rounds", "0"], 2, "--rounds: expected at least 1"),
        (["--peers", "jax"], 2, "--peers: expected one of torch"),
        (["--preset", "4m"], 2, "--preset: expected one of"),
        (["--num-heads", "7"], 2, "7 heads do not divide the hidden size"),
        (["--tokenizer", "t.json"], 2, "--tokenizer without a PATH"),
        (["--torch-python", "python3"], 2, "--torch-python without --peers torch"),
        (["--round", "3"], 2, "unknown flag --round"),
        (["--peers", "torch", "--torch-python", "none/python"], 1, "none/python: no such interpreter"),
        (["--peers", "torch", "--torch-python", "false"], 1, "false: cannot import torch"),
        (["--out-dir", "/proc/no/bench"], 1, "/proc/no/bench: cannot make the folder"),
        (["--json", "none/bench.json"], 1, "--json: cannot write none/bench.json: no such file or directory"),
        (["--json", "/dev/null"], 1, "--json /dev/null: found a device, pipe or socket"),
        (["--json", "."], 1, "--json .: found a folder"),
        (["text.txt", "--json", "text.txt"], 1, "--json text.txt: this file is read"),
        (["--scaling", "1,2", "--no-scaling"], 2, "--scaling 1,2 and --no-scaling"),
        (["none.txt"], 3, "none.txt"),
        (["--preset", "100m", "--batch-size", "60000", "--seq-len", "64"], 4, "memory"),
    ],
)
@pytest.mark.usefixtures("text")
def test_bad_input(cli: Cli, tmp_path: Path, flags: list[str], code: int, message: str) -> None:
    done = cli("bench", *flags)
    assert done.returncode == code, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert message in errors[0]
    assert done.stderr.splitlines()[-1].startswith("hint: ")
    assert done.stdout == ""
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("module", "reason"), [("", ""), ("print('welcome')", 'found "welcome", expected a line with its version')]
)
def test_a_peer_that_fails_is_left_out(cli: Cli, tmp_path: Path, module: str, reason: str) -> None:
    """An interpreter whose torch is not PyTorch, or says something unasked: the rest is measured."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "torch.py").write_text(module)
    done = cli(
        "bench", *SMALL, "--rounds", 1, "--updates", 1, "--no-scaling", "--no-switches", "--peers", "torch",
        env={"PYTHONPATH": str(folder)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"PyTorch eager is left out: {reason}" in done.stderr
    assert "PyTorch compiled is left out" in done.stderr
    record = json.loads((tmp_path / "runs" / "bench-6.6k" / "bench.json").read_text())
    assert record["peers"] == []
