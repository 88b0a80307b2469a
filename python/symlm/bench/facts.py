"""Where and what a benchmark ran on, for its JSON file."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..system.machine import describe

GIT_TIMEOUT_S = 10.0


def caches() -> list[dict[str, str]]:
    """Level, type and size of the caches of the first processor, as the kernel names them; empty if it does not."""
    found = []
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            found.append({name: (folder / name).read_text().strip() for name in ("level", "type", "size")})
        except OSError:
            continue
    return found


def commit() -> str | None:
    """Commit of the checkout that this package or the current folder is a part of, with `-dirty` when files are
    changed; None outside of one."""
    package = Path(__file__).parent
    for folder in (package, Path.cwd()):
        top = _git(folder, "rev-parse", "--show-toplevel")
        if top is None or not (Path(top) / "python" / "symlm" / "bench").is_dir():
            continue
        name = _git(folder, "rev-parse", "HEAD")
        if name is not None:
            return f"{name}-dirty" if _git(Path(top), "status", "--porcelain", "--untracked-files=no") else name
    return None


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def facts() -> dict[str, Any]:
    """Machine, versions, commit, command, time of the start; plain JSON values."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": ["symlm", *sys.argv[1:]],
        "commit": commit(),
        "machine": {**describe(), "caches": caches()},
    }
