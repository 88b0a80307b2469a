"""`symlm eval`."""

from __future__ import annotations

import dataclasses

import click

from .common import Command, checkpoint_option, parse_threads, progress_option, threads_option


@click.command("eval", cls=Command, short_help="Loss, perplexity and bits per byte on a text.")
@click.argument("model", metavar="MODEL")
@click.argument("data", nargs=-1, required=True, metavar="PATH...")
@checkpoint_option
@threads_option
@click.option("--text-field", default="text", show_default=True, help="Field of a .jsonl line that holds the text.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
@progress_option
def command(
    model: str, data: tuple[str, ...], checkpoint: str, threads: str, text_field: str, as_json: bool, progress: str
) -> None:
    """Evaluate MODEL, a run folder or a checkpoint folder, on text it has not seen."""
    from typing import cast

    from ..config import Progress
    from ..evaluation import evaluate
    from ..metrics import to_line

    result = evaluate(
        model,
        list(data),
        checkpoint=checkpoint,
        threads=parse_threads(threads),
        text_field=text_field,
        progress=cast("Progress", progress),
    )
    if as_json:
        click.echo(to_line(dataclasses.asdict(result)))
        return
    click.echo(f"loss           {result.loss:.4f} nats per token")
    click.echo(f"perplexity     {result.perplexity:.3f}")
    click.echo(f"bits per byte  {result.bits_per_byte:.4f}")
    click.echo(f"tokens         {result.tokens:,} in {result.windows:,} windows, {result.text_bytes:,} bytes of text")
    click.echo(f"step           {result.step:,}")
