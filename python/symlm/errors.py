"""Errors that a user can meet, each with the exit code that the command line gives for it.

Messages are lower case and say what was found and what was expected; the hint says what to do next.
"""

from __future__ import annotations

import re
import signal

_BYTES = re.compile("[\udc80-\udcff]+")


def printable(text: str) -> str:
    """The text on one line and without what controls a terminal: bytes of a name that are not UTF-8, line ends, escape
    sequences and the like stand as in a literal of Python, such as `\\xe9` and `\\n`."""
    if text.isprintable():
        return text
    whole = _BYTES.sub(lambda run: run[0].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"), text)
    return "".join(c if c.isprintable() else _escaped(c) for c in whole)


def _escaped(c: str) -> str:
    # A character above U+007F has four digits at least: two of them are a byte.
    return f"\\u{ord(c):04x}" if "\x7f" < c < "\u0100" else ascii(c)[1:-1]


class SymlmError(Exception):
    """Base of every error that symlm raises on purpose.

    `message` says what is wrong, `hint` what to do about it (or None), `exit_code` what the command line returns. Both
    are one line that any terminal takes: names of files that would not be stand in them escaped.
    """

    exit_code: int = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        message, hint = printable(message), None if hint is None else printable(hint)
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message} (hint: {self.hint})"

    def __reduce__(self) -> tuple[type[SymlmError], tuple[str, str | None]]:
        return type(self), (self.message, self.hint)


class UserError(SymlmError):
    """Something about the request cannot be done: an existing run, a missing model, a folder that is not writable."""

    exit_code = 1


class UsageError(SymlmError):
    """A flag, key or value that is not valid."""

    exit_code = 2


class DataError(SymlmError):
    """Text, tokens or a checkpoint that cannot be used."""

    exit_code = 3


class MemoryPlanError(SymlmError):
    """The work would need more memory or disk than there is."""

    exit_code = 4


class NanError(SymlmError):
    """The loss or the gradient became infinite or not a number; the last good checkpoint is kept."""

    exit_code = 5


class DifferenceError(SymlmError):
    """Updates that were computed again are not what the run recorded, or not what every machine computes."""

    exit_code = 6


class RankError(SymlmError):
    """Another rank of the run has failed or is silent, or what it sent is damaged; the last checkpoint is whole."""

    exit_code = 7


class InternalError(SymlmError):
    """A broken invariant of symlm itself: always a bug."""

    exit_code = 70


def reason(error: OSError) -> str:
    """The operating system's words for an error, in lower case like all messages."""
    return (error.strerror or str(error)).lower()


def as_error(error: BaseException) -> SymlmError | None:
    """An error in words that a user understands, whether symlm has raised it or the system; None for a bug."""
    if isinstance(error, SymlmError):
        return error
    if isinstance(error, MemoryError):
        return MemoryPlanError("out of memory", "choose a smaller --preset or --batch-size")
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return UserError(f"{where}{reason(error)}")
    return None


def exit_code_of(error: BaseException) -> int:
    """What a command returns that ends with this error."""
    if isinstance(error, Interrupted):
        return 128 + error.signum
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    if isinstance(error, BrokenPipeError):
        # As in `symlm generate ... | head`.
        return 0
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    found = as_error(error)
    return InternalError.exit_code if found is None else found.exit_code


_MOST_SHOWN = 80


def shown(value: object) -> str:
    """A value as a message shows it: on a part of a line, whatever it is."""
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a number of {value.bit_length()} bits"
    try:
        text = repr(value[:_MOST_SHOWN] if isinstance(value, (str, list, tuple)) else value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} that is too large to show"
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 3]}..."


class Interrupted(KeyboardInterrupt):
    """The work was stopped by a signal; nothing is left half done.

    `signum` is the signal. A run that had begun was saved after the step under way: `run_path` is its folder
    (None when there is nothing to resume) and `step` the number of updates in the checkpoint (0 before the first).
    """

    def __init__(self, signum: int, run_path: str | None = None, step: int = 0) -> None:
        super().__init__(f"stopped by signal {signum} after step {step}")
        self.signum = signum
        self.run_path = run_path
        self.step = step

    def __reduce__(self) -> tuple[type[Interrupted], tuple[int, str | None, int]]:
        return type(self), (self.signum, self.run_path, self.step)
