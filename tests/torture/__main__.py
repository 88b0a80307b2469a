"""`python -m torture`: the whole campaign, or a part of it."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from . import corruptions, disk, kills
from .report import Part, Say, table

ALL_KILLS = 100
"""From so many kills on, each instant inside a write has to be hit."""


def campaign(
    *,
    kill: int,
    corruption: Sequence[int],
    full: Sequence[int],
    seed: int,
    jobs: int,
    folder: Path,
    say: Say,
) -> list[Part]:
    """Do the kills, the corruptions and the full disks with these numbers; all files go below `folder`."""
    parts = []
    if kill:
        parts.append(kills.torture(kill, seed, jobs, folder / "kills", say, every=kill >= ALL_KILLS))
    if corruption:
        parts.append(corruptions.torture(corruption, seed, jobs, folder / "corruptions", say))
    if full:
        parts.append(disk.torture(full, seed, jobs, folder / "disk", say))
    return parts


def main(words: Sequence[str] | None = None) -> int:
    """Run it; 1 when a promise did not hold."""
    parser = argparse.ArgumentParser(prog="python -m torture", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, metavar="N")
    parser.add_argument("--corruptions", type=int, default=500, metavar="N")
    parser.add_argument("--disk-full", type=int, default=50, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="decides every case")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="cases at a time")
    parser.add_argument("--dir", type=Path, metavar="FOLDER", help="where the runs are made; kept if a case fails")
    parser.add_argument("--only", metavar="PART:CASE", help="one case again: corruption:N or disk:N")
    asked = parser.parse_args(words)
    kill, corruption, full = asked.kills, range(1, asked.corruptions + 1), range(1, asked.disk_full + 1)
    if asked.only:
        name, _, number = asked.only.partition(":")
        if name not in ("corruption", "disk") or not number.isdigit():
            parser.error("--only takes corruption:N or disk:N")
        chosen = range(int(number), int(number) + 1)
        kill, corruption, full = 0, chosen if name == "corruption" else range(0), chosen if name == "disk" else range(0)
    folder = Path(tempfile.mkdtemp(prefix="symlm-torture-", dir=asked.dir))
    parts = campaign(
        kill=kill, corruption=corruption, full=full, seed=asked.seed, jobs=asked.jobs, folder=folder, say=Say()
    )
    print(table(parts))
    if any(part.failed or part.problems for part in parts):
        print(f"FAILED: a promise did not hold; what is left is in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
