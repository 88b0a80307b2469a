"""`symlm verify`."""

from __future__ import annotations

import click

from .common import PATH, Command, data_option, parse_threads, progress_option, tell, threads_option


@click.command("verify", cls=Command, short_help="Compute updates of a run again and compare.")
@click.argument("run", type=PATH, metavar="RUN")
@click.option(
    "--steps", type=click.IntRange(min=1), default=50, show_default=True, metavar="N", help="Updates to compute again."
)
@click.option(
    "--from",
    "start",
    default="auto",
    show_default=True,
    metavar="auto|start|STEP",
    help="Where to begin: the newest checkpoint with N recorded steps after it, the initial weights, or a checkpoint.",
)
@data_option
@threads_option
@progress_option
def command(run: str, steps: int, start: str, data: tuple[str, ...], threads: str, progress: str) -> None:
    """Compute N updates of RUN again, on any number of threads, and compare them bit for bit with what it recorded:
    losses, gradient norms, learning rates, hashes of the weights, and the checkpoints on the way.

    The exit code is 6 at the first difference. Nothing is written to the run.
    """
    from typing import cast

    from ..check.verify import verify
    from ..config.train_config import Progress
    from ..errors import DifferenceError
    from ..units import count_of

    result = verify(
        run,
        steps=steps,
        start=start,
        data=data,
        threads=parse_threads(threads),
        progress=cast("Progress", progress),
    )
    tell(f"from {result.begin} (step {result.begin.step:,}), {count_of(result.threads, 'thread')}, {result.isa}")
    click.echo(f"{'':28}compared  equal")
    for what, compared in result.compared.items():
        click.echo(f"{what:28}{compared:>8,}{result.equal[what]:>7,}")
    if result.difference is not None:
        raise DifferenceError(
            f"{run}: {result.difference}", "the same version of symlm on the same text gives equal bits"
        )
    click.echo(f"verified: {count_of(result.steps, 'step')}, equal")
