"""`symlm chat`."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..config.sampling import SAMPLING_SPECS, Sampling
from ..errors import SymlmError, UserError, printable, reason
from ..system.interrupts import Interrupts
from .common import PATH, Command, checkpoint_flag, say
from .generate import new_seed, sampling_flag

if TYPE_CHECKING:
    from rich.console import Console

    from ..generate.chat import Chat

HELP = (
    "/reset forgets the conversation, /save FILE writes it as a line of JSON, /exit leaves; Ctrl-C stops an answer, "
    "Ctrl-D leaves"
)


def _run(model: str, checkpoint: str, chat_template: str | None, system: str | None, **values: Any) -> None:
    given = {name: value for name, value in values.items() if value is not None}
    sampling = Sampling(**{"seed": new_seed(), **given})
    from rich.console import Console

    from ..generate.chat import Chat

    with Chat.from_pretrained(model, checkpoint, template=chat_template, system=system) as chat:
        if chat.generator.note:
            say(f"note: {chat.generator.note}")
        say(f"seed: {sampling.seed}")
        if sys.stdin is not None and sys.stdin.isatty():
            say(HELP)
        with Interrupts() as interrupts:
            talk(chat, sampling, Console(highlight=False, soft_wrap=True), interrupts)


def talk(chat: Chat, sampling: Sampling, console: Console, interrupts: Interrupts) -> None:
    """Answer the lines of standard input until they end."""
    turn = 0
    terminal = sys.stdin is not None and sys.stdin.isatty()
    if terminal:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - gives `input` editing and the lines before
    while True:
        line = None
        try:
            interrupts.ready()
            line = _next_line(terminal)
            if line is None or line.split()[:1] in (["/exit"], ["/quit"]):
                break
            if line.startswith("/"):
                _command(chat, line)
            elif line.strip():
                turn += 1
                _answer(chat, line, {**vars(sampling), "sample_index": turn - 1}, console)
        except KeyboardInterrupt:
            if line is None and not terminal:
                raise
            console.print()
            say("Ctrl-D or /exit leaves" if line is None else "stopped")
    if line is None and terminal:
        console.print()


def _next_line(terminal: bool) -> str | None:
    """What the user writes next, None at the end: from a terminal with editing and history, else as it comes."""
    if sys.stdin is None:
        return None
    if not terminal:
        line = sys.stdin.readline()
        return line.rstrip("\n") if line else None
    try:
        return input("> ")
    except EOFError:
        return None


def _answer(chat: Chat, line: str, options: dict[str, Any], console: Console) -> None:
    """Write an answer as it is drawn; what is wrong with one message ends nothing."""
    try:
        with contextlib.closing(chat.stream(line, **options)) as pieces:
            if chat.left_out:
                say(f"note: the context is full, the first {chat.left_out} messages are left out")
            _write(pieces, console)
    except SymlmError as error:
        say(f"error: {error.message}" + (f" (hint: {error.hint})" if error.hint else ""))
    else:
        console.print()


def _write(pieces: Iterable[str], console: Console) -> None:
    for piece in pieces:
        # What a model writes must not control the terminal.
        shown = "".join(c if c in "\n\t" or c.isprintable() else printable(c) for c in piece)
        console.print(shown, end="", markup=False, style="cyan")
        console.file.flush()


def _command(chat: Chat, line: str) -> None:
    word, _, rest = line.partition(" ")
    if word == "/reset":
        chat.reset()
        say("the conversation is forgotten")
    elif word == "/save" and rest.strip():
        try:
            _save(chat, Path(rest.strip()).expanduser())
        except UserError as error:
            say(f"error: {error.message}")
    else:
        say(HELP)


def _save(chat: Chat, path: Path) -> None:
    """Add the conversation to a file as a line of JSON, which training reads. UserError when that cannot be."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"messages": chat.messages}, ensure_ascii=False) + "\n")
    except (OSError, ValueError) as error:
        what = reason(error) if isinstance(error, OSError) else str(error)
        raise UserError(f"{path}: cannot write: {what}") from None
    say(f"added to {path}")


command = Command(
    "chat",
    callback=_run,
    params=[
        click.Argument(["model"], type=PATH, metavar="MODEL"),
        checkpoint_flag(),
        click.Option(
            ["--chat-template"], type=PATH, metavar="FILE|chatml|NAME", help="Chat template.  [the model's own]"
        ),
        click.Option(["--system"], metavar="TEXT", help="What the system says before the conversation."),
        *(sampling_flag(name) for name, spec in SAMPLING_SPECS.items() if not spec.hidden),
    ],
    help=f"""Talk with MODEL, a model that was trained on conversations.

    {HELP}. When the context is full the oldest turns are left out.""",
    short_help="Talk with a model.",
)
