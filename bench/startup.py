"""Time to start: `import symlm` and `python -m symlm --help` beyond the bare interpreter, medians of runs in turns.

Usage: startup.py [--rounds 21]. Measures the symlm that the running interpreter has installed.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "python -c 'import symlm'": ["-c", "import symlm"],
    "python -m symlm --help": ["-m", "symlm", "--help"],
    "python -m symlm train --help": ["-m", "symlm", "train", "--help"],
}


def main() -> None:
    """Run all commands in turns and print the medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=21)
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    # The first round fills the page cache and is left out.
    for number in range(options.rounds + 1):
        for name, words in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
            if number:
                times[name].append(time.perf_counter() - began)
    bare = statistics.median(times["python -c pass"])
    for name, seconds in times.items():
        median = statistics.median(seconds)
        beyond = "" if name == "python -c pass" else f", {1e3 * (median - bare):6.1f} ms beyond bare Python"
        print(f"{name:30} {1e3 * median:6.1f} ms{beyond}")


if __name__ == "__main__":
    main()
