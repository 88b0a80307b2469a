"""Poor environments: every command works there or says what to set, and `symlm doctor` always works."""

from __future__ import annotations

import io
import json
import os
import pickle
import pwd
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import symlm
from conftest import HANG_S
from hostile import CALLS, arguments, commands, make_things
from symlm.cli import main
from symlm.errors import UsageError, UserError
from symlm.model.foreign import Unpacked
from symlm.serve import server
from symlm.system.files import temporary_file
from symlm.system.names import path_of
from test_hostile_inputs import documented_codes

COMMANDS = dict(commands())
ROWS = {name: arguments(COMMANDS[words], words, values) for name, (words, values) in CALLS.items() if name != "bench"}

DRIVER = """
import json, os, shutil, sys
rows, results = json.loads(sys.argv[1]), {}
streams = sys.stdin, sys.stdout, sys.stderr
output = None if sys.stdout is None else os.dup(1)
report = os.open(sys.argv[2], os.O_WRONLY)
report = os.dup2(report, 9)
import symlm
from symlm.cli import main
from symlm.errors import UsageError, UserError
from symlm.model.foreign import Unpacked
from symlm.serve import server
from symlm.system.names import path_of
# The peak of the machine is measured for a moment only.
measure = symlm._symlm.fma_peak
symlm._symlm.fma_peak = lambda threads, seconds, isa=None: measure(threads, 0.001, isa)
# It would wait for requests.
server.answer = lambda *_: 0
for name, words in rows.items():
    # As it was before the call before.
    sys.stdin, sys.stdout, sys.stderr = streams
    if output is not None:
        os.dup2(output, 1)
    results[name] = main(words)
    shutil.rmtree("new", ignore_errors=True)
    if os.path.exists("new"):
        os.unlink("new")
os.write(report, json.dumps(results).encode())
"""


def _close_streams() -> None:
    for number in range(3):
        os.close(number)


def _full() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def _broken_pipe() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)


def _few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12))


def _folder_gone() -> None:
    os.mkdir("gone")  # noqa: PTH102 - between fork and exec
    os.chdir("gone")
    os.rmdir("../gone")  # noqa: PTH106


@dataclass(frozen=True)
class Poor:
    """What differs from a usual environment, and how commands end there that cannot work."""

    variables: Mapping[str, str | None] = field(default_factory=dict)
    before: Callable[[], object] | None = None
    codes: frozenset[int] = frozenset({0})
    doctor: frozenset[int] = frozenset({0})


PLAIN = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
ENVIRONMENTS: dict[str, Poor] = {
    "no temporary folder": Poor({"TMPDIR": "/nowhere"}),
    "no cache": Poor({"SYMLM_CACHE_DIR": "/proc/nowhere"}, codes=frozenset({0, 1})),
    "cache of another user": Poor({"SYMLM_CACHE_DIR": "~no-such-user/cache"}, codes=frozenset({0, 2})),
    "relative cache": Poor({"SYMLM_CACHE_DIR": "cache"}),
    "streams closed": Poor(before=_close_streams),
    "full output": Poor(before=_full, codes=frozenset({0, 1}), doctor=frozenset({1})),
    "reader has left": Poor(before=_broken_pipe),
    "locale without UTF-8": Poor(PLAIN | {"PYTHONIOENCODING": "ascii"}),
    "no such locale": Poor({"LC_ALL": "xx_XX.none", "PYTHONIOENCODING": "latin-1"}),
    "no path": Poor({"PATH": None, "COLUMNS": "0", "TERM": "dumb"}),
    "odd terminal": Poor({"COLUMNS": "wide", "LINES": "-1", "TERM": "no-such-terminal", "NO_COLOR": "1"}),
    "folder gone": Poor(before=_folder_gone, codes=frozenset({0, 1, 3})),
    "umask": Poor(before=lambda: os.umask(0o777), codes=frozenset({0, 1, 3})),
    "few files": Poor(before=_few_files, codes=frozenset({0, 1, 3})),
    "no such instruction set": Poor({"SYMLM_ISA": "abacus"}, codes=frozenset({0, 2})),
    "instruction set of bytes": Poor({"SYMLM_ISA": os.fsdecode(b"\xff")}, codes=frozenset({0, 2})),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text and a run."""
    folder = tmp_path_factory.mktemp("environments")
    make_things(folder)
    words, values = CALLS["train"]
    train = arguments(COMMANDS[words], words, values | {"out_dir": "run"})
    variables = usual(folder)
    subprocess.run([sys.executable, "-m", "symlm", *train], cwd=folder, env=variables, check=True, timeout=HANG_S)
    return folder


def usual(folder: Path) -> dict[str, str]:
    """Variables of a usual environment."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SYMLM_")}
    return {**kept, "SYMLM_CACHE_DIR": str(folder / "cache"), "PYTHONSAFEPATH": "1"}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_commands_work_or_say_what_to_set(place: Path, name: str) -> None:
    poor = ENVIRONMENTS[name]
    variables = {key: value for key, value in {**usual(place), **poor.variables}.items() if value is not None}
    report, errors = place / "report.json", place / "errors.txt"
    report.write_bytes(b"")
    command = [sys.executable, "-c", DRIVER, json.dumps(ROWS), str(report)]
    with errors.open("wb") as error, (place / "output").open("wb") as output:
        subprocess.run(
            command, cwd=place, env=variables, stdin=subprocess.DEVNULL, stdout=output, stderr=error,
            preexec_fn=poor.before, timeout=HANG_S, check=False,
        )  # fmt: skip
    said = errors.read_text(errors="replace")
    assert report.read_bytes(), said
    codes = json.loads(report.read_bytes())
    assert codes.keys() == ROWS.keys()
    assert "Traceback" not in said and "panicked" not in said
    assert set(codes.values()) <= documented_codes()
    assert codes["doctor"] in poor.doctor, said
    wrong = {row: code for row, code in codes.items() if row != "doctor" and code not in poor.codes}
    assert not wrong, said


def test_an_unknown_user_without_a_home(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What needs the cache says which variable to set; the rest works."""

    def unknown(user: int) -> object:
        raise KeyError(f"getpwuid(): uid not found: {user}")

    for variable in ("HOME", "SYMLM_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(server, "answer", lambda *_: 0)
    monkeypatch.chdir(place)
    codes = {}
    for name, words in ROWS.items():
        codes[name] = main(words)
        for made in (Path("new"), Path("new.svg")):
            shutil.rmtree(made) if made.is_dir() else made.unlink(missing_ok=True)
        if name == "doctor":
            assert "unknown: no folder for the token cache: HOME is not set" in capsys.readouterr().out
        elif codes[name]:
            assert "hint: set SYMLM_CACHE_DIR to a folder that may be written to" in capsys.readouterr().err
    cached = {"train", "finetune", "eval", "replay", "verify"}
    assert codes == {name: 1 if name in cached else codes[name] for name in ROWS}
    assert codes["doctor"] == codes["generate"] == 0


def test_a_home_in_a_variable_is_expanded(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from symlm.text.corpus import cache_dir

    monkeypatch.setenv("HOME", str(place))
    monkeypatch.setenv("SYMLM_CACHE_DIR", "~/my cache")
    assert cache_dir() == place / "my cache"


def test_a_missing_temporary_folder_is_named(place: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "symlm", "eval", "run", "-"],
        input="text", cwd=place, env=os.environ | {"TMPDIR": "/nowhere"},
        capture_output=True, check=False, text=True, timeout=HANG_S,
    )  # fmt: skip
    assert result.returncode == 1
    assert "cannot copy standard input to a temporary file in /nowhere: " in result.stderr
    assert "hint: TMPDIR says where temporary files go" in result.stderr


def test_a_missing_temporary_folder_is_missing_for_all(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python itself would take another one."""
    monkeypatch.setenv("TMPDIR", "/nowhere")
    with pytest.raises(UserError, match="temporary folder in /nowhere"):
        Unpacked()
    tokenizer = symlm.Tokenizer.from_file(place / "run" / "tokenizer.json")
    with pytest.raises(UserError, match="temporary folder in /nowhere"):
        pickle.dumps(tokenizer)
    out = str(place / "figures")
    assert main(["bench", "--quick", "--preset", "tiny", "--no-scaling", "--no-switches", "--out-dir", out]) == 1
    said = capsys.readouterr().err
    assert "cannot make a temporary folder in /nowhere: no such file or directory" in said
    assert "hint: TMPDIR says where temporary files go" in said
    with pytest.raises(UserError, match="temporary file in /nowhere"):
        temporary_file()
    assert main(["doctor"]) == 0
    assert "temporary files" in (said := capsys.readouterr().out) and "unknown: /nowhere cannot be written to" in said
    monkeypatch.setenv("TMPDIR", "")
    assert Unpacked().folder.parent == Path("/tmp")


def test_a_home_folder_that_is_not_there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One rule for every path: no folder is made by the name of a home that does not exist."""
    from symlm.export.write import export

    monkeypatch.chdir(place)
    name = "~no-such-user/x"
    for call in (
        lambda: symlm.TrainConfig(out_dir=name),
        lambda: symlm.TrainConfig(data=[name]),  # type: ignore[arg-type]
        lambda: symlm.Generator.from_pretrained(name),
        lambda: symlm.Tokenizer.from_file(name),
        lambda: symlm.TensorBoard(name),
        lambda: symlm.evaluate("run", name),
        lambda: symlm.evaluate_choices("run", name),
        lambda: export("run", "hf", name),
    ):
        with pytest.raises(UsageError, match='no user is called "no-such-user"; a name that begins with ~ is written'):
            call()
    assert main(["train", "text.txt", "--out-dir", name]) == 2
    monkeypatch.setenv("SYMLM_OUT_DIR", name)
    assert main(["train", "text.txt"]) == 2
    assert not Path("~no-such-user").exists()
    # What is there is what is meant, and so is what cannot be the name of a user.
    Path("~old.txt").write_text("text")
    assert path_of("~old.txt") == "./~old.txt"
    assert path_of("./~new") == "./~new" and path_of("~$new.doc") == "~$new.doc" and path_of("~*.txt") == "~*.txt"
    assert path_of(Path("~root")) == "./~root"
    Path("~old.txt").unlink()
