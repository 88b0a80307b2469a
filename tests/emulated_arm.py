"""Runs that change their processor in the middle: `emulated_arm.py FOLDER COMMAND`, for tests/emulated_arm.sh.

COMMAND is a Python for aarch64 that knows the same symlm, sees FOLDER under the same name and takes its arguments.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from test_golden_run import GOLDEN, STOP_AT, Job, fast_isas, golden_text, job


def train(python: str, isa: str, jobs: list[Job], folder: Path) -> list[str]:
    """Hashes of the weights that jobs end with."""
    began = time.monotonic()
    environment = {**os.environ, "SYMLM_ISA": isa, "SYMLM_CACHE_DIR": str(folder / "cache")}
    script = Path(__file__).with_name("test_golden_run.py")
    done = subprocess.run(
        [python, str(script), "train"], env=environment, input=json.dumps(jobs), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode != 0:
        sys.exit(f"{python} on {isa}: {done.stderr}")
    hashes: list[str] = json.loads(done.stdout)
    print(f"  {Path(python).name} {isa}: {', '.join(h[:16] for h in hashes)} in {time.monotonic() - began:.0f} s")
    return hashes


def main(folder: Path, arm: str) -> None:
    """Ends with an error at the first hash that differs."""
    (folder / "golden.jsonl").write_text(golden_text(), encoding="utf-8")
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))["model_sha256"]

    def same(what: str, found: str, run: str) -> None:
        if found != golden[run]:
            sys.exit(f"error: {what}: found {found}, expected {golden[run]}")

    for isa in ("neon", "portable"):
        for run in golden:
            jobs = [
                job(folder, run, f"{isa}-{run}-{threads}", threads=threads, sectors_in_flight=4) for threads in (1, 3)
            ]
            for found in train(arm, isa, jobs, folder):
                same(f"{run} on aarch64 {isa}", found, run)
    here = fast_isas()
    turns = [
        (sys.executable, here[0], arm, "neon"),
        (arm, "neon", sys.executable, here[-1]),
        (arm, "portable", arm, "neon"),
    ]
    for first, first_isa, second, second_isa in turns:
        name = f"{Path(first).name}-{first_isa}-then-{Path(second).name}-{second_isa}"
        begun = job(folder, "tied-wsd", name, threads=2, sectors_in_flight=12, stop_at_step=STOP_AT)
        train(first, first_isa, [begun], folder)
        resumed = job(folder, "tied-wsd", name, threads=3, sectors_in_flight=1, resume="auto")
        (found,) = train(second, second_isa, [resumed], folder)
        same(name, found, "tied-wsd")
    print(f"the golden hashes on aarch64, and in {len(turns)} runs that changed their processor")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
