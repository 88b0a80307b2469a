"""What is written to a pipe arrives whole, however little of it the system takes at once."""

from __future__ import annotations

import io
import json
import struct
from typing import BinaryIO, cast

import pytest

from symlm.chat import worker
from symlm.system.output import write_all
from symlm.text import table_reader


class Narrow(io.RawIOBase):
    """A standard output without a buffer, in a process that is stopped and continued: takes a few bytes at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, content: object) -> int:
        some = bytes(memoryview(content))[:1000]  # type: ignore[arg-type]
        self.taken += some
        return len(some)


def test_all_is_written() -> None:
    out = Narrow()
    write_all(cast(BinaryIO, out), b"text" * 5000)
    write_all(cast(BinaryIO, out), b"")
    assert out.taken == b"text" * 5000


def test_a_frame_of_a_table_arrives_whole() -> None:
    out = Narrow()
    table_reader.write(cast(BinaryIO, out), table_reader.ROWS, b"x" * 100_000, 0.5)
    assert out.taken == struct.pack("<cIH", b"R", 100_000, 500) + b"x" * 100_000


def test_an_answer_of_a_template_arrives_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jinja2")
    first = {"template": "{{ 'y' * 100000 }}", "variables": {}, "now": "2026-01-31T00:00:00", "seconds": 1e6}
    requests = [first, {"render": [[[], None, False]]}]
    out = Narrow()
    # The bounds are for a process that has nothing else to do.
    monkeypatch.setattr(worker, "_limit", lambda: None)
    monkeypatch.setattr(worker, "_limited", lambda seconds: io.BytesIO())
    monkeypatch.setattr(
        "sys.stdin", io.TextIOWrapper(io.BytesIO("".join(json.dumps(r) + "\n" for r in requests).encode()))
    )
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(cast(BinaryIO, out), write_through=True))
    worker.main()
    answers = [json.loads(line) for line in out.taken.splitlines()]
    assert answers == [{"generation": False}, [{"text": "y" * 100_000}]]
