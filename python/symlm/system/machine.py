"""What the machine offers: threads, memory, instruction sets, versions. For `environment.json` and `symlm doctor`."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any, Literal

from .. import _symlm
from .version import version


def resolve_threads(threads: int | Literal["auto"]) -> tuple[int, str]:
    """Number of workers and the rule that decided it."""
    if threads == "auto":
        return _symlm.available_cpus()
    return threads, "--threads"


def gib(size: float) -> str:
    """Bytes as text in GiB or MiB."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def cpu_model() -> str:
    """Name of the processor, empty if unknown."""
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def cgroup_limits() -> dict[str, str]:
    """Limits of the control group as the kernel writes them; keys that do not exist are left out."""
    names = {
        "cpu.max": "/sys/fs/cgroup/cpu.max",
        "cpuset.cpus.effective": "/sys/fs/cgroup/cpuset.cpus.effective",
        "memory.max": "/sys/fs/cgroup/memory.max",
        "cfs_quota_us": "/sys/fs/cgroup/cpu/cpu.cfs_quota_us",
        "cfs_period_us": "/sys/fs/cgroup/cpu/cpu.cfs_period_us",
        "limit_in_bytes": "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    }
    found = {key: _read(path) for key, path in names.items()}
    return {key: value for key, value in found.items() if value is not None}


def describe() -> dict[str, Any]:
    """The machine and the versions, as plain JSON values."""
    auto, rule = _symlm.available_cpus()
    memory = _symlm.available_memory()
    return {
        "symlm": version(),
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cpus_online": os.cpu_count(),
        "cpus_in_affinity_mask": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "threads_auto": auto,
        "threads_auto_rule": rule,
        "isa": _symlm.isa(),
        "isa_available": list(_symlm.available_isas()),
        "isa_from_environment": os.environ.get("SYMLM_ISA"),
        "cgroup": cgroup_limits(),
        "memory_available_bytes": None if memory is None else memory[0],
        "memory_available_rule": None if memory is None else memory[1],
    }
