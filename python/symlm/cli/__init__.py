"""The command line: one group, commands that are imported when they are called, one place for errors."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

import click

from ..errors import (
    DataError,
    InternalError,
    MemoryPlanError,
    NanError,
    SymlmError,
    UsageError,
    as_error,
    exit_code_of,
)  # fmt: skip
from ..system.signals import StopSignals
from .common import Group, debug_wanted, put, say

_BUG = "this is a bug; run again with --debug and report what it prints"


class ReaderLeft(Exception):
    """Nobody reads standard output any more."""


@contextlib.contextmanager
def _reader_may_leave() -> Iterator[None]:
    """Makes `ReaderLeft` of an error of a pipe, of which click would make an exit with the code 1."""
    try:
        yield
    except BrokenPipeError as error:
        raise ReaderLeft from error


class LazyGroup(Group):
    """A group whose commands live in separate modules, imported when one is asked for."""

    homes: dict[str, str] = {  # noqa: RUF012 - a table, never changed
        "train": "train",
        "finetune": "finetune",
        "generate": "generate",
        "chat": "chat",
        "serve": "serve",
        "eval": "evaluate",
        "export": "export",
        "tokenizer": "tokenizer",
        "data": "data",
        "replay": "replay",
        "verify": "verify",
        "plot": "plot",
        "bench": "bench",
        "doctor": "doctor",
    }

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        with _reader_may_leave():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _reader_may_leave():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.homes)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        from importlib import import_module

        if cmd_name not in self.homes:
            return None
        command = import_module(f".{self.homes[cmd_name]}", __name__).command
        assert isinstance(command, click.Command)
        return command


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from ..system.version import version

        click.echo(f"symlm {version()}")
        ctx.exit()


@click.group(cls=LazyGroup)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Show the version and exit."
)
def cli() -> None:
    """Train small language models on CPUs, with the same bits everywhere.

    \b
    symlm train my.txt            train on a text
    symlm generate runs/my-3m     write text with what came out
    """


def report(error: SymlmError, command: str = "symlm") -> int:
    """Print an error, always with a hint; returns its exit code. `command` is the one that failed."""
    say(f"error: {error.message}")
    say(f"hint: {error.hint or _general_hint(error, command)}")
    return error.exit_code


def _general_hint(error: SymlmError, command: str) -> str:
    """What helps with an error without a hint."""
    text = error.message.lower()
    if "file too large" in text:
        return "raise the limit on the size of files: ulimit -f"
    if "no space left" in text or "quota exceeded" in text:
        return f"free some space, or write to another disk{' with --out-dir' if command == 'symlm train' else ''}"
    if "SYMLM_ISA" in error.message:
        return "unset SYMLM_ISA; symlm doctor shows what this machine has"
    if "nothing that matches" in text:
        return "check the pattern and the folder that it starts from"
    if "no checkpoint" in text:
        return "train it first, or name another run"
    if isinstance(error, UsageError):
        return f"{command} --help lists the options"
    if isinstance(error, DataError):
        return "check the file, or name another"
    if isinstance(error, MemoryPlanError):
        return "choose a smaller --preset or --batch-size, or fewer --sectors-in-flight"
    if isinstance(error, NanError):
        return "try a lower --learning-rate"
    if isinstance(error, InternalError):
        return _BUG
    return f"check the names and paths given; {command} --help explains them"


def _command_of(words: Sequence[str]) -> str:
    """`symlm train` for the arguments of training, for hints."""
    names = ["symlm"]
    group: click.Command | None = cli
    for word in words:
        if not isinstance(group, click.Group) or word.startswith("-"):
            break
        group = group.get_command(click.Context(group), word)
        if group is None:
            break
        names.append(word)
    return " ".join(names)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    _make_streams_safe()
    signals = StopSignals()
    try:
        with signals, signals.raising():
            _check_launch(words)
            result = cli.main(args=words, prog_name="symlm", standalone_mode=False)
            if sys.stdout is not None:
                sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except BaseException as error:
        if signals.received is not None and isinstance(error, (KeyboardInterrupt, click.Abort, OSError)):
            say(f"stopped by {signals.name}")
            return 128 + signals.received
        if debug_wanted():
            import traceback

            traceback.print_exc()
        return _exit_code(error, _command_of(words))
    finally:
        # What a full disk or a reader that has left did not take must not change the exit code at the very end.
        _drop_unwritten(sys.stdout)
        _drop_unwritten(sys.stderr)


_OF_SEVERAL = ("train", "finetune", "eval", "doctor")
"""Commands that several processes may be started with."""


def _check_launch(words: Sequence[str]) -> None:
    from ..ranks.launch import begin_command, refuse_several

    begin_command()
    if words and words[0] in LazyGroup.homes and words[0] not in _OF_SEVERAL:
        refuse_several(f"symlm {words[0]}")


def _make_streams_safe() -> None:
    """Standard streams that take any text, and three of them.

    A stream that was closed (`>&-`) gives its number to the next file that is opened; what is then written to standard
    error by number would land in that file. And a terminal without UTF-8 must not end a command.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - lives as long as the process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError, ValueError):
                stream.reconfigure(errors="backslashreplace")


def _drop_unwritten(stream: TextIO | None) -> None:
    """Flush a stream; when that fails, what is left in it goes nowhere."""
    if stream is None:
        return
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)


def _exit_code(error: BaseException, command: str) -> int:
    if isinstance(error, SymlmError):
        return report(error, command)
    if type(error).__name__ == "NoArgsIsHelpError" and isinstance(error, click.UsageError):
        # A group without a command: its message is the whole help. (Before 8.2 click shows it by itself.)
        put(error.format_message())
        return UsageError.exit_code
    if isinstance(error, click.ClickException):
        return report(_from_click(error), command)
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, click.Abort):
        return 128 + signal.SIGINT
    if isinstance(error, ReaderLeft):
        # Nothing may be flushed to it any more.
        return 0
    if isinstance(error, (KeyboardInterrupt, BrokenPipeError, SystemExit)):
        return exit_code_of(error)
    return report(as_error(error) or InternalError(f"{type(error).__name__}: {error}", _BUG), command)


def _from_click(error: click.ClickException) -> SymlmError:
    """A usage error of click in the project's form."""
    if isinstance(error, click.NoSuchOption):
        near = _nearest_option(error)
        return UsageError(f"unknown flag {error.option_name}", near)
    # Lists of choices have line ends and tabs.
    message = " ".join(error.format_message().split())
    hint = None
    if isinstance(error, click.BadOptionUsage):
        hint = f"give a value after {error.option_name}, as in {error.option_name} VALUE"
    elif isinstance(error, click.UsageError) and error.ctx is not None:
        hint = f"see {error.ctx.command_path} --help"
    return UsageError(_lower_first(message.rstrip(".")), getattr(error, "hint", None) or hint)


def _nearest_option(error: click.NoSuchOption) -> str | None:
    from ..units import did_you_mean

    known: list[str] = []
    if error.ctx is not None:
        for parameter in error.ctx.command.get_params(error.ctx):
            known += [*parameter.opts, *parameter.secondary_opts] if isinstance(parameter, click.Option) else []
        # Options are compared without their dashes, so that the length of the prefix does not make them near.
        near = did_you_mean(error.option_name.lstrip("-"), [name.lstrip("-") for name in known])
        if near is not None:
            return f"did you mean --{near}?"
        return f"see {error.ctx.command_path} --help"
    return None


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
