"""The name of the processor."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

_ARM_PARTS = {
    (0x41, 0xD03): "Arm Cortex-A53",
    (0x41, 0xD05): "Arm Cortex-A55",
    (0x41, 0xD07): "Arm Cortex-A57",
    (0x41, 0xD08): "Arm Cortex-A72",
    (0x41, 0xD0B): "Arm Cortex-A76",
    (0x41, 0xD0C): "Arm Neoverse N1",
    (0x41, 0xD40): "Arm Neoverse V1",
    (0x41, 0xD41): "Arm Cortex-A78",
    (0x41, 0xD49): "Arm Neoverse N2",
    (0x41, 0xD4F): "Arm Neoverse V2",
}
"""By implementer and part: Linux names ARM cores by number only."""


def processor_name() -> str:
    """Name of the processor, of a board where the system names only that; empty if unknown."""
    if sys.platform == "darwin":
        return _apple()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    return name_in(text) or platform.processor()


def name_in(cpuinfo: str) -> str | None:
    """The name in a text of `/proc/cpuinfo`; kinds of ARM cores are joined, fast and slow ones differ."""
    kinds: list[str] = []
    implementer, board = 0, None
    for line in cpuinfo.splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        if key == "model name":
            return value
        if key == "Model":
            board = value
        try:
            if key == "CPU implementer":
                implementer = int(value, 0)
            elif key == "CPU part":
                part = int(value, 0)
                kinds.append(_ARM_PARTS.get((implementer, part), f"core {part:#x} of implementer {implementer:#x}"))
        except ValueError:
            continue
    cores = " + ".join(dict.fromkeys(kinds))
    return f"{cores} ({board})" if cores and board else cores or board


def _apple() -> str:
    command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return platform.processor()
