"""The golden run on aarch64, and runs that change their processor in the middle.

`emulated_arm.py golden|change FOLDER COMMAND`, for tests/emulated_arm.sh. COMMAND is a Python for aarch64 that knows
the same symlm, sees FOLDER under the same name and takes its arguments.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from int16_cases import CASES, case, golden_hashes
from test_golden_run import GOLDEN, Job, fast_isas, golden_text, job


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


def golden_runs(folder: Path, arm: str) -> None:
    """Ends with an error at the first hash that is not the golden one."""
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))["model_sha256"]
    in_integers = golden_hashes()
    for isa in ("neon", "portable"):
        for run in golden:
            jobs = [
                job(folder, run, f"{isa}-{run}-{threads}", threads=threads, sectors_in_flight=4) for threads in (1, 3)
            ]
            for found in train(arm, isa, jobs, folder):
                if found != golden[run]:
                    sys.exit(f"error: {run} on aarch64 {isa}: found {found}, expected {golden[run]}")
        jobs = [case(folder, name, f"{isa}-int16-{name}", threads=2, sectors_in_flight=4) for name in CASES]
        for name, found in zip(CASES, train(arm, isa, jobs, folder), strict=True):
            if found != in_integers[name]:
                sys.exit(f"error: {name} in integers on aarch64 {isa}: found {found}, expected {in_integers[name]}")


def twenty_updates(folder: Path, arm: str) -> None:
    """Ends with an error where 20 updates, or 10 and 10 on another processor, have a second hash."""
    whole: dict[str, str] = {}

    def same(name: str, found: str) -> None:
        whole[found] = name
        if len(whole) > 1:
            sys.exit(f"error: 20 updates: found {len(whole)} hashes ({whole}), expected one")

    here = [(sys.executable, isa) for isa in fast_isas()]
    there = [(arm, "neon"), (arm, "portable")]
    for python, isa in here + there:
        name = f"{Path(python).name}-{isa}"
        same(name, *train(python, isa, [twenty(folder, name, sectors_in_flight=12)], folder))
    for first, second in [(here[0], there[0]), (there[0], here[-1]), (there[1], there[0])]:
        name = "-then-".join(f"{Path(python).name}-{isa}" for python, isa in (first, second))
        train(*first, [twenty(folder, name, sectors_in_flight=12, stop_at_step=10)], folder)
        same(name, *train(*second, [twenty(folder, name, sectors_in_flight=1, resume="auto")], folder))


def twenty(folder: Path, name: str, **settings: Any) -> Job:
    """A job of 20 updates."""
    return job(folder, "tied-wsd", f"twenty-{name}", max_steps=20, threads=2, **settings)


def main(part: str, folder: Path, arm: str) -> None:
    (folder / "golden.jsonl").write_text(golden_text(), encoding="utf-8")
    if part == "golden":
        golden_runs(folder, arm)
        print("the golden hashes on aarch64, in f32 and in integers")
    else:
        twenty_updates(folder, arm)
        print("one hash of 20 updates on all processors and across changes of them")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
