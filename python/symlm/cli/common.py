"""What all commands share: `--debug`, names of commands that are nearly right, options for models."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from ..units import did_you_mean

F = TypeVar("F", bound=Callable[..., Any])
_debug = [False]


def debug_wanted() -> bool:
    """Whether `--debug` was given: then errors come with their traceback."""
    return _debug[0]


def say(text: str) -> None:
    """A line on standard error for people. When it cannot be written the command goes on: its result counts."""
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr is not None:
            print(text, file=sys.stderr, flush=True)


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


def checkpoint_option(function: F) -> F:
    """`--checkpoint` for commands with a MODEL argument."""
    return click.option(
        "--checkpoint", default="best", show_default=True, metavar="best|last|N", help="Which checkpoint of a run."
    )(function)


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
        "--data", multiple=True, metavar="PATH", help="The text of the run, where it has moved; may be repeated."
    )(function)


def parse_threads(text: str) -> Any:
    """The value of `--threads`, checked as in the training configuration."""
    from ..config.options import convert
    from ..config.train_config import SPECS

    return convert("threads", SPECS["threads"], text)
