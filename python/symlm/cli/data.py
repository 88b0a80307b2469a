"""`symlm data show`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from ..config.train_config import SPECS
from ..errors import UsageError
from .common import PATH, Command, Group, parse_threads, progress_option, tell, tell_path, threads_option
from .flags import setting_option

if TYPE_CHECKING:
    from .. import _symlm
    from ..config.train_config import Progress
    from ..text.conversations import ChatSettings
    from ..text.corpus import Prepared, Sources
    from ..text.survey import Part, Survey, Words

MOST_SHOWN = 10**9
"""Documents, and tokens of each, that may be asked for."""

_SETTINGS = (
    "val_data", "val_split", "text_field", "data_format", "chat_template", "train_on", "add_tokens", "preset",
    "vocab_size", "seq_len",
)  # fmt: skip


@click.group("data", cls=Group, short_help="Look at a text as training sees it.")
def command() -> None:
    """Look at a text as training sees it."""


def _show(
    data: tuple[str, ...], tokenizer: str | None, documents: int, tokens: int, plot: str | None, as_json: bool,
    threads: str, progress: str, **settings: Any,
) -> None:  # fmt: skip
    from ..display import make_display
    from ..system.machine import resolve_threads
    from ..system.target import check_target
    from ..text.survey import survey

    if plot is not None:
        if Path(plot).suffix.lower() not in (".png", ".svg"):
            raise UsageError(f"{plot}: expected a name that ends in .png or .svg", "such as --plot lengths.png")
        check_target("--plot", plot)
    values = {name: value for name, value in settings.items() if value not in (None, ())}
    sources = _sources({**values, "data": data}, tokenizer)
    count, _ = resolve_threads(parse_threads(threads))
    display = make_display(cast("Progress", progress))
    sources.measure = True
    try:
        prepared = sources.prepare(count, display)
        corpora = [sources.train] if sources.val is None else [sources.train, sources.val]
        for corpus in corpora:
            # Conversations were read to write them out.
            if not corpus.is_chat:
                corpus.read_through(display.task("reading"))
    finally:
        display.close()
    empty = sum(corpus.empty for corpus in corpora)
    halves = prepared.halves + sum(corpus.halves for corpus in corpora)
    seq_len = sources.config.model.seq_len
    found = survey(
        prepared.train, prepared.val, prepared.tokenizer, prepared.data_format, seq_len, empty, halves, prepared.lengths
    )
    if as_json:
        from ..run.metrics import to_line

        click.echo(to_line(_record(found)))
    else:
        _print(found, prepared.tokenizer, sources.chat)
        _print_first(prepared, documents, tokens)
    if plot is not None:
        from ..display.lengths import draw_lengths

        parts = {"training": found.train.lengths}
        if found.val is not None:
            parts["held out"] = found.val.lengths
        draw_lengths(parts, seq_len + 1, _what(found), Path(plot))
        if not as_json:
            tell_path(Path(plot))


def _sources(values: dict[str, Any], tokenizer: str | None) -> Sources:
    """The texts, and the tokenizer of a file or a model. With a model windows and the chat template are those of
    `symlm finetune`."""
    from ..config.finetune import USUAL_WINDOW
    from ..config.sources import gather
    from ..model.resolve import resolve_model
    from ..text.conversations import ChatSettings, template_of
    from ..text.corpus import Sources

    if tokenizer is None or not Path(tokenizer).is_dir():
        return Sources(gather(values, {}).config(), tokenizer)
    files = resolve_model(Path(tokenizer), "last")
    values.setdefault("seq_len", min(files.model_config().seq_len, USUAL_WINDOW))
    config = gather(values, {}).config()
    sources = Sources(config, None)
    sources.tokenizer, sources.of_model = files.load_tokenizer(), files.model_config()
    if sources.train.is_chat:
        template = template_of(config.chat_template, files)
        sources.chat = ChatSettings(template, config.train_on, config.add_tokens)
    return sources


def _what(found: Survey) -> str:
    return {"text": "documents", "completion": "examples"}.get(found.data_format, "conversations")


def _record(found: Survey) -> dict[str, Any]:
    """The numbers of a survey, with the lengths in short."""
    record = dataclasses.asdict(found)
    for name in ("train", "val"):
        if record[name] is not None:
            record[name]["lengths"] = _quantiles(record[name]["lengths"])
    return record


def _quantiles(lengths: Sequence[int]) -> dict[str, int]:
    """Shortest, median, 90th and 99th of a hundred, longest."""
    ordered = sorted(lengths) or [0]
    last = len(ordered) - 1
    return {"min": ordered[0], "p50": ordered[last // 2], "p90": ordered[last * 9 // 10],
            "p99": ordered[last * 99 // 100], "max": ordered[-1]}  # fmt: skip


def _print(found: Survey, tokenizer: _symlm.Tokenizer, chat: ChatSettings | None) -> None:
    what = _what(found)
    how = "" if chat is None else f", chat template {chat.template.origin}, learnt: {chat.train_on}"
    tell(f"{'data format':24}{found.data_format}{how}")
    click.echo(f"\n{'':24}{'training':>16}{'held out':>16}")
    val = found.val
    rows: list[tuple[str, Any]] = [
        (what, lambda part: f"{part.documents:,}"),
        ("tokens", lambda part: f"{part.tokens:,}"),
        ("tokens that are learnt", lambda part: f"{part.targets:,}"),
        ("bytes that are learnt", lambda part: f"{part.text_bytes:,}"),
        ("tokens a byte", lambda part: f"{part.targets / max(part.text_bytes, 1):.3f}"),
        ("exact duplicates", lambda part: f"{part.duplicates:,}"),
        (f"cut {what}", lambda part: f"{part.cut:,}"),
    ]
    rows += [(f"length, {name}", _length(name)) for name in ("min", "p50", "p90", "p99", "max")]
    for name, value in rows:
        click.echo(f"{name:24}{value(found.train):>16}{'-' if val is None else value(val):>16}")
    click.echo(f"\nwindow                  {found.seq_len + 1:,} tokens, vocabulary {tokenizer.vocab_size:,}")
    click.echo(f"left out                {found.empty:,} without text")
    if found.halves:
        click.echo(f"read as U+FFFD          {found.halves:,} halves of surrogate pairs")
    if val is not None:
        from ..text.survey import RUN

        whole = f"{found.compared_tokens:,} held-out tokens"
        if found.compared_tokens < val.tokens:
            whole += f" (of {val.tokens:,}, evenly spread, without what fills windows)"
        share = f"{100 * found.shared_tokens:.2f} % of {whole} in runs of {RUN} or more"
        click.echo(f"held out and training   {found.shared_documents:,} {what} stand in both, {share}")


def _length(name: str) -> Any:
    def value(part: Part) -> str:
        return f"{_quantiles(part.lengths)[name]:,}"

    return value


def _print_first(prepared: Prepared, documents: int, tokens: int) -> None:
    """The first documents, examples or conversations: what is learnt in colours, what is only read dim; without colours
    what is learnt stands in marks."""
    from rich.console import Console
    from rich.text import Text

    from ..text.survey import first_pieces

    console = Console(highlight=False, soft_wrap=True)
    plain = not console.is_terminal or console.no_color
    shards, tokenizer = prepared.train, prepared.tokenizer
    for number, words in enumerate(first_pieces(shards, tokenizer, documents, tokens, prepared.lengths[0]), 1):
        click.echo(f"\n--- {number}")
        parts = _readable(words, tokenizer)
        if plain:
            tell_lines("".join(_marked(parts, shards.window is not None)))
            continue
        line = Text()
        for at, (text, learnt) in enumerate(parts):
            line.append(text, style=("green", "bold green")[at % 2] if learnt else "dim")
        console.print(line)


def tell_lines(text: str) -> None:
    """Text of several lines, whatever characters it holds."""
    for line in text.split("\n"):
        tell(line)


def _marked(parts: list[tuple[str, bool]], masked: bool) -> list[str]:
    out, inside = [], False
    for text, learnt in parts:
        if masked and learnt != inside:
            out.append("«" if learnt else "»")
        out.append(text)
        inside = learnt
    return [*out, "»"] if masked and inside else out


def _readable(words: Words, tokenizer: _symlm.Tokenizer) -> list[tuple[str, bool]]:
    """Tokens as text, each with whether it is learnt; those that are parts of one character stand together."""
    from ..errors import printable
    from ..text.survey import CONTEXT

    parts: list[tuple[str, bool]] = []
    raw = b""
    for word in words.tolist():
        learnt, token = word & CONTEXT == 0, word & ~CONTEXT
        if token == tokenizer.eot_id:
            raw += b"<|endoftext|>"
        else:
            raw += tokenizer.decode_bytes([token])
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            # A token may hold whole characters before the part of one, which the next token completes.
            whole = error.start if error.reason == "unexpected end of data" else len(raw)
            text, raw = raw[:whole].decode("utf-8", "replace"), raw[whole:]
        else:
            raw = b""
        if text:
            parts.append(("\n".join(printable(line) for line in text.split("\n")), learnt))
    # A character that the end of a piece cuts off is left out.
    return parts


_show_command = Command(
    "show",
    callback=_show,
    params=[
        click.Argument(["data"], nargs=-1, required=True, type=PATH, metavar="PATH..."),
        click.Option(
            ["-t", "--tokenizer"], type=PATH, metavar="FILE|MODEL",
            help="A tokenizer.json, or a model and with it its tokenizer; none: one is trained, as symlm train does.",
        ),
        *(setting_option(name, SPECS[name]) for name in _SETTINGS),
        click.Option(
            ["--show", "documents"], type=click.IntRange(0, MOST_SHOWN), default=3, show_default=True, metavar="N",
            help="Documents, examples or conversations to print.",
        ),
        click.Option(
            ["--show-tokens", "tokens"], type=click.IntRange(1, MOST_SHOWN), default=200, show_default=True,
            metavar="N", help="Tokens of each that are printed.",
        ),
        click.Option(
            ["--plot"], type=PATH, default=None, metavar="FILE",
            help="Draw the lengths into a PNG or SVG. Needs matplotlib: pip install 'symlm[plot]'.",
        ),
        click.Option(["--json", "as_json"], is_flag=True, help="Print the numbers as one line of JSON."),
    ],
    help="""Print what training would see of PATH: documents, examples or conversations, tokens and which of them are
    learnt, lengths, what is cut or left out, duplicates, and held-out text that also stands in the training text.

    PATH is text as symlm train takes it.""",
    short_help="Print what training would see of a text.",
)  # fmt: skip
for _add in (threads_option, progress_option):
    _add(_show_command)
command.add_command(_show_command)
