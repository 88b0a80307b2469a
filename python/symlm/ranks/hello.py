"""What each rank tells the others of itself at the start."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .. import _symlm
from ..system.calls import allowed_cpus
from ..system.version import version


@dataclass(frozen=True)
class Hello:
    """A rank: its host, how the processors of that host are known, its versions, what it was started with."""

    host: str
    machine: str
    cpus: tuple[int, ...]
    symlm: str
    contract: int
    asked: Mapping[str, Any]
    """The settings that decide the bits of the run, by name."""
    timeout: float
    """Longest silence that it would bear; that of rank 0, which knows the run, counts for all."""

    @classmethod
    def here(cls, asked: Mapping[str, Any], timeout: float) -> Hello:
        """Of this rank, which was started with these settings."""
        try:
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:  # noqa: PTH123 - read at once
                machine = file.read().strip()
        except OSError:
            machine = socket.gethostname()
        cpus = allowed_cpus() or tuple(range(os.cpu_count() or 1))
        return cls(socket.gethostname(), machine, cpus, version(), _symlm.CONTRACT_VERSION, asked, timeout)

    def to_bytes(self) -> bytes:
        """As it travels."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, text: bytes) -> Hello:
        """As it has travelled."""
        values = json.loads(text)
        return cls(**{**values, "cpus": tuple(values["cpus"])})
