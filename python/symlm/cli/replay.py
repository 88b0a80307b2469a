"""`symlm replay`."""

from __future__ import annotations

import click

from .common import PATH, Command, data_option, parse_threads, progress_option, say, tell, threads_option

_MOST_LINES = 20


@click.command("replay", cls=Command, short_help="Compute an update of a run again.")
@click.argument("run", type=PATH, metavar="RUN")
@click.option(
    "--step", type=click.IntRange(min=1), required=True, metavar="N", help="The update after which N are done."
)
@click.option("--out", type=PATH, default=None, metavar="PATH", help="Write the state after it there, as a checkpoint.")
@data_option
@threads_option
@progress_option
def command(run: str, step: int, out: str | None, data: tuple[str, ...], threads: str, progress: str) -> None:
    """Compute update N of RUN again: from the bundle of that update, which a run leaves when its numbers are not
    finite, else from the newest checkpoint before it. Nothing is written to the run.

    Prints loss, gradient norm and learning rate, and whether they are what the run recorded. The exit code is 6 when
    they are not.
    """
    from typing import cast

    from ..check.replay import replay
    from ..config.train_config import Progress
    from ..errors import DifferenceError

    result = replay(run, step, out=out, data=data, threads=parse_threads(threads), progress=cast("Progress", progress))
    # What the run recorded nothing about is of interest only where the replay was to go.
    lines = [line for line in result.lines if line.compared is not None or line is result.lines[-1]]
    if len(lines) > _MOST_LINES:
        say(f"{len(lines) - _MOST_LINES:,} recorded steps before these")
    click.echo(f"{'step':>10}  {'loss':>20}  {'gradient norm':>20}  {'learning rate':>22}  recorded")
    for line in lines[-_MOST_LINES:]:
        update = line.update
        verdict = "-" if line.compared is None else "differs" if line.compared else "equal"
        click.echo(f"{update.step:>10,}  {update.loss!r:>20}  {update.grad_norm!r:>20}  {update.lr!r:>22}  {verdict}")
    if result.findings is not None:
        tell(result.findings.sentence())
    if out is not None:
        say(f"state after step {step if result.findings is None else step - 1:,}: {out}")
    if result.difference is not None:
        raise DifferenceError(
            f"{run}: {result.difference}", "the same version of symlm on the same text gives equal bits"
        )
