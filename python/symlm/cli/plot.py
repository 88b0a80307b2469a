"""`symlm plot`."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import UsageError
from .common import PATH, Command, say, tell_path


@click.command("plot", cls=Command, short_help="Curves of runs as a picture, or for TensorBoard.")
@click.argument("runs", nargs=-1, required=True, type=PATH, metavar="RUN...")
@click.option(
    "-o", "--out", type=PATH, default="curves.png", show_default=True, metavar="FILE", help="PNG or SVG to write."
)
@click.option(
    "--x",
    "axis",
    type=click.Choice(["step", "tokens", "elapsed_s"]),
    default="tokens",
    show_default=True,
    help="What runs to the right.",
)
@click.option("--log-y", is_flag=True, help="Logarithmic losses and gradient norms.")
@click.option(
    "--tensorboard",
    type=PATH,
    default=None,
    metavar="DIR",
    help="Write event files for TensorBoard instead, into DIR/RUN.",
)
def command(runs: tuple[str, ...], out: str, axis: str, log_y: bool, tensorboard: str | None) -> None:
    """Draw RUNs, finished or not, into one picture: losses of training and validation, bits per byte, learning rate,
    gradient norm and speed. Needs matplotlib: pip install 'symlm[plot]'."""
    from ..display.curves import draw_runs, run_names

    if tensorboard is not None:
        from ..display.tensorboard import export_events
        from ..system.target import check_new_folder

        check_new_folder("--tensorboard", tensorboard)
        for run, name in zip(runs, run_names(runs), strict=True):
            inside = name if name == Path(name).name else name.strip("./").replace("/", "-")
            tell_path(export_events(run, Path(tensorboard) / inside))
        return
    target = Path(out)
    if target.suffix.lower() not in (".png", ".svg"):
        raise UsageError(f"{out}: expected a name that ends in .png or .svg", "such as --out curves.png")
    from ..system.target import check_target

    check_target("--out", out)
    for run in draw_runs(runs, target, axis, log_y):
        say(f"note: {run}: nothing to draw yet")
    tell_path(target)
