"""Versions of the numeric contract (docs/contract.md)."""

from __future__ import annotations

from typing import Any, TypeGuard

from .._symlm import CONTRACT_VERSION
from ..errors import shown

FIRST_VERSION = 1
"""Of runs that do not say which version they were started with."""


def is_known(version: Any) -> TypeGuard[int]:
    """Whether there is, or was, such a version."""
    return type(version) is int and FIRST_VERSION <= version <= CONTRACT_VERSION


def not_known(version: Any) -> str:
    """What is wrong with a version that is not known."""
    return f"numeric contract {shown(version)}, expected at most {CONTRACT_VERSION}"
