"""Markdown files of the repository: their blocks, and the tutorial followed as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
TUTORIAL = ROOT / "docs" / "tutorial.md"
SECONDS = 600

VARIES = ("threads:",)
"""Lines that say what the machine is."""

_MARK = re.compile(r"<!--\s*(?P<name>[a-z-]+)(?::\s*(?P<value>.*?))?\s*-->")


@dataclass
class Block:
    """A fenced block: its language, its lines, its line number, and the HTML comments right above it."""

    language: str
    first_line: int
    lines: list[str] = field(default_factory=list)
    marks: dict[str, str] = field(default_factory=dict)

    def commands(self) -> Iterator[tuple[str, list[str]]]:
        """The commands of a console block, continuation lines joined, each with the output shown below it."""
        command, output = "", list[str]()
        for line in self.lines:
            continued = command.endswith("\\") and not output
            if line.startswith("$ "):
                if command:
                    yield command, output
                command, output = line[2:], []
            elif continued:
                command = f"{command[:-1].rstrip()} {line.strip()}"
            else:
                output.append(line)
        if command:
            yield command, output


def tracked(*patterns: str) -> list[str]:
    """The files that git keeps, or would keep, by their paths from the root; without git, all but what is built."""
    if not (ROOT / ".git").exists():
        found = (path for pattern in patterns or ("*",) for path in ROOT.rglob(pattern) if path.is_file())
        names = (path.relative_to(ROOT) for path in found)
        return sorted(
            name.as_posix() for name in names if not name.parts[0].startswith((".", "target", "dist", "runs"))
        )
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in listed if (ROOT / name).is_file()]


def documents() -> list[Path]:
    """The Markdown files."""
    return [ROOT / name for name in tracked("*.md")]


def blocks(path: Path) -> list[Block]:
    """The fenced blocks of a document. Comments such as `<!-- file: a.py -->` belong to the next block."""
    found: list[Block] = []
    open_block: Block | None = None
    marks: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```"):
            if open_block is None:
                open_block, marks = Block(line[3:].strip(), number, marks=marks), {}
            else:
                found.append(open_block)
                open_block = None
        elif open_block is not None:
            open_block.lines.append(line)
        elif mark := _MARK.fullmatch(line.strip()):
            marks[mark["name"]] = mark["value"] or ""
        elif line.strip():
            marks = {}
    assert open_block is None, f"{path}: a block is never closed"
    return found


def words(line: str) -> str:
    """A line without its numbers, which depend on the speed of the machine and on the text of this Python."""
    return " ".join("#" if re.search(r"\d", word) else word for word in line.split())


def programs(folder: Path) -> str:
    """A folder with `symlm` and `python`, both of this interpreter."""
    folder.mkdir()
    for name, module in {"symlm": "-m symlm ", "python": ""}.items():
        (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {module}"$@"\n', encoding="utf-8")
        (folder / name).chmod(0o755)
    return str(folder)


def write_file(block: Block, work: Path) -> None:
    (work / block.marks["file"]).write_text("\n".join(block.lines) + "\n", encoding="utf-8")


def follow(block: Block, work: Path, env: dict[str, str]) -> None:
    """Run the commands of a block, and check what it says comes of them."""
    for command, shown in block.commands():
        done = subprocess.run(
            ["bash", "-c", command], cwd=work, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        printed = {words(line) for line in done.stdout.splitlines()}
        expected = [line for line in shown if line.strip() and not line.startswith(VARIES)]
        missing = [line for line in expected if words(line) not in printed]
        assert not missing, f"{command}\nprinted:\n{done.stdout}\nnot printed:\n" + "\n".join(missing)
    missing = [name for name in block.marks.get("appears", "").split() if not (work / name).exists()]
    assert not missing, f"line {block.first_line}: {missing} did not appear"


def run_tutorial(tmp_path: Path, environment: dict[str, str], installed: set[str]) -> set[str]:
    """Follow the tutorial; blocks that need one of `installed` too. Gives those that were needed."""
    work = tmp_path / "work"
    work.mkdir()
    path = os.pathsep.join([programs(tmp_path / "bin"), environment["PATH"]])
    env = {**environment, "PATH": path, "PYTHONWARNINGS": "default"}
    needed = set()
    for block in blocks(TUTORIAL):
        if "file" in block.marks:
            write_file(block, work)
        elif block.language == "console":
            need = block.marks.get("needs")
            if need is not None and need not in installed:
                continue
            follow(block, work, env)
            needed |= {need} if need is not None else set()
    return needed
