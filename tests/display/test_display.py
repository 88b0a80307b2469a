"""Displays: none of them may stop a run, none may start a thread."""

from __future__ import annotations

import io
import math
import threading
from typing import Any

import pytest
from rich.console import Console

from symlm.display import Display, JsonDisplay, OffDisplay, PlainDisplay, SafeDisplay
from symlm.display.live import LiveDisplay
from symlm.display.view import Sums, View, sparkline

TRAIN = {
    "event": "train", "step": 10, "tokens": 40960, "loss": 3.5, "lr": 1e-3, "grad_norm": 0.7, "tok_s": 12345.0,
    "peak_frac": 0.61, "worker_busy_frac": 0.93, "elapsed_s": 1.0, "eta_s": 90.0,
}  # fmt: skip
EVAL = {"event": "eval", "step": 10, "val_loss": 3.0, "val_bpb": 1.75, "best_val_bpb": 1.7}


def a_view(workers: int = 2) -> View:
    view = View(run="runs/x", origin="3m", parameters=2_900_000, isa="avx2", threads=workers, max_steps=100)
    for step in range(1, 60):
        view.step = step
        view.add_loss(5 - step / 30)
    view.lr, view.grad_norm = 1e-3, 0.7
    view.busy, view.queue, view.sample = [0.9] * workers, (3, 4), "Once [bold]upon[/] a \x1b[31mtime"
    view.val_loss, view.val_bpb, view.best_bpb, view.peak_frac, view.eta_s = 3.0, 1.75, 1.7, 0.61, 12.0
    return view


NAN = {"event": "nan", "of": "update", "step": 10, "loss": math.inf, "grad_norm": math.nan, "lr": 1e-3,
       "action": "rollback"}  # fmt: skip
ROLLBACK = {"event": "rollback", "step": 2, "failed_step": 10, "left_out": [[3, 10]], "rollbacks": 1}


def drive(display: Display, view: View) -> None:
    move = display.task("tokenizer")
    for done in range(11):
        move(done, 10)
    display.message("hello")
    display.begin(view)
    display.tick(view)
    for record in (TRAIN, EVAL, NAN, ROLLBACK, {"event": "sample", "step": 10, "text": view.sample},
                   {"event": "save", "step": 10, "path": "checkpoints/step-00000010"},
                   {"event": "stop", "step": 10, "reason": "--stop-at-step 10"}):  # fmt: skip
        display.event(record, view)
    display.task("evaluation")(1, 2)
    display.close()
    display.close()


@pytest.mark.parametrize("workers", [1, 2, 63])
@pytest.mark.parametrize("width", [20, 80, 200])
def test_the_live_view_shows_everything_without_a_thread(workers: int, width: int) -> None:
    before = threading.active_count()
    out = io.StringIO()
    display = LiveDisplay(Console(file=out, force_terminal=True, width=width, height=40))
    view = a_view(workers)
    display.begin(view)
    assert threading.active_count() == before
    drive(display, view)
    shown = out.getvalue()
    if width >= 80:
        for part in ("step 59/100", "eta", "train 3.0333", "1.7500 bits per byte", "best 1.7000", "tokens/s",
                     "61.0 % of FMA peak",
                     "saved checkpoints/step-00000010", "back from step 10",
                     "3/4 batches", "Once [bold]upon[/]", "2.9M parameters"):  # fmt: skip
            assert part in shown
        assert ("+" in shown) == (workers == 63 and width == 80)


def test_no_update_yet_shows_no_rate() -> None:
    out = io.StringIO()
    display = LiveDisplay(Console(file=out, force_terminal=True, width=80, height=24))
    display.begin(View(run="runs/x", max_steps=100))
    display.close()
    assert "gradient norm" not in out.getvalue()


def test_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    drive(PlainDisplay(), a_view())
    out, err = capsys.readouterr()
    assert out == ""
    assert "step  10/100  loss 3.5000  lr 1.00e-03  grad 0.70  12.3k tok/s  peak 61 %  busy 93 %  eta 1m30s" in err
    assert "val loss 3.0000  bits per byte 1.7500  best 1.7000" in err
    assert "step  10/100  loss inf  grad nan: rollback" in err
    assert "step   2/100  back from step 10; left out: 3 to 10" in err
    assert "\x1b" not in err


def test_json_lines_and_off(capsys: pytest.CaptureFixture[str]) -> None:
    drive(JsonDisplay(), a_view())
    out, err = capsys.readouterr()
    assert out == ""
    assert all(line.startswith("{") for line in err.splitlines())
    drive(OffDisplay(), a_view())
    assert capsys.readouterr() == ("", "")


class Broken(Display):
    def event(self, record: dict[str, Any], view: View) -> None:
        raise RuntimeError("no terminal")

    def close(self) -> None:
        raise RuntimeError("no terminal")


def test_a_broken_display_gives_way_to_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    drive(SafeDisplay(Broken()), a_view())
    err = capsys.readouterr().err
    assert err.count("the display failed (RuntimeError: no terminal)") == 1
    assert "val loss" in err


def test_a_progress_bar_that_breaks_does_not_stop_the_work() -> None:
    class BrokenBar(Display):
        def task(self, label: str) -> Any:
            def move(done: int, total: int) -> None:
                raise RuntimeError("no terminal")

            return move

    drive(SafeDisplay(BrokenBar()), a_view())


def test_history_and_curve() -> None:
    view = View()
    for step in range(5000):
        view.add_loss(float(step))
    assert len(view.history) <= 512
    assert view.history == sorted(view.history)
    assert view.loss == 4999.0
    assert sparkline([], 10) == ""
    assert sparkline([1.0], 10) == "▁"
    assert sparkline([1.0, 2.0, 3.0], 3)[-1] == "█"
    first = View()
    first.add_loss(7.0)
    assert first.smooth_loss == pytest.approx(7.0)


def test_busy_fraction_is_weighted_by_time() -> None:
    sums = Sums()
    sums.add(10, 1.0, [1.0, 0.5])
    sums.add(10, 3.0, [0.25, 0.25])
    assert sums.busy_frac == pytest.approx((0.75 + 0.75) / 4)
