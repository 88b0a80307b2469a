"""Peak memory of a command and what it is made of.

Usage: memory.py COMMAND..., as in: memory.py python -m symlm train TEXT --max-steps 5. Samples /proc of the process a
hundred times a second; prints the peaks and, for the moment of the highest sample, the mappings that hold it.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

FIELDS = ("VmHWM", "VmRSS", "RssAnon", "RssFile", "RssShmem")
LARGEST = 8
GROWTH = 1.01
"""The mappings are listed again when the process has grown by this factor: that takes longer than a sample."""


def status(process: Path) -> dict[str, int]:
    """The fields in kB; empty when the process has ended."""
    found = re.findall(r"(\w+):\s+(\d+) kB", (process / "status").read_text())
    return {name: int(value) for name, value in found if name in FIELDS}


def mappings(process: Path) -> Counter[str]:
    """Resident kB by name of the mapped file."""
    sizes: Counter[str] = Counter()
    name = ""
    for line in (process / "smaps").read_text().splitlines():
        head = re.match(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+\s*(.*)", line)
        if head:
            name = Path(head[1]).name or "anonymous"
        elif line.startswith("Rss:"):
            sizes[name] += int(line.split()[1])
    return sizes


def main() -> None:
    """Run the command and print what it held."""
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    child = subprocess.Popen(sys.argv[1:])
    process = Path(f"/proc/{child.pid}")
    peak: Counter[str] = Counter()
    highest, at, held = 0, 0.0, Counter[str]()
    began = time.monotonic()
    while child.poll() is None:
        try:
            now = status(process)
            if now.get("VmRSS", 0) > highest * GROWTH:
                highest, at, held = now["VmRSS"], time.monotonic() - began, mappings(process)
        except (FileNotFoundError, ProcessLookupError):
            break
        peak |= Counter(now)
        time.sleep(0.01)
    print("peaks: " + ", ".join(f"{name} {peak[name] / 1024:.0f} MB" for name in FIELDS))
    print(f"held after {at:.1f} s: " + ", ".join(f"{name} {kb / 1024:.1f}" for name, kb in held.most_common(LARGEST)))
    sys.exit(child.wait())


if __name__ == "__main__":
    main()
