"""Ctrl-C while another process takes the rows out of a table."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from test_chat_interrupts import TAKES_TERMINAL

READER = """
import sys, time
from pathlib import Path
from symlm.text import table_reader as reader
plain = reader.lines
def lines(batch, names):
    for number, line in enumerate(plain(batch, names)):
        if number == 40:
            Path(sys.argv[0] + ".reached").touch()
        time.sleep(0.02)
        yield line
reader.lines, reader.FRAME_BYTES = lines, 1
reader.main()
"""
"""Gives each row by itself, and slowly."""

COMMAND = """
import sys
from symlm.text import opening
opening.table_command = lambda: [sys.executable, {reader!r}]
from symlm.cli import main
raise SystemExit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("words", [("train", "--preset", "tiny", "--out-dir", "run"), ("data", "show")])
def test_ctrl_c_ends_the_command_and_the_reader(words: tuple[str, ...], tmp_path: Path) -> None:
    reader = tmp_path / "reader.py"
    reader.write_text(READER)
    records = [{"text": f"text {number}"} for number in range(20_000)]
    pq.write_table(pa.table({"meta": records}), tmp_path / "a.parquet")
    ours, theirs = os.openpty()
    command = [sys.executable, "-c", COMMAND.format(reader=str(reader)), *words, str(tmp_path / "a.parquet")]
    command += ["--text-field", "meta.text"]
    process = subprocess.Popen(
        [sys.executable, "-c", TAKES_TERMINAL, *command], stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True, cwd=tmp_path, env={**os.environ, "SYMLM_CACHE_DIR": str(tmp_path / "cache")},
    )  # fmt: skip
    os.close(theirs)
    said = ""
    asked = False
    try:
        while select.select([ours], [], [], 1)[0] or process.poll() is None:
            if not asked and (tmp_path / "reader.py.reached").exists():
                os.write(ours, b"\x03")
                asked = True
            if select.select([ours], [], [], 0)[0]:
                try:
                    said += os.read(ours, 4096).decode("utf-8", "replace")
                except OSError:
                    break
        assert asked, said
        assert process.wait() == 130, said
        assert "Traceback" not in said
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    # The reader is gone with it: nobody is left who would write on.
    ends = time.monotonic() + 60
    while any(str(reader) in words for words in running()) and time.monotonic() < ends:
        time.sleep(0.1)
    assert not any(str(reader) in words for words in running())


def running() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        # Not the command itself, which has the name in its script.
        found.append(words[1].decode("utf-8", "replace") if len(words) > 1 else "")
    return found
