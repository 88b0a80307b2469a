"""`symlm plot`: what is drawn from the metrics of runs, whatever is in them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from symlm.cli import main
from symlm.display import curves
from symlm.display.curves import draw_runs, read_curves, run_names, running_mean, thin
from symlm.errors import UserError
from symlm.run.history import read_history
from symlm.run.metrics import to_line


def write_run(path: Path, records: Iterable[dict[str, Any]]) -> Path:
    path.mkdir(parents=True)
    (path / "metrics.jsonl").write_text("".join(to_line(record) + "\n" for record in records), encoding="utf-8")
    return path


def train(step: int, **changes: Any) -> dict[str, Any]:
    return {
        "event": "train", "step": step, "tokens": 64 * step, "loss": 6 / step + 2, "lr": 1e-3, "grad_norm": 1.5,
        "tok_s": 1e4, "peak_frac": 0.5, "worker_busy_frac": 0.9, "elapsed_s": step / 2, "eta_s": 1.0, **changes,
    }  # fmt: skip


def evaluation(step: int, **changes: Any) -> dict[str, Any]:
    values = {"val_loss": 6 / step + 2.1, "val_bpb": 1.5, "best_val_bpb": 1.5, "windows": 4, "final": False}
    return {"event": "eval", "step": step, "tokens": 64 * step, **values, **changes}


RECORDS = [
    {"event": "start", "step": 0, "tokens": 0},
    train(1),
    train(2, loss=math.nan, grad_norm=math.inf),
    {"event": "nan", "step": 3, "tokens": 192, "loss": math.nan},
    evaluation(3),
    {"event": "resume", "step": 3, "tokens": 192},
    train(4, lr=None, tok_s="fast"),
    {"event": "sample", "step": 4, "tokens": 256, "text": "nan"},
    evaluation(4, final=True, val_bpb=math.nan),
    {"event": "end", "step": 4, "elapsed_s": 9.0},
]


def test_records_read_back(tmp_path: Path) -> None:
    found = list(read_history(write_run(tmp_path / "run", RECORDS)))
    assert [record["event"] for record in found] == [record["event"] for record in RECORDS]
    assert math.isnan(found[2]["loss"]) and found[2]["grad_norm"] == math.inf
    assert found[7]["text"] == "nan"
    assert [record["elapsed_s"] for record in found] == [0, 0.5, 1, 1, 1, 1, 2, 2, 2, 9]
    with pytest.raises(UserError, match="no metrics there"):
        read_history(tmp_path)


def test_columns_of_a_run(tmp_path: Path) -> None:
    found = read_curves(write_run(tmp_path / "run", RECORDS))
    assert found.train["step"].tolist() == [1, 2, 4]
    assert np.isnan(found.train["lr"]).tolist() == np.isnan(found.train["tok_s"]).tolist() == [False, False, True]
    assert found.evaluations["val_bpb"].tolist() == [1.5] and found.final["step"].tolist() == [4]
    assert found.bad["step"].tolist() == [2, 3] and found.bad["elapsed_s"].tolist() == [1, 1]
    assert not found.empty
    assert read_curves(write_run(tmp_path / "new", RECORDS[:1])).empty


numbers = st.floats(allow_nan=True, allow_infinity=True, width=32)


@given(st.lists(numbers, max_size=60), st.integers(1, 20))
def test_fewer_points_hold_all_values(values: list[float], most: int) -> None:
    x, mean, low, high = thin(range(len(values)), values, most)
    assert len(x) == min(len(values), most)
    finite = [value for value in values if math.isfinite(value)]
    if finite:
        assert np.nanmin(low) == min(finite) and np.nanmax(high) == max(finite)
    known = np.isfinite(x)
    assert np.all(np.diff(x[known]) > 0)
    slack = 1e-6 * np.abs(high - low)[known]
    assert np.all(mean[known] >= low[known] - slack) and np.all(mean[known] <= high[known] + slack)
    if len(values) <= most:
        assert np.array_equal(mean[known], finite)


@given(st.lists(st.floats(-100, 100) | st.just(math.nan), min_size=1, max_size=300))
def test_running_means(values: list[float]) -> None:
    found = running_mean(np.array(values))
    half = max(len(values) // 50 // 2, 1)
    for place, mean in enumerate(found):
        reach = min(half, place)
        around = [v for v in values[place - reach : place + reach + 1] if math.isfinite(v)]
        assert math.isnan(mean) if not around else mean == pytest.approx(sum(around) / len(around), abs=1e-9)


def test_names_that_tell_runs_apart() -> None:
    assert run_names(["runs/a", "runs/b/"]) == ["a", "b"]
    assert run_names(["x/a", "y/a", "y/b"]) == ["x/a", "y/a", "b"]


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    """Runs with everything that may be in one, and with nearly nothing."""
    long = (record for step in range(1, 2500) for record in (train(step), evaluation(step)))
    found = [
        write_run(tmp_path / "broken", RECORDS),
        write_run(tmp_path / "long", long),
        write_run(tmp_path / "_one $point_{", [train(1)]),
        write_run(tmp_path / "only\tevaluations \u4e2d", [evaluation(1)]),
        write_run(tmp_path / "all bad", [train(1, loss=math.nan, grad_norm=math.nan, elapsed_s=math.nan)]),
        write_run(tmp_path / "new", RECORDS[:1]),
        *(write_run(tmp_path / f"run {number}", [train(1), train(2)]) for number in range(8)),
    ]
    return [str(run) for run in found]


@pytest.mark.parametrize(("axis", "log_y"), [("step", False), ("tokens", True), ("elapsed_s", False)])
def test_everything_is_drawn(runs: list[str], tmp_path: Path, axis: str, log_y: bool) -> None:
    target = tmp_path / "curves.svg"
    assert draw_runs(runs, target, axis, log_y) == [runs[5]]
    picture = target.read_text(encoding="utf-8")
    for words in ("loss, nats per token", "bits per byte", "learning rate", "gradient norm", "tokens per second",
                  "broken", "_one $point_{", "new (nothing yet)", "validation", "final, more windows", "not finite",
                  {"elapsed_s": "time, minutes"}.get(axis, curves.AXES[axis])):  # fmt: skip
        assert f"<!-- {words}" in picture or f" {words}" in picture, words
    # Thousands of points and no more.
    assert max(len(re.findall(r"\bL\b", path)) for path in re.findall(r' d="([^"]*)"', picture)) <= 4100
    colours = re.findall(r"stroke: (#[0-9a-f]{6})", picture)
    assert {"#0072b2", "#d55e00", "#009e73"} <= set(colours)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are saved."""
    from matplotlib.figure import Figure

    figures: list[Any] = []
    save = Figure.savefig

    def keep(figure: Figure, *arguments: Any, **keywords: Any) -> None:
        figures.append(figure)
        save(figure, *arguments, **keywords)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def test_panels_stay_large(runs: list[str], tmp_path: Path, drawn: list[Any]) -> None:
    draw_runs(runs[:6], tmp_path / "curves.png")
    sizes = [axes.get_position().height for axes in drawn[0].axes]
    assert len(sizes) == 5 and min(sizes) > 0.25


def test_the_final_evaluation_is_no_point_of_the_curve(tmp_path: Path, drawn: list[Any]) -> None:
    records = [train(1), evaluation(2, val_bpb=2.0), evaluation(4, val_bpb=1.5),
               evaluation(4, val_bpb=1.8, val_loss=3.3, windows=99, final=True)]  # fmt: skip
    draw_runs([str(write_run(tmp_path / "run", records))], tmp_path / "curves.png", "step")
    draw_runs([str(write_run(tmp_path / "short", records[:3]))], tmp_path / "short.png", "step")
    panels = {axes.get_title("left"): axes for axes in drawn[0].axes}
    for name, curve, last in (("val_bpb", [2.0, 1.5], 1.8), ("loss", [5.1, 3.6], 3.3)):
        axes = panels[curves.PANELS[name]]
        marked = [line for line in axes.lines if line.get_marker() == "D"]
        assert [(*line.get_xdata(), *line.get_ydata(), line.get_linestyle()) for line in marked] == [(4, last, "None")]
        assert curve in [list(line.get_ydata()) for line in axes.lines if line.get_marker() == "o"]
        assert "final, more windows" in [text.get_text() for text in axes.get_legend().get_texts()]
    for axes in drawn[1].axes:
        texts = axes.get_legend().get_texts() if axes.get_legend() else []
        assert "final, more windows" not in [text.get_text() for text in texts]


def test_one_value_and_no_validation(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [train(1)])
    draw_runs([str(run)], tmp_path / "curves.svg", "elapsed_s", True)
    assert "nothing to draw" in (tmp_path / "curves.svg").read_text(encoding="utf-8")
    with pytest.raises(UserError, match="no metrics to draw yet"):
        draw_runs([str(write_run(tmp_path / "new", RECORDS[:1]))], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_the_command(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", *runs[2:6], "--out", str(tmp_path / "a.png"), "--log-y"]) == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'a.png'}\n" and captured.err == f"note: {runs[5]}: nothing to draw yet\n"
    for words, code, message in (
        ([runs[0], "-o", "a.pdf"], 2, "expected a name that ends in .png or .svg"),
        ([runs[0], "-o", str(tmp_path / "none" / "a.png")], 1, "no such file or directory"),
        ([str(tmp_path / "none")], 1, "no metrics there"),
        ([runs[5]], 1, "no metrics to draw yet"),
    ):
        assert main(["plot", *words]) == code
        assert message in capsys.readouterr().err


fields = st.sampled_from(
    ["event", "step", "tokens", "loss", "val_loss", "val_bpb", "lr", "grad_norm", "elapsed_s", "final"]
)
values = st.none() | st.booleans() | numbers | st.sampled_from(["train", "eval", "nan"]) | st.just([1])


@given(st.lists(st.dictionaries(fields, values), max_size=6))
def test_any_metrics_become_columns(tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]]) -> None:
    run = tmp_path_factory.getbasetemp() / "any"
    run.mkdir(exist_ok=True)
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    found = read_curves(run)
    for part in (found.train, found.evaluations, found.final, found.bad):
        assert len({len(column) for column in part.values()}) == 1
