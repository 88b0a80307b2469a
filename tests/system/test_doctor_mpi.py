"""What `symlm doctor` says of MPI, with an mpi4py that works, is broken, or is not there."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from conftest import Cli
from symlm.system.mpi import library_name

WORKING = """
class rc:
    initialize = finalize = True
"""
LIBRARY = """
from . import rc
assert not rc.initialize and not rc.finalize, "MPI would be started"
def Get_library_version():
    return "MPICH Version:      5.0.2\\nMPICH Release date: today\\nMPICH ABI: 0:0:0\\0"
def Get_version():
    return 4, 1
"""
HIDE = """
import importlib.metadata
find = importlib.metadata.version
def version(name):
    if name == "mpi4py":
        raise importlib.metadata.PackageNotFoundError(name)
    return find(name)
importlib.metadata.version = version
"""
BROKEN = "raise ImportError('libmpi.so.40: cannot open shared object file: No such file or directory')"


def doctor(cli: Cli, folder: Path, code: str | None, library: str = LIBRARY) -> subprocess.CompletedProcess[str]:
    """`symlm doctor` where mpi4py is the one of `code`, or not installed."""
    packages = folder / "packages"
    packages.mkdir()
    if code is not None:
        (packages / "mpi4py").mkdir()
        (packages / "mpi4py" / "__init__.py").write_text(code)
        (packages / "mpi4py" / "MPI.py").write_text(library)
        (packages / "mpi4py-9.9.dist-info").mkdir()
        (packages / "mpi4py-9.9.dist-info" / "METADATA").write_text("Name: mpi4py\nVersion: 9.9\n")
    else:
        # Without metadata a package is not installed, whatever this environment has.
        (packages / "sitecustomize.py").write_text(HIDE)
    import symlm

    source = str(Path(symlm.__file__).parents[1])
    return cli("doctor", "--json", env={"PYTHONPATH": f"{packages}:{source}", "PATH": str(folder)})


def test_versions_and_launchers(cli: Cli, tmp_path: Path) -> None:
    launcher = tmp_path / "srun"
    launcher.write_text("#!/bin/sh\n")
    launcher.chmod(0o755)
    facts = json.loads(doctor(cli, tmp_path, WORKING).stdout)
    assert facts["mpi"]["mpi4py"] == "9.9"
    assert facts["mpi"]["library"] == "MPICH 5.0.2"
    assert facts["mpi"]["standard"] == "4.1"
    assert facts["mpi"]["launchers"]["srun"] == str(launcher)
    assert facts["problems"] == {}


def test_no_mpi_is_no_problem(cli: Cli, tmp_path: Path) -> None:
    done = doctor(cli, tmp_path, None)
    facts = json.loads(done.stdout)
    assert facts["mpi"] is None
    assert facts["problems"] == {}


@pytest.mark.parametrize(
    ("code", "library", "said"),
    [
        (BROKEN, "", "libmpi.so.40: cannot open shared object file"),
        (WORKING, "import os; os.kill(os.getpid(), 11)", "ended with SIGSEGV"),
        (WORKING, "raise SystemExit(3)", "exit code 3"),
        (WORKING, "Get_library_version = Get_version = lambda: [7]", "expected its version"),
    ],
    ids=["no library", "crash", "exit", "other answer"],
)
def test_a_broken_mpi_is_named(cli: Cli, tmp_path: Path, code: str, library: str, said: str) -> None:
    done = doctor(cli, tmp_path, code, library)
    assert done.returncode == 0
    facts = json.loads(done.stdout)
    assert facts["mpi"] is None
    assert said in facts["problems"]["mpi"]
    assert "pip install mpich" in facts["problems"]["mpi"]


def test_names_of_libraries() -> None:
    assert library_name("Open MPI v5.0.11, package: Open MPI user@localhost, ident: 5.0.11\0") == "Open MPI v5.0.11"
    intel = "Intel(R) MPI Library 2021.18.1 for Linux* OS\n"
    assert library_name(intel) == "Intel(R) MPI Library 2021.18.1 for Linux* OS"
