"""What all commands share: `--debug`, names of commands that are nearly right, options for models."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import printable
from ..system.names import path_of, text_of
from ..units import did_you_mean

F = TypeVar("F", bound=Callable[..., Any])
_debug = [False]


def debug_wanted() -> bool:
    """Whether `--debug` was given: then errors come with their traceback."""
    return _debug[0]


def put(text: str) -> None:
    """Text on standard error as it is. When it cannot be written the command continues: its result counts."""
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr is not None:
            print(text, file=sys.stderr, flush=True)


def say(text: str) -> None:
    """A readable line on standard error, whatever names of files it holds."""
    put(printable(text))


def tell(text: str) -> None:
    """A readable line of the result, whatever names of files it holds."""
    click.echo(printable(text))


def tell_path(path: Path) -> None:
    """A path as the result: its bytes, which a script reads; on a terminal as `tell`."""
    if sys.stdout is not None and sys.stdout.isatty():
        tell(str(path))
    else:
        click.echo(os.fsencode(path))


def standard_input() -> bytes:
    """Everything on standard input; nothing where there is none, as after `<&-`."""
    return b"" if sys.stdin is None else sys.stdin.buffer.read()


if TYPE_CHECKING:
    _TextType = click.ParamType[str]
else:  # It takes no argument before click 8.2.
    _TextType = click.ParamType


class PathName(_TextType):
    """A path on the command line, of any bytes. Every argument without this type is text and has to be UTF-8."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return path_of(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


PATH = PathName()


def _set_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        _debug[0] = True


def _debug_option() -> click.Option:
    return click.Option(
        ["--debug"], is_flag=True, expose_value=False, is_eager=True, callback=_set_debug,
        help="Show the traceback of an error.",
    )  # fmt: skip


class Command(click.Command):
    """A command that knows `--debug`."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.params.append(_debug_option())

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        for parameter in self.params:
            if parameter.name in ctx.params and not isinstance(parameter.type, PathName):
                ctx.params[parameter.name] = _text(ctx.params[parameter.name], parameter, ctx)
        return rest


def _text(value: Any, parameter: click.Parameter, ctx: click.Context) -> Any:
    """A value in which every string is UTF-8 text; a usage error for another one."""
    if isinstance(value, tuple):
        return tuple(_text(item, parameter, ctx) for item in value)
    if not isinstance(value, str):
        return value
    try:
        return text_of(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, parameter) from None


class Group(click.Group):
    """A group that suggests the command nearest to an unknown one."""

    command_class = Command

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        keywords.setdefault("context_settings", {"help_option_names": ["-h", "--help"], "max_content_width": 110})
        super().__init__(*arguments, **keywords)
        self.params.append(_debug_option())

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            names = self.list_commands(ctx)
            near = did_you_mean(args[0], names)
            error = click.UsageError(f"unknown command {args[0]}", ctx)
            error.hint = f"did you mean {near}?" if near else f"commands: {', '.join(names)}"  # type: ignore[attr-defined]
            raise error
        return super().resolve_command(ctx, args)


_CHECKPOINT: dict[str, Any] = {
    "default": "best", "show_default": True, "metavar": "best|last|N", "help": "Which checkpoint of a run.",
}  # fmt: skip


def checkpoint_option(function: F) -> F:
    """`--checkpoint` for commands with a MODEL argument."""
    return click.option("--checkpoint", **_CHECKPOINT)(function)


def checkpoint_flag() -> click.Option:
    """The same for a command with a list of parameters."""
    return click.Option(["--checkpoint"], **_CHECKPOINT)


def weights_flag() -> click.Option:
    """`--weights` for commands that write text."""
    return click.Option(
        ["--weights"],
        type=click.Choice(["f32", "q8"]),
        default="f32",
        show_default=True,
        help="Hold the weights in 8 bits: a quarter of the memory, and faster.",
    )


def threads_option(function: F) -> F:
    """`--threads` for commands that compute."""
    return click.option("--threads", default="auto", show_default=True, metavar="auto|N", help="Worker threads.")(
        function
    )


def progress_option(function: F) -> F:
    """`--progress` for commands that take a while."""
    from ..config.train_config import SPECS

    return click.option(
        "--progress", type=click.Choice(SPECS["progress"].choices), default="auto", show_default=True,
        help="Display on standard error.",
    )(function)  # fmt: skip


def data_option(function: F) -> F:
    """`--data` for commands that need the text of a run again."""
    return click.option(
        "--data",
        multiple=True,
        type=PATH,
        metavar="PATH",
        help="The text of the run, where it has moved; may be repeated.",
    )(function)


def parse_threads(text: str) -> Any:
    """The value of `--threads`, checked as in the training configuration."""
    from ..config.options import convert
    from ..config.train_config import SPECS

    return convert("threads", SPECS["threads"], text)
