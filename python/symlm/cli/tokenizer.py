"""`symlm tokenizer train|encode|decode`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import UsageError, UserError
from ..system.output import write_all
from ..units import whole_number
from .common import PATH, Command, Group, parse_threads, say, standard_input, threads_option

if TYPE_CHECKING:
    from .. import _symlm


@click.group("tokenizer", cls=Group, short_help="Train and use tokenizers.")
def command() -> None:
    """Train a byte-level BPE tokenizer, or use one."""


@command.command("train", cls=Command, short_help="Train a tokenizer from text.")
@click.argument("data", nargs=-1, type=PATH, metavar="PATH...")
@click.option("--vocab-size", required=True, metavar="N", help="Tokens: 256 bytes, <|endoftext|> and merges.")
@click.option(
    "-o", "--out", type=PATH, default="tokenizer.json", show_default=True, metavar="FILE", help="File to write."
)
@click.option("--text-field", default="text", show_default=True, help="Field of a JSON object that holds the text.")
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@threads_option
def train(data: tuple[str, ...], vocab_size: str, out: str, text_field: str, force: bool, threads: str) -> None:
    """Train a tokenizer from PATHs and write it as tokenizer.json."""
    from ..config.options import convert
    from ..config.train_config import SPECS
    from ..display import make_display
    from ..system.machine import resolve_threads
    from ..text.corpus import builtin_files, tell_halves, tell_of
    from ..text.opening import open_corpus

    size = convert("vocab_size", SPECS["vocab_size"], vocab_size)
    count, _ = resolve_threads(parse_threads(threads))
    target = Path(out)
    if target.exists() and not force:
        raise UserError(f"{target}: exists", "choose another --out, or use --force")
    if not target.absolute().parent.is_dir():
        raise UserError(f"{target.parent}: no such folder", "make it first, or choose another --out")
    corpus = open_corpus(list(data) or builtin_files(), text_field)
    display = make_display("auto")
    try:
        tell_of([corpus], display)
        tokenizer = corpus.train_tokenizer(size, count, display.task("tokenizer"))
        tell_halves(corpus.halves, display)
    finally:
        display.close()
    tokenizer.save(target)
    say(f"wrote {target} ({tokenizer.vocab_size:,} tokens)")


def _tokenizer_option(function: click.decorators.FC) -> click.decorators.FC:
    return click.option(
        "-t",
        "--tokenizer",
        "source",
        type=PATH,
        required=True,
        metavar="FILE|MODEL",
        help="A tokenizer.json, or a model and with it its tokenizer.",
    )(function)


@command.command("encode", cls=Command, short_help="Text to token ids.")
@click.argument("text", required=False)
@_tokenizer_option
def encode(text: str | None, source: str) -> None:
    """Write the token ids of TEXT, or of standard input, on one line."""
    tokenizer = _load(source)
    if text is None:
        try:
            text = standard_input().decode("utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(
                f"standard input is not UTF-8 text (byte {error.start})",
                "convert it first, as with: iconv -f LATIN1 -t UTF-8",
            ) from None
    click.echo(" ".join(map(str, tokenizer.encode(text))))


@command.command("decode", cls=Command, short_help="Token ids to text.")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@_tokenizer_option
def decode(ids: tuple[str, ...], source: str) -> None:
    """Write the text of the IDs, or of those on standard input."""
    tokenizer = _load(source)
    words = list(ids) or standard_input().decode("utf-8", errors="replace").split()
    numbers = []
    for word in words:
        number = whole_number(word)
        if number is None or number >= tokenizer.vocab_size:
            raise UsageError(
                f'expected token ids below {tokenizer.vocab_size}, found "{word[:40]}"',
                f"ids are whole numbers from 0 to {tokenizer.vocab_size - 1} with spaces between them",
            )
        numbers.append(number)
    write_all(sys.stdout.buffer, tokenizer.decode_bytes(numbers))


def _load(source: str) -> _symlm.Tokenizer:
    from ..model.resolve import resolve_model
    from ..model.tokenizer import load_tokenizer

    path = Path(source)
    if not path.is_dir():
        return load_tokenizer(path)
    files = resolve_model(path, "last")
    return files.load_tokenizer()
