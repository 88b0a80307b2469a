"""Pictures of runs: losses, learning rate, gradient norm and speed. Needs matplotlib: pip install 'symlm[plot]'."""

from __future__ import annotations

import math
import warnings
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError, printable
from ..run.history import is_number, read_history

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

AXES = {"step": "updates", "tokens": "tokens", "elapsed_s": "time"}
"""What may run to the right, and its name."""

PANELS = {
    "loss": "loss, nats per token",
    "val_bpb": "validation, bits per byte",
    "lr": "learning rate",
    "grad_norm": "gradient norm before clipping",
    "tok_s": "tokens per second",
}
_LAYOUT: list[Any] = [["loss", "loss", "val_bpb"], ["lr", "grad_norm", "tok_s"]]
_LOGARITHMIC = ("loss", "val_bpb", "grad_norm")
_NOISY = ("loss", "grad_norm", "tok_s")
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Those of Okabe and Ito, which people of any colour vision can tell apart."""

_STYLES = ("-", "--", "-.", ":")
_MOST_POINTS = 2000
_SMOOTHED = 100
"""Curves of more points than this get a running mean."""

_MEAN_OVER = 50
_DPI = 150
_VALIDATION = (0, (4, 1.5))
_FINAL: dict[str, Any] = {"linestyle": "none", "marker": "D", "markerfacecolor": "white"}
_TIMES = ((300, 1, "seconds"), (3 * 3600, 60, "minutes"), (3 * 86400, 3600, "hours"), (math.inf, 86400, "days"))

_TRAIN = ("loss", "lr", "grad_norm", "tok_s")
_EVAL = ("val_loss", "val_bpb")


@dataclass
class Curves:
    """The columns of a run. `bad` are the places of updates whose numbers were not finite, on each of `AXES`."""

    train: dict[str, array[float]] = field(default_factory=lambda: _columns(_TRAIN))
    evaluations: dict[str, array[float]] = field(default_factory=lambda: _columns(_EVAL))
    final: dict[str, array[float]] = field(default_factory=lambda: _columns(_EVAL))
    bad: dict[str, array[float]] = field(default_factory=lambda: _columns(()))

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw yet."""
        return not (self.train["step"] or self.evaluations["step"] or self.final["step"])


def _columns(names: Sequence[str]) -> dict[str, array[float]]:
    return {name: array("d") for name in (*AXES, *names)}


def read_curves(run: str | Path) -> Curves:
    """The columns of a run folder, eight bytes a number: runs of millions of lines fit easily."""
    curves = Curves()
    for record in read_history(run):
        event = record.get("event")
        if event == "train":
            _append(curves.train, record)
            if not math.isfinite(curves.train["loss"][-1]):
                _append(curves.bad, record)
        elif event == "eval":
            _append(curves.final if record.get("final") is True else curves.evaluations, record)
        elif event == "nan":
            _append(curves.bad, record)
    return curves


def _append(columns: dict[str, array[float]], record: dict[str, Any]) -> None:
    for name, column in columns.items():
        value = record.get(name)
        column.append(float(value) if is_number(value) else math.nan)


def thin(x: Sequence[float], y: Sequence[float], most: int = _MOST_POINTS) -> npt.NDArray[np.float64]:
    """At most `most` points of a curve: rows x, mean, least and largest y of ranges of equally many points.

    Values that are not finite are left out; a range with nothing else is not a number.
    """
    import numpy as np

    places, values = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(values) == 0:
        return np.zeros((4, 0))
    edges = np.unique(np.linspace(0, len(values), min(most, len(values)) + 1).astype(int)[:-1])
    finite = np.isfinite(values) & np.isfinite(places)
    count = np.add.reduceat(finite.astype(np.float64), edges)
    known = np.where(count > 0, count, np.nan)
    return np.stack([
        np.add.reduceat(np.where(finite, places, 0), edges) / known,
        np.add.reduceat(np.where(finite, values, 0), edges) / known,
        np.where(count > 0, np.minimum.reduceat(np.where(finite, values, np.inf), edges), np.nan),
        np.where(count > 0, np.maximum.reduceat(np.where(finite, values, -np.inf), edges), np.nan),
    ])  # fmt: skip


def running_mean(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The mean of the finite values around each value, over a fiftieth of the curve.

    At the beginning, where curves are steep, of fewer values on both sides; at the end of fewer on one side.
    """
    import numpy as np

    half = max(len(values) // _MEAN_OVER // 2, 1)
    finite = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    places = np.arange(len(values))
    reach = np.minimum(half, places)
    low, high = places - reach, np.minimum(places + reach + 1, len(values))
    count = counts[high] - counts[low]
    return np.where(count > 0, (sums[high] - sums[low]) / np.maximum(count, 1), np.nan)


def run_names(runs: Sequence[str]) -> list[str]:
    """What to call runs in a picture: the folder's name, or the whole path where that is not enough."""
    names = [Path(run).name or Path(run).resolve().name for run in runs]
    return [run if names.count(name) > 1 else name for run, name in zip(runs, names, strict=True)]


def draw_runs(runs: Sequence[str], target: Path, axis: str = "tokens", log_y: bool = False) -> list[str]:
    """Draw runs into a PNG or SVG; gives the runs that have nothing to draw yet.

    UserError when that is all of them, or without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("matplotlib is not installed", "pip install 'symlm[plot]'") from None
    curves = {run: read_curves(run) for run in runs}
    empty = [run for run, found in curves.items() if found.empty]
    if len(empty) == len(curves):
        raise UserError(f"{', '.join(empty)}: no metrics to draw yet", "wait for the first line of metrics")
    figure = Figure(figsize=(13, 7.2), layout="constrained")
    panels = figure.subplot_mosaic(_LAYOUT)
    scale, unit = _unit(axis, curves.values())
    lines = []
    for number, (run, name) in enumerate(zip(runs, run_names(runs), strict=True)):
        colour = _COLOURS[number % len(_COLOURS)]
        style = _STYLES[number // len(_COLOURS) % len(_STYLES)]
        lines += [(name, _draw_run(panels, curves[run], axis, scale, colour, style))]
    for name, axes in panels.items():
        _finish(axes, name, unit, axis, log_y)
    _legend(panels, curves.values())
    # An underscore at its beginning would hide a name, a dollar sign begin a formula.
    labels = [
        f" {printable(name)}".replace("$", r"\$") + ("" if run not in empty else " (nothing yet)")
        for run, (name, _) in zip(runs, lines, strict=True)
    ]
    handles = [line for _, line in lines]
    figure.legend(handles, labels, loc="outside upper left", ncols=min(len(labels), 4), frameon=False)
    with warnings.catch_warnings():
        # A character that the font does not have is drawn as a box.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(target, dpi=_DPI)
    return empty


def _unit(axis: str, curves: Any) -> tuple[float, str]:
    """By what to divide what runs to the right, and its name."""
    if axis != "elapsed_s":
        return 1, AXES[axis]
    longest = max((seconds for c in curves for part in (c.train, c.evaluations) for seconds in part[axis]), default=0)
    return next((scale, f"time, {unit}") for limit, scale, unit in _TIMES if longest < limit)


def _draw_run(panels: Any, curves: Curves, axis: str, scale: float, colour: str, style: Any) -> Any:
    """The curves of one run; gives a line that stands for it in the legend."""
    from matplotlib.lines import Line2D

    for name in _TRAIN:
        x, mean, low, high = thin(curves.train[axis], curves.train[name])
        x, axes = x / scale, panels[name]
        many = name in _NOISY and len(x) > _SMOOTHED
        if len(curves.train[axis]) > _MOST_POINTS and name in _NOISY:
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        elif many:
            axes.plot(x, mean, color=colour, alpha=0.3, linewidth=0.7)
        axes.plot(x, running_mean(mean) if many else mean, color=colour, linestyle=style, linewidth=1.5)
    for name, place in (("val_loss", "loss"), ("val_bpb", "val_bpb")):
        x, mean, _, _ = thin(curves.evaluations[axis], curves.evaluations[name])
        panels[place].plot(
            x / scale, mean, color=colour, linestyle=_VALIDATION if place == "loss" else style, linewidth=1.2,
            marker="o", markersize=3 if len(x) <= _SMOOTHED else 0,
        )  # fmt: skip
        # Over more windows than those before, so no point of their curve.
        x, mean, _, _ = thin(curves.final[axis], curves.final[name])
        panels[place].plot(x / scale, mean, color=colour, markersize=6, **_FINAL)
    axes = panels["loss"]
    bad = [place / scale for place in curves.bad[axis]][-_MOST_POINTS:]
    if bad:
        axes.plot(bad, [0.03] * len(bad), "x", color=colour, transform=axes.get_xaxis_transform())
    return Line2D([], [], color=colour, linestyle=style, linewidth=3)


def _finish(axes: Any, name: str, unit: str, axis: str, log_y: bool) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

    axes.set_title(PANELS[name], fontsize=10, loc="left")
    axes.set_xlabel(unit, fontsize=9)
    axes.tick_params(labelsize=9)
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if axis != "elapsed_s":
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_formatter(EngFormatter(sep="") if name == "tok_s" else "{x:g}")
    if not any(math.isfinite(value) for line in axes.lines for value in line.get_ydata() if line.get_marker() != "x"):
        axes.text(0.5, 0.5, "nothing to draw", transform=axes.transAxes, ha="center", color="#777777")
        axes.set_xticks([])
        axes.set_yticks([])
    elif log_y and name in _LOGARITHMIC:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        decades = math.log10(high / low)
        subs = (1.0,) if decades > 3 else (1.0, 2.0, 5.0)
        axes.yaxis.set_major_locator(LogLocator(subs=subs) if decades > 1 else MaxNLocator(8, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter("{x:g}")
    elif name in ("tok_s", "lr"):
        axes.set_ylim(0, 1.05 * axes.get_ylim()[1])


def _legend(panels: Any, curves: Any) -> None:
    """What the kinds of lines in the panels of losses mean, in grey: the colours are those of the runs."""
    from matplotlib.lines import Line2D

    def sample(label: str, **look: Any) -> Line2D:
        return Line2D([], [], color="#555555", label=label, **look)

    known = list(curves)
    final = [sample("final, more windows", **_FINAL)] if any(c.final["step"] for c in known) else []
    handles = [sample("training", linewidth=1.5)]
    if any(c.evaluations["step"] for c in known):
        handles.append(sample("validation", linestyle=_VALIDATION, marker="o", markersize=3))
    handles += final
    if any(c.bad["step"] for c in known):
        handles.append(sample("not finite", linestyle="none", marker="x"))
    panels["loss"].legend(handles=handles, loc="upper right", fontsize=9, frameon=False)
    if final:
        panels["val_bpb"].legend(handles=final, loc="upper right", fontsize=9, frameon=False)
