"""Whatever is given to any parameter of any command, and whatever a file or a variable holds: a documented exit code,
an error of two lines, no traceback, nothing left behind.

`python tests/cli/test_hostile_inputs.py` prints the number of cells of the table.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from console import ROOT
from hostile import (
    CALLS,
    CONTENTS,
    MORE_CALLS,
    NAMES,
    NOT_REACHED,
    NUMBERS,
    SMALL,
    TEXTS,
    arguments,
    commands,
    make_things,
    values_for,
)  # fmt: skip
from symlm import _symlm
from symlm.cli import main
from symlm.cli.common import PathName
from symlm.config.options import PATH_KINDS
from symlm.config.train_config import SPECS
from symlm.serve import server
from symlm.system import mpi

COMMANDS = dict(commands())
GUIDE = ROOT / "docs" / "guide.md"
MOST_LINES = 4
"""Of standard error beside the error and its hint: notes and warnings."""

MODEL_FILES = (
    "config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json",
    "generation_config.json", "special_tokens_map.json", "chat_template.jinja",
)  # fmt: skip
RUN_FILES = (
    "config.toml", "environment.json", "metrics.jsonl", "samples.jsonl", "last", "tokenizer.json",
    "checkpoints/step-00000001/MANIFEST.json", "checkpoints/step-00000001/trainer_state.json",
    "checkpoints/step-00000001/config.json", "checkpoints/step-00000001/optimizer.safetensors",
    "checkpoints/step-00000001/model.safetensors",
)  # fmt: skip
GIVEN = ("run", "model")
"""Folders that the calls are given."""
ROLES = ("model", "run", "runs", "init_from", "resume", "source")
"""Parameters that name a model or a run."""
READS_MODEL = ("generate", "serve", "eval", "export", "tokenizer encode", "train from")
READS_RUN = ("generate", "replay", "verify", "resume")
READS_INPUT = {
    "train": "data", "finetune": "data", "eval": "data", "tokenizer train": "data", "bench": "data",
    "eval choices": "choices", "generate": "prompt", "tokenizer encode": "text", "tokenizer decode": "ids",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One call: its words, and how its surroundings differ from those of all."""

    words: tuple[str, ...]
    stdin: bytes = b""
    variables: tuple[tuple[str, str], ...] = ()
    file: tuple[str, bytes] | None = None


def calls_of(name: str, **changes: str) -> tuple[str, ...]:
    words, values = (CALLS | MORE_CALLS)[name]
    return tuple(arguments(COMMANDS[words], words, values | changes))


def parameter_cells() -> Iterator[tuple[str, Cell]]:
    """Every parameter of every command with every value of its kind."""
    for name, (words, values) in (CALLS | MORE_CALLS).items():
        command = COMMANDS[words]
        for parameter in command.params:
            flag = isinstance(parameter, click.Option) and parameter.is_flag
            if flag or parameter.name is None or (name in MORE_CALLS and parameter.name not in values):
                continue
            text = isinstance(parameter.type, PathName) or (name, parameter.name) in (
                ("train", "sample_prompt"),
                ("train", "text_field"),
            )
            others = {} if text else NOT_REACHED.get(name, {})
            for value in values_for(parameter, name):
                yield f"{name} {parameter.name}", Cell(calls_of(name, **others | {parameter.name: value}))


def input_cells() -> Iterator[tuple[str, Cell]]:
    """Standard input with any content, in every command that reads it."""
    for name, parameter in READS_INPUT.items():
        words, values = (CALLS | MORE_CALLS)[name]
        if parameter in ("data", "choices"):
            values = values | {parameter: "-"}
        else:
            values = {key: value for key, value in values.items() if key != parameter}
        for content in CONTENTS.values():
            yield f"{name} < input", Cell(tuple(arguments(COMMANDS[words], words, values)), stdin=content)


def variable_cells() -> Iterator[tuple[str, Cell]]:
    """Every variable `SYMLM_*` with what a variable can hold."""
    possible = [text for text in (*TEXTS, *NUMBERS) if "\0" not in text and "\ud800" not in text and len(text) < 50_000]
    paths = [name for label, name in NAMES.items() if label not in ("root", "pipe", "nul", "half")]
    required = {"data": "text.txt", **SMALL, "out_dir": "new", "max_steps": "1", "progress": "off"}
    for name, spec in SPECS.items():
        # What the command line says counts more.
        values = {key: value for key, value in required.items() if key != name}
        if spec.kind not in PATH_KINDS:
            values |= NOT_REACHED["train"]
        words = tuple(arguments(COMMANDS["train"], "train", values))
        for value in paths if spec.kind in PATH_KINDS else possible:
            yield f"SYMLM_{name.upper()}", Cell(words, variables=((f"SYMLM_{name.upper()}", value),))
    for variable in ("SYMLM_CACHE_DIR", "XDG_CACHE_HOME", "HOME", "TMPDIR"):
        others = () if variable == "SYMLM_CACHE_DIR" else (("SYMLM_CACHE_DIR", ""),)
        for value in paths:
            for name in ("eval", "doctor"):
                yield f"{variable} {name}", Cell(calls_of(name), variables=((variable, value), *others))


def content_cells() -> Iterator[tuple[str, Cell]]:
    """Every file of a model and of a run with any content, in commands that read it."""
    for where, files, readers in (("model", MODEL_FILES, READS_MODEL), ("run", RUN_FILES, READS_RUN)):
        for file in files:
            for name in (*readers, "plot") if file == "metrics.jsonl" else readers:
                values = (CALLS | MORE_CALLS)[name][1]
                role = next(key for key in ROLES if key in values)
                for content in CONTENTS.values():
                    cell = Cell(calls_of(name, **{role: f"{where}-damaged"}), file=(f"{where}-damaged/{file}", content))
                    yield f"{name}: {where}/{file}", cell


PARTS = {
    "parameters": parameter_cells,
    "input": input_cells,
    "variables": variable_cells,
    "contents": content_cells,
}


def grouped(part: str) -> dict[str, list[Cell]]:
    groups: dict[str, list[Cell]] = {}
    for name, cell in PARTS[part]():
        groups.setdefault(name, []).append(cell)
    return groups


GROUPS = {f"{part}: {name}": cells for part in PARTS for name, cells in grouped(part).items()}


def documented_codes() -> set[int]:
    """The exit codes of the table in the guide, without that of a bug."""
    table = GUIDE.read_text(encoding="utf-8").split("## Exit codes")[1]
    rows = re.findall(r"^\| ([\d, ]+) \|", table, re.MULTILINE)
    return {int(code) for row in rows for code in row.split(",")} - {70}


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peak of the machine is measured for a moment only: it was most of what a call costs."""
    measure = _symlm.fma_peak
    monkeypatch.setattr(_symlm, "fma_peak", lambda threads, seconds, isa=None: measure(threads, 0.001, isa))


LIBRARY = functools.cache(mpi._load)


@pytest.fixture(autouse=True)
def one_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that loads the library of MPI is started once: no call here changes what it finds."""
    monkeypatch.setattr(mpi, "_load", LIBRARY)


@pytest.fixture(autouse=True)
def short_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server ends as soon as it is ready."""
    monkeypatch.setattr(server, "answer", lambda *_: 0)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, a model, and things that should not be given to anybody."""
    root = tmp_path_factory.mktemp("hostile")
    folder = root / "work"
    folder.mkdir()
    make_things(folder)
    with surroundings(folder, Cell(())):
        assert main(calls_of("train", out_dir="run", save_interval="1")) == 0
        assert main(calls_of("export", out="model")) == 0
    for name in GIVEN:
        shutil.copytree(folder / name, folder.parent / "untouched" / name)
    return folder


@contextlib.contextmanager
def surroundings(folder: Path, cell: Cell) -> Iterator[Path]:
    """The working directory, the variables and the standard input of a call."""
    kept, before = dict(os.environ), Path.cwd()
    for variable in [key for key in os.environ if key.startswith("SYMLM_") and key != "SYMLM_ISA"]:
        del os.environ[variable]
    os.environ["SYMLM_CACHE_DIR"] = str(folder.parent / "cache")
    for variable, value in cell.variables:
        if value or variable != "SYMLM_CACHE_DIR":
            os.environ[variable] = value
        else:
            del os.environ[variable]
    source = folder.parent / "stdin"
    source.write_bytes(cell.stdin)
    saved, stdin = os.dup(0), sys.stdin
    os.chdir(folder)
    handle = os.open(source, os.O_RDONLY)
    os.dup2(handle, 0)
    os.close(handle)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    try:
        yield folder
    finally:
        sys.stdin = stdin
        os.dup2(saved, 0)
        os.close(saved)
        os.chdir(before)
        os.environ.clear()
        os.environ.update(kept)


def outcome(words: tuple[str, ...]) -> tuple[int, str]:
    """Exit code and standard error of a call."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    for stream in (out, err):
        stream.flush()
    return code, err.buffer.getvalue().decode("utf-8")


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything in a folder, with sizes and times."""
    found = {}
    for base, folders, files in os.walk(folder):
        for name in (*folders, *files):
            status = os.lstat(os.path.join(base, name))  # noqa: PTH118
            found[os.path.join(base, name)] = (status.st_size, status.st_mtime_ns)  # noqa: PTH118
    return found


def complaint(code: int, said: str, left: Collection[str]) -> str | None:
    """What is wrong with how a call ended that said this and left these files."""
    lines = said.splitlines()
    if code not in documented_codes():
        return f"exit code {code}: {said[-500:]}"
    if "Traceback" in said or "panicked" in said:
        return f"traceback: {said[-500:]}"
    if code == 0:
        return None
    if sum(line.startswith("error: ") for line in lines) != 1 or not lines[-1].startswith("hint: "):
        return f"no error and hint: {said[-500:]}"
    if len(lines) > 2 + MOST_LINES or any(not line.isprintable() for line in lines):
        return f"garbled: {said[-500:]!r}"
    return f"left behind: {sorted(left)[:3]}" if left else None


def clean(folder: Path, before: Mapping[str, tuple[int, int]], after: Mapping[str, tuple[int, int]]) -> None:
    """Remove what a call left, and restore the run and the model, which `--extend-steps` may change."""
    for path in map(Path, sorted(after.keys() - before.keys(), reverse=True)):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for name in GIVEN:
        inside = str(folder / name) + os.sep
        if any(after.get(path) != status for path, status in before.items() if path.startswith(inside)):
            shutil.rmtree(folder / name)
            shutil.copytree(folder.parent / "untouched" / name, folder / name)


@pytest.mark.parametrize("group", GROUPS)
def test_every_cell_ends_well(place: Path, group: str) -> None:
    wrong = []
    before = tree(place)
    for cell in GROUPS[group]:
        if cell.file is not None:
            name = cell.file[0].partition("/")[0]
            shutil.rmtree(place / name, ignore_errors=True)
            shutil.copytree(place / name.partition("-")[0], place / name)
            (place / cell.file[0]).write_bytes(cell.file[1])
            if cell.file[0].endswith("index.json"):
                (place / cell.file[0]).with_name("model.safetensors").unlink()
            before = tree(place)
        with surroundings(place, cell):
            ended = outcome(cell.words)
        after = tree(place)
        found = complaint(*ended, after.keys() - before.keys())
        if found is not None:
            wrong.append(f"{cell.words!r:.300} {cell.variables!r:.100} {(cell.file or cell.stdin)!r:.80}\n  {found}")
        if after != before:
            clean(place, before, after)
            before = tree(place)
    assert not wrong, f"{len(wrong)} of {len(GROUPS[group])} cells:\n" + "\n".join(wrong)


def test_every_command_is_in_the_table() -> None:
    assert set(COMMANDS) == {words for words, _ in CALLS.values()} == set(CALLS)


if __name__ == "__main__":
    for part, cells in PARTS.items():
        print(f"{part:12} {sum(1 for _ in cells()):>6,}")
    print(f"{'all':12} {sum(map(len, GROUPS.values())):>6,}")
