"""What Linux, macOS and Windows call differently: opening, locking, reading at a place, signals, processors."""

from __future__ import annotations

import os
import signal
import sys

OPEN_FLAGS: int = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOINHERIT", 0) | getattr(os, "O_BINARY", 0)
"""For every `os.open`: a child does not inherit the file, and its bytes stay as they are."""

AT_ONCE: int = getattr(os, "O_NONBLOCK", 0)
"""For `os.open`: a pipe without a writer is opened at once. Windows has no pipes with a place in a folder."""

STOP_SIGNALS: tuple[int, ...] = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
)
"""Signals that ask a command to end."""

HANGUP: int | None = getattr(signal, "SIGHUP", None)
"""The terminal was closed."""


def lock_file(handle: int) -> None:
    """Become the only holder of an open file until it is closed; BlockingIOError when another process is, OSError when
    the file system has no locks."""
    if sys.platform == "win32":
        import errno
        import msvcrt

        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EDEADLK):
                raise BlockingIOError(*error.args) from None
            raise
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def read_at(handle: int, size: int, at: int) -> bytes:
    """Up to `size` bytes from a place of an open file; the next read begins where it would have."""
    if sys.platform == "win32":
        here = os.lseek(handle, 0, os.SEEK_CUR)
        try:
            os.lseek(handle, at, os.SEEK_SET)
            return os.read(handle, size)
        finally:
            os.lseek(handle, here, os.SEEK_SET)
    else:
        return os.pread(handle, size, at)


def allowed_cpus() -> tuple[int, ...] | None:
    """Numbers of the processors that this process may use; None where the system does not tell."""
    if sys.platform == "linux":
        return tuple(sorted(os.sched_getaffinity(0)))
    else:
        return None
