"""Ctrl-C and SIGTERM while another process is waited for that gives nothing; and how its limit of time is told."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import HANG_S
from symlm.errors import DataError
from symlm.text import opening

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

COMMAND = """
import sys
from symlm.chat.renderer import Renderer
from symlm.text import opening
opening.table_command = lambda: [sys.executable, {reader!r}]
Renderer.__init__.__defaults__ = (1e6,)
from symlm.cli import main
raise SystemExit(main(sys.argv[1:]))
"""

SILENT = """
import sys, time
from pathlib import Path
from symlm.text import table_reader
starts = Path(sys.argv[0] + ".starts")
with starts.open("a") as file:
    file.write("x")
if starts.stat().st_size >= {nth}:
    Path(sys.argv[0] + ".silent").touch()
    time.sleep({hang})
table_reader.main()
"""
"""Reads as it should, but the nth time that it is started it gives no frame at all."""

LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"

TRAIN = ("train", "--preset", "tiny", "--max-steps", "1", "--out-dir", "run", "--text-field", "text")
SHOW = ("data", "show", "--text-field", "text")


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND.format(reader=str(folder / "reader.py")), *words],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder,
        start_new_session=True, env={**os.environ, "SYMLM_CACHE_DIR": str(folder / "cache")},
    )  # fmt: skip


def ended_by(process: subprocess.Popen[str], signum: int, reached: Path) -> tuple[int, str]:
    """Send a signal once the reader is silent; the exit code and what was said."""
    ends = time.monotonic() + HANG_S
    while not reached.exists() and process.poll() is None and time.monotonic() < ends:
        time.sleep(0.02)
    silent = reached.exists()
    process.send_signal(signum)
    try:
        said, _ = process.communicate(timeout=HANG_S)
    finally:
        process.kill()
        process.wait()
    assert silent, said
    return process.returncode, said


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("words", [TRAIN, SHOW])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_reader_that_gives_nothing_is_not_waited_for(
    nth: int, words: tuple[str, ...], signum: signal.Signals, tmp_path: Path
) -> None:
    """While the text is opened, inspected and read."""
    (tmp_path / "reader.py").write_text(SILENT.format(hang=HANG_S, nth=nth))
    pq.write_table(pa.table({"text": [f"text {number} of many" for number in range(2000)]}), tmp_path / "a.parquet")
    process = start(tmp_path, *words, "a.parquet")
    code, said = ended_by(process, signum, tmp_path / "reader.py.silent")
    assert code == 128 + signum, said
    assert "Traceback" not in said
    assert "panic" not in said


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_conversations_that_do_not_come(nth: int, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    (tmp_path / "reader.py").write_text(SILENT.format(hang=HANG_S, nth=nth))
    turns = [[{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}] for n in range(200)]
    pq.write_table(pa.table({"messages": turns}), tmp_path / "a.parquet")
    process = start(tmp_path, *TRAIN, "a.parquet")
    code, said = ended_by(process, signal.SIGTERM, tmp_path / "reader.py.silent")
    assert code == 143, said
    assert "Traceback" not in said


def test_a_table_of_a_folder_that_does_not_come(tmp_path: Path) -> None:
    """Where an error would only mean that the file is not a text."""
    (tmp_path / "reader.py").write_text(SILENT.format(hang=HANG_S, nth=1))
    (tmp_path / "texts").mkdir()
    pq.write_table(pa.table({"text": ["a text"] * 50}), tmp_path / "texts" / "a.parquet")
    process = start(tmp_path, *SHOW, "texts")
    code, said = ended_by(process, signal.SIGINT, tmp_path / "reader.py.silent")
    assert code == 130, said
    assert "Traceback" not in said


def rendering(pid: int) -> bool:
    """Whether a child of the process has computed for longer than it takes to start."""
    seconds = 0.0
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            seconds = max(seconds, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))
    return seconds > 2


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("words", [TRAIN, SHOW])
def test_a_template_that_gives_nothing(words: tuple[str, ...], signum: signal.Signals, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    (tmp_path / "loops.jinja").write_text(LOOPS)
    (tmp_path / "reader.py").write_text("")
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    (tmp_path / "a.jsonl").write_text((json.dumps({"messages": turns}) + "\n") * 50)
    process = start(tmp_path, *words, "a.jsonl", "--chat-template", "loops.jinja")
    ends = time.monotonic() + HANG_S
    while process.poll() is None and not rendering(process.pid) and time.monotonic() < ends:
        time.sleep(0.02)
    (tmp_path / "rendering").touch()
    assert process.poll() is not None or rendering(process.pid)
    code, said = ended_by(process, signum, tmp_path / "rendering")
    assert code == 128 + signum, said
    assert "Traceback" not in said


FOREVER = """
import sys
import pyarrow.compute, pyarrow.parquet
from symlm.text import table_reader
plain = table_reader.frames
def frames(path, names):
    for at, frame in enumerate(plain(path, names)):
        if at == {frames}:
            while True:
                pass
        yield (*frame[:2], 0.25)
table_reader.frames = frames
sys.argv[3] = "1"
table_reader.main()
"""
"""Works for ever before a frame, and says before that that a quarter of the file is read."""


@pytest.mark.parametrize(("frames", "part"), [(0, "0%"), (1, "25%")])
def test_rows_that_take_too_long_are_told_as_such(
    frames: int, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = tmp_path / "reader.py"
    reader.write_text(FOREVER.format(frames=frames))
    monkeypatch.setattr(opening, "table_command", lambda: [sys.executable, str(reader)])
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"text {n}" for n in range(2000)]}), path)
    with pytest.raises(DataError) as caught:
        opening.open_corpus([path]).read_through(None)
    message = str(caught.value)
    assert message.startswith(f"{path}: found rows at {part} of the file that take more than 60 seconds of processor")
    assert "row groups" in (caught.value.hint or "")


def test_the_command_says_it_too(tmp_path: Path) -> None:
    (tmp_path / "reader.py").write_text(FOREVER.format(frames=0))
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    process = start(tmp_path, *SHOW, "a.parquet")
    try:
        said, _ = process.communicate(timeout=HANG_S)
    finally:
        process.kill()
    assert process.returncode == 3, said
    assert "take more than 60 seconds" in said
    assert "hint: " in said
