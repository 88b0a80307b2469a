"""`symlm plot`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from ..errors import UsageError, UserError
from ..metrics import read_lines
from ..run import METRICS
from .common import Command


@click.command("plot", cls=Command, short_help="Curves of runs as a picture.")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("-o", "--out", default="curves.png", show_default=True, metavar="FILE", help="PNG or SVG to write.")
@click.option(
    "--x",
    "axis",
    type=click.Choice(["step", "tokens", "elapsed_s"]),
    default="tokens",
    show_default=True,
    help="What runs to the right.",
)
def command(runs: tuple[str, ...], out: str, axis: str) -> None:
    """Draw training loss and bits per byte of RUNs into one picture. Needs matplotlib: pip install 'symlm[plot]'."""
    target = Path(out)
    if target.suffix.lower() not in (".png", ".svg"):
        raise UsageError(f"{out}: expected a name that ends in .png or .svg", "such as --out curves.png")
    records = {run: _records(run) for run in runs}
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("matplotlib is not installed", "pip install 'symlm[plot]'") from None
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for run, lines in records.items():
        name = Path(run).name or run
        _curve(left, lines, "train", axis, "loss", name)
        _curve(right, lines, "eval", axis, "val_bpb", name)
    for axes, label in ((left, "training loss, nats per token"), (right, "validation, bits per byte")):
        axes.set_xlabel({"elapsed_s": "seconds"}.get(axis, axis))
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(target)
    click.echo(str(target))


def _records(run: str) -> list[dict[str, Any]]:
    path = Path(run) / METRICS
    if not path.is_file():
        raise UserError(f"{path}: no metrics there", "give run folders")
    seconds = 0.0
    lines = []
    for record in read_lines(path):
        # Evaluations carry no time of their own: they take that of the training line before them.
        if _is_number(record.get("elapsed_s")):
            seconds = record["elapsed_s"]
        lines.append({**record, "elapsed_s": seconds})
    return lines


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _curve(axes: Any, lines: list[dict[str, Any]], event: str, axis: str, field: str, name: str) -> None:
    points = [
        (line[axis], line[field])
        for line in lines
        if line.get("event") == event and _is_number(line.get(field)) and _is_number(line.get(axis))
    ]
    if points:
        axes.plot(*zip(*points, strict=True), label=name, marker="." if len(points) < 60 else None)
