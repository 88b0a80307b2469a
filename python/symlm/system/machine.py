"""What the machine offers: threads, memory, instruction sets, versions. For `environment.json` and `symlm doctor`."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from .. import _symlm
from ..errors import printable, reason
from .calls import allowed_cpus
from .processor import processor_name
from .version import version


def resolve_threads(threads: int | Literal["auto"], sharing: int = 1) -> tuple[int, str]:
    """Number of workers and the rule that decided it; so many processes are `sharing` the processors."""
    if threads == "auto":
        cpus = _symlm.available_cpus()
        if sharing == 1:
            return cpus.count, cpus.rule
        return max(cpus.count // sharing, 1), f"{cpus.rule}, for {sharing} ranks"
    return threads, "--threads"


def gib(size: float) -> str:
    """Bytes as text in GiB or MiB."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


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


def machine_facts() -> dict[str, Callable[[], Any]]:
    """What is known of the machine and the versions: name -> how to find it out. Values are plain JSON."""
    return {
        "symlm": version,
        "python": platform.python_version,
        "implementation": lambda: sys.implementation.name,
        "platform": platform.platform,
        "cpu": processor_name,
        "cpus_online": os.cpu_count,
        "cpus_in_affinity_mask": lambda: None if (cpus := allowed_cpus()) is None else len(cpus),
        "threads_auto": lambda: _symlm.available_cpus().count,
        "threads_auto_rule": lambda: _symlm.available_cpus().rule,
        "isa": _symlm.isa,
        "isa_available": lambda: list(_symlm.available_isas()),
        "integer_instructions": _symlm.integer_instructions,
        "isa_from_environment": lambda: os.environ.get("SYMLM_ISA"),
        "cgroup": cgroup_limits,
        "memory_available_bytes": lambda: _memory()[0],
        "memory_available_rule": lambda: _memory()[1],
    }


def _memory() -> tuple[int | None, str | None]:
    available = _symlm.available_memory()
    return (None, None) if available is None else (available.bytes, available.rule)


def gather_facts(wanted: Mapping[str, Callable[[], Any]]) -> tuple[dict[str, Any], dict[str, str]]:
    """The facts, None for each that is unknown, and why it is."""
    facts: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for name, find in wanted.items():
        try:
            facts[name] = find()
        except Exception as error:
            facts[name] = None
            problems[name] = printable(reason(error) if isinstance(error, OSError) else str(error))
    return facts, problems


def describe() -> dict[str, Any]:
    """The machine and the versions, as plain JSON values; None where a fact is unknown."""
    return gather_facts(machine_facts())[0]
