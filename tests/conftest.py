"""Shared pieces of the Python tests: the command line as a subprocess, small texts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from served import Served, serving, train

HANG_S = 1200
"""A command that takes longer hangs: the only limit of time in the tests, which no slow machine comes near."""

# How long an example takes says something about the machine, nothing about symlm.
settings.register_profile("symlm", deadline=None)
settings.load_profile("symlm")

LONGEST = (
    "tests/docs/test_tutorial.py",
    "tests/training/test_plan.py",
    "tests/test_torture.py",
    "tests/cli/test_hostile_inputs.py",
    "tests/training/test_markov.py",
    "tests/test_golden_run.py",
    "tests/contract",
    "tests/training",
)
"""Files and folders whose tests take longest, in the order in which they start."""

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start what takes long first: workers that have only short tests left end at about the same time."""
    items.sort(key=_place)


def _place(item: pytest.Item) -> int:
    return next((at for at, name in enumerate(LONGEST) if item.nodeid.startswith(name)), len(LONGEST))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A text of some 60 kB that supports a vocabulary of a few hundred tokens."""
    path = tmp_path / "text.txt"
    words = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "sleeps", "near", "rivers"]
    lines = (" ".join(words[(i * k + k) % len(words)] for k in range(1, 12)) + "." for i in range(1000))
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a subprocess: no settings from outside, a separate token cache."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SYMLM_") or key == "SYMLM_ISA"}
    return {**kept, "SYMLM_CACHE_DIR": str(tmp_path / "cache")}


@pytest.fixture
def cli(tmp_path: Path, environment: dict[str, str]) -> Cli:
    """Runs `python -m symlm` in a temporary folder."""

    def run(
        *words: object, stdin: str | None = None, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "symlm", *map(str, words)],
            cwd=tmp_path,
            env={**environment, **(env or {})},
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            timeout=HANG_S,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def served_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a small model, for tests of the server."""
    return train(tmp_path_factory.mktemp("serve"))


@pytest.fixture(scope="module")
def server(served_model: Path) -> Iterator[Served]:
    """A server with its defaults, for tests that leave it as it is."""
    with serving(served_model) as server:
        yield server
