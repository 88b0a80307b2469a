"""What documents name exists: links and their headings, commands and flags, files of the source."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import click
import pytest

from console import ROOT, blocks, documents, tracked
from symlm.cli import cli

DOCUMENTS = {path.relative_to(ROOT).as_posix(): path for path in documents()}
INVENTED = {"docs/howto/add-a-flag.md", "docs/howto/add-a-command.md"}
"""Their examples are about a flag and a command that do not exist."""

MAPS = [name for name in DOCUMENTS if name in ("CONTRIBUTING.md", "docs/architecture.md") or "/howto/" in name]
NEW_FILES = {"rust/kernels/src/relu.rs", "simd/neon.rs", "python/symlm/cli/shape.py", "tests/test_shape.py"}
"""Files that the reader of an example makes."""

WITH_FLAGS = ["README.md", "docs/guide.md", "docs/settings.md", "docs/tutorial.md", "docs/contract.md"]
OTHER_FLAGS = {"--steps"}
"""Of scripts in `bench`, in running text."""

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")
_FLAG = re.compile(r"--[a-z][a-z0-9-]*")
_SEPARATORS = {"&&", "||", "|", ";"}


def prose(path: Path) -> str:
    """A document without its fenced blocks."""
    return _FENCE.sub("", path.read_text(encoding="utf-8"))


def anchors(path: Path) -> set[str]:
    """The names that GitHub gives to the headings."""
    headings = re.findall(r"^#{1,6} (.+)$", prose(path), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    path = DOCUMENTS[name]
    broken = []
    for link in _LINK.findall(prose(path)):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def flags(command: click.Command) -> set[str]:
    """Every spelling of the flags of a command."""
    context = click.Context(command, info_name=command.name, help_option_names=["-h", "--help"])
    options = [parameter for parameter in command.get_params(context) if isinstance(parameter, click.Option)]
    return {name for option in options for name in (*option.opts, *option.secondary_opts)}


def all_flags(command: click.Command) -> set[str]:
    """Of a command and of those below it."""
    found = flags(command)
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            found |= all_flags(below)
    return found


def calls(line: str) -> Iterator[list[str]]:
    """The words after each `symlm` of a shell line, up to the end of that command."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
    lexer.whitespace_split = True
    words = list(lexer)
    starts = [at for at, word in enumerate(words) if word == "symlm" and "=" not in word]
    for at in starts:
        rest = words[at + 1 :]
        end = next((i for i, word in enumerate(rest) if word in _SEPARATORS), len(rest))
        yield rest[:end]


def check_call(words: list[str]) -> str | None:
    """What is wrong with a call, if anything."""
    command: click.Command = cli
    for at, word in enumerate(words):
        if not isinstance(command, click.Group) or word.startswith("-"):
            break
        below = command.get_command(click.Context(command), word)
        if below is None:
            return f"no command {' '.join(words[: at + 1])}"
        command = below
    known = flags(command)
    given = {word.partition("=")[0] for word in words if word.startswith("--")}
    return f"symlm {command.name}: no flag {', '.join(sorted(given - known))}" if given - known else None


def test_a_wrong_command_or_flag_is_noticed() -> None:
    assert check_call(["train", "a.txt", "--lr", "1e-3", "--no-tie-embeddings", "--debug"]) is None
    assert check_call(["train", "a.txt", "--bacth-size", "3"]) == "symlm train: no flag --bacth-size"
    assert check_call(["tokenizer", "train", "--vocab-size", "300", "--stride", "1"]) == "symlm train: no flag --stride"
    assert check_call(["talk"]) == "no command talk"
    assert list(calls("SYMLM_ISA=avx2 symlm train a --out-dir b && echo c | symlm generate d")) == [
        ["train", "a", "--out-dir", "b"],
        ["generate", "d"],
    ]


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if name not in INVENTED])
def test_commands_in_console_blocks_exist(name: str) -> None:
    wrong = []
    for block in blocks(DOCUMENTS[name]):
        if block.language != "console":
            continue
        for command, _ in block.commands():
            # Comments, and the variable that stands for flags.
            for words in calls(command.split(" # ")[0]):
                wrong.append(check_call([word for word in words if not word.startswith("$")]))
    assert [problem for problem in wrong if problem is not None] == []


@pytest.mark.parametrize("name", WITH_FLAGS)
def test_flags_in_the_text_exist(name: str) -> None:
    known = all_flags(cli) | OTHER_FLAGS
    named = {flag for code in _CODE.findall(prose(DOCUMENTS[name])) for flag in _FLAG.findall(code)}
    assert named - known == set()


@pytest.mark.parametrize("name", MAPS)
def test_files_that_maps_name_exist(name: str) -> None:
    files = [PurePosixPath(file) for file in tracked()]
    known = {path.as_posix() for file in files for path in (file, *file.parents)}
    # `shards/prepare.rs` stands for rust/core/src/data/shards/prepare.rs.
    tails = {"/".join(path.split("/")[-n:]) for path in known for n in range(1, path.count("/") + 2)}
    missing = []
    for code in _CODE.findall(prose(DOCUMENTS[name])):
        is_path = re.fullmatch(r"[\w.-]+(/[\w.-]+)*/?", code) and ("/" in code or code.endswith((".rs", ".py", ".pyi")))
        if is_path and code.rstrip("/") not in tails | NEW_FILES and not code.startswith(("runs/", "target/", "step-")):
            missing.append(code)
    assert missing == []
