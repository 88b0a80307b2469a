"""Bytes on their way to standard output."""

from __future__ import annotations

import select
from typing import BinaryIO


def write_all(out: BinaryIO, content: bytes) -> None:
    """Write all of it, now.

    With PYTHONUNBUFFERED the standard output has no buffer, and its `write` is that of the system: when the process is
    stopped and continued in the middle, it takes a part and says how much.
    """
    left = memoryview(content)
    while left:
        # None: a pipe that does not block, and is full.
        taken: int | None = out.write(left)
        if taken is None:
            select.select([], [out], [])
        left = left[taken or 0 :]
    out.flush()
