"""Messages between the main threads of ranks: a JSON object, and bytes behind it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ..errors import RankError

_LENGTH = 8
"""Bytes of the number in front, little endian: how long the JSON is."""


@dataclass(frozen=True)
class Letter:
    """A message that has come: who sent it, what it says, and the bytes behind it."""

    source: int
    said: dict[str, Any]
    payload: bytes = b""

    @property
    def do(self) -> str:
        """What it asks for."""
        return str(self.said["do"])


def encode(said: dict[str, Any], payload: bytes | bytearray = b"") -> bytes:
    """A message as it travels."""
    head = json.dumps(said).encode()
    return b"".join((len(head).to_bytes(_LENGTH, "little"), head, payload))


def decode(source: int, data: bytes | bytearray) -> Letter:
    """What has travelled; RankError unless it is a message."""
    end = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
    try:
        said = json.loads(data[_LENGTH:end]) if end <= len(data) else None
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict) or not isinstance(said.get("do"), str):
        raise RankError(
            f"rank {source} sent {len(data)} bytes that are not a message", "install the same version on all hosts"
        )
    return Letter(source, said, bytes(data[end:]))
