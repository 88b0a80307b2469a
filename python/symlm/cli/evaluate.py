"""`symlm eval`."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from ..config.train_config import SPECS
from ..errors import UsageError
from ..ranks.launch import idle_rank
from .common import PATH, Command, checkpoint_option, parse_threads, progress_option, threads_option

if TYPE_CHECKING:
    from ..config.train_config import DataFormat
    from ..evaluation.choices import ChoicesEvaluation
    from ..evaluation.rolling import DocumentLoss, RollingEvaluation
    from ..evaluation.windows import Evaluation


@click.command("eval", cls=Command, short_help="Loss, perplexity and bits per byte on a text; multiple choice.")
@click.argument("model", type=PATH, metavar="MODEL")
@click.argument("data", nargs=-1, type=PATH, metavar="[PATH]...")
@checkpoint_option
@threads_option
@click.option("--text-field", default="text", show_default=True, help="Field of a JSON object that holds the text.")
@click.option(
    "--data-format",
    type=click.Choice(SPECS["data_format"].choices),
    default="auto",
    show_default=True,
    help="What a JSON object holds: a text, or a prompt and a completion, of which the completion counts.",
)
@click.option("--per-document", is_flag=True, help="Each document alone, from its beginning: every token counts once.")
@click.option(
    "--stride",
    type=click.IntRange(min=1),
    default=None,
    metavar="N",
    help="Overlapping windows, N tokens apart: more context, every token counts once.",
)
@click.option("--against", default="", metavar="gzip,bzip2,xz", help="Compress the same text and compare.")
@click.option(
    "--choices",
    type=PATH,
    default=None,
    metavar="FILE",
    help='Ask multiple-choice questions instead: JSON of {"prompt": "..", "choices": ["..", ".."], "answer": 0}.',
)
@click.option("--out", type=PATH, default=None, metavar="FILE", help="A line of JSON for each document or question.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
@progress_option
def command(
    model: str,
    data: tuple[str, ...],
    checkpoint: str,
    threads: str,
    text_field: str,
    data_format: str,
    per_document: bool,
    stride: int | None,
    against: str,
    choices: str | None,
    out: str | None,
    as_json: bool,
    progress: str,
) -> None:
    """Evaluate MODEL, a run folder or a checkpoint folder, on text it has not seen, or ask it questions.

    PATH is text as symlm train takes it. Without --per-document or --stride the loss is that of the evaluations
    during training: whole windows side by side over all documents; what does not fill the last window is left out.
    Of JSON with a prompt and a completion in each object it is that of the completions.
    """
    if idle_rank():
        # The figures are those of one process: the first one has them.
        return
    common: dict[str, Any] = {"checkpoint": checkpoint, "threads": parse_threads(threads), "progress": progress}
    if choices is not None:
        _refuse({"PATH": data, "--per-document": per_document, "--stride": stride, "--against": against}, "--choices")
        from ..evaluation.choices import evaluate_choices

        with _lines(out, [choices]) as write:
            asked = evaluate_choices(model, choices, each=write, **common)
        _print(asked, as_json, _print_choices)
        return
    if not data:
        raise UsageError("found no PATH, expected a text to evaluate on", "name one, or questions with --choices")
    if out is not None and not per_document:
        raise UsageError("--out takes the results of documents or questions", "add --per-document or --choices")
    from ..evaluation.compress import parse_compressors

    common.update(text_field=text_field, against=parse_compressors(against))
    if per_document or stride is not None:
        if data_format not in ("auto", "text"):
            raise UsageError(
                f"--per-document and --stride take texts, found --data-format {data_format}", "leave one of the two out"
            )
        from ..evaluation.rolling import evaluate_rolling

        with _lines(out, data) as write:
            each = write if out is not None else None if as_json else _print_document
            rolled = evaluate_rolling(model, data, per_document=per_document, stride=stride, each=each, **common)
        if per_document and each is _print_document:
            click.echo()
        _print(rolled, as_json, _print_text)
        return
    from ..evaluation.windows import evaluate

    _print(evaluate(model, data, **common, data_format=cast("DataFormat", data_format)), as_json, _print_text)


def _refuse(others: dict[str, object], flag: str) -> None:
    for name, value in others.items():
        if value:
            raise UsageError(f"{name} does not go with {flag}", "leave one of the two out")


@contextlib.contextmanager
def _lines(out: str | None, inputs: Any) -> Iterator[Callable[[Any], None] | None]:
    """Writes dataclasses as lines of the file `out`, when there is one: it has its name when all is there."""
    if out is None:
        yield None
        return
    from ..run.metrics import LineLog
    from ..system.target import check_target

    check_target("--out", out, [Path(path) for path in inputs])
    temporary = Path(out).with_name(f".tmp-{Path(out).name}")
    temporary.unlink(missing_ok=True)
    log = LineLog(temporary)
    try:
        yield lambda record: log.write(dataclasses.asdict(record))
        temporary.replace(out)
    finally:
        log.close()
        temporary.unlink(missing_ok=True)


def _print(result: Any, as_json: bool, draw: Callable[[Any], None]) -> None:
    if not as_json:
        draw(result)
        return
    from ..run.metrics import to_line

    record = dataclasses.asdict(result)
    if "compressed" in record:
        sizes = record.pop("compressed")
        bits = {name: 8 * size / result.text_bytes for name, size in sizes.items()}
        record["against"] = {name: {"bytes": sizes[name], "bits_per_byte": bits[name]} for name in sizes}
    click.echo(to_line(record))


def _print_text(result: Evaluation | RollingEvaluation) -> None:
    from ..evaluation.rolling import RollingEvaluation
    from ..units import count_of, format_count

    windows = count_of(result.windows, "window")
    click.echo(f"loss           {result.loss:.4f} nats per token")
    click.echo(f"perplexity     {result.perplexity:.3f}")
    click.echo(f"bits per byte  {result.bits_per_byte:.4f}")
    click.echo(f"tokens         {result.tokens:,} in {windows}, {result.text_bytes:,} bytes of text")
    if isinstance(result, RollingEvaluation):
        seen = f"at most {result.context:,} tokens seen, windows {result.stride:,} apart"
        click.echo(f"documents      {result.documents:,}, {seen}")
    elif result.step is not None:
        click.echo(f"step           {result.step:,}")
    if result.compressed:
        rows = [("this model", result.bits_per_byte * result.text_bytes / 8)]
        rows += [(f"{name} -9", size) for name, size in result.compressed.items()]
        click.echo(f"\n{'':13}  bits per byte  {'bytes':>15}  of the text")
        for name, size in rows:
            part = size / result.text_bytes
            click.echo(f"{name:13}  {8 * part:>13.4f}  {round(size):>15,}  {100 * part:>9.2f} %")
        click.echo(f"The model itself, {format_count(result.model_bytes)} bytes of weights, is not counted.")


def _print_document(document: DocumentLoss) -> None:
    if document.document == 0:
        click.echo(f"{'document':>8}  {'tokens':>9}  {'bytes':>10}  {'loss':>8}  {'bits/byte':>9}  text")
    click.echo(
        f"{document.document:>8}  {document.tokens:>9,}  {document.text_bytes:>10,}  {document.loss:>8.4f}  "
        f"{document.bits_per_byte:>9.4f}  {document.text}"
    )


def _print_choices(result: ChoicesEvaluation) -> None:
    from ..evaluation.choices import SCORES

    remarks = {
        "acc": "by the log-likelihood", "acc_norm": "by that per character", "acc_bytes": "by that per byte",
        "acc_tokens": "by that per token",
    }  # fmt: skip
    for name in SCORES:
        error = getattr(result, f"{name}_stderr")
        margin = "" if error is None else f" +- {error:.4f}"
        click.echo(f"{name:12} {getattr(result, name):.4f}{margin:10}  {remarks[name]}")
    click.echo(f"chance       {result.chance:.4f}")
    click.echo(f"items        {result.items:,}")
    if result.cut_prompts:
        click.echo(f"cut prompts  {result.cut_prompts:,}")
