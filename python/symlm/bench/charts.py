"""The figures as pictures. Needs matplotlib: pip install 'symlm[plot]'."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..units import count_of
from .figures import Figures

SCALING, OPTIMISATIONS = "scaling.png", "optimisations.png"
MISSING = "matplotlib cannot be imported, so no charts are drawn: pip install 'symlm[plot]'"
DPI = 150
MANY_CORES = 8
LARGE_FACTOR = 8
BEHIND_TEXT = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
STRONG, LIGHT, IDEAL = "#1f5f8b", "#9cc3de", "#888888"


def available() -> bool:
    """Whether matplotlib can be imported."""
    return find_spec("matplotlib") is not None


def draw(figures: Figures, title: str, cores: int, folder: Path) -> list[Path]:
    """Draw the measurements into `folder`; returns the files. ImportError without a working matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    written = []
    for name, painter in ((SCALING, _scaling), (OPTIMISATIONS, _optimisations)):
        figure = painter(figures, title, cores)
        if figure is not None:
            figure.savefig(folder / name, dpi=DPI)
            written.append(folder / name)
    return written


def _scaling(figures: Figures, title: str, cores: int) -> Any:
    """Speed-up over threads; None without two points."""
    from matplotlib.figure import Figure

    points = [(case.threads, ratio.factor) for case, ratio in figures.scaling() if ratio.factor is not None]
    if len(points) < 2:
        return None
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    threads = [count for count, _ in points]
    most = max(threads)
    ideal = sorted({*(count for count in threads if count <= cores), 1, min(cores, most)})
    axes.plot(ideal, ideal, color=IDEAL, linestyle="--", label=f"ideal, up to the {count_of(cores, 'processor')}")
    if most > cores:
        axes.plot([ideal[-1], most], [ideal[-1]] * 2, color=IDEAL, linestyle=":")
    axes.plot(threads, [factor for _, factor in points], color=STRONG, marker="o", label="symlm")
    for count, factor in points:
        axes.annotate(
            f"{factor:.2f}",
            (count, factor),
            xytext=(0, -15),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            bbox=BEHIND_TEXT,
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(threads, [str(count) for count in threads])
    axes.minorticks_off()
    highest = max(ideal[-1], *(factor for _, factor in points))
    if cores > MANY_CORES:
        axes.set_yscale("log", base=2)
        axes.set_ylim(min(factor for _, factor in points) * 0.7, highest * 1.3)
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.set_ylim(0, highest * 1.15)
    axes.set_xlabel("worker threads")
    axes.set_ylabel("speed-up over one thread")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return figure


def _optimisations(figures: Figures, title: str, cores: int) -> Any:
    """A bar for each optimisation and state of the others; None if there is none."""
    from matplotlib.figure import Figure

    found: dict[str, dict[str, float]] = {}
    for name, rest, ratio in figures.comparisons():
        if ratio.factor is not None:
            found.setdefault(name, {})[rest] = ratio.factor
    if not found:
        return None
    figure = Figure(figsize=(8, 1.4 + 0.62 * len(found)), layout="constrained")
    axes = figure.subplots()
    styles = {"on": (-0.19, STRONG, "added to all others"), "off": (0.19, LIGHT, "alone, all others off")}
    labelled: set[str] = set()
    for row, factors in enumerate(found.values()):
        for rest, factor in factors.items():
            offset, colour, label = styles.get(rest, (0.0, STRONG, ""))
            new = bool(label) and label not in labelled
            labelled.add(label)
            axes.barh(row + offset, factor, height=0.36, color=colour, label=label if new else None)
            axes.annotate(
                f"{factor:.2f} x", (factor, row + offset), xytext=(4, 0), textcoords="offset points", va="center",
                fontsize=9, bbox=BEHIND_TEXT,
            )  # fmt: skip
    axes.axvline(1.0, color=IDEAL, linewidth=1)
    axes.set_yticks(range(len(found)), list(found))
    axes.invert_yaxis()
    every = [factor for factors in found.values() for factor in factors.values()]
    if max(every) > LARGE_FACTOR:
        axes.set_xscale("log", base=2)
        axes.set_xlim(min(0.5, *every), max(every) * 2)
        axes.xaxis.set_major_formatter("{x:g}")
    else:
        axes.set_xlim(0, max(every) * 1.12)
    axes.set_xlabel("times as many tokens per second as without it")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3, axis="x")
    axes.set_axisbelow(True)
    if labelled - {""}:
        axes.legend(loc="best", fontsize=9)
    return figure
