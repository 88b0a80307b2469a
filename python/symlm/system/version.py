"""The version, as the installed package has it."""

from __future__ import annotations

from importlib import metadata


def version() -> str:
    """Version of the installed package; "unknown" when symlm runs from its sources without being installed."""
    try:
        return metadata.version("symlm")
    except metadata.PackageNotFoundError:
        return "unknown"
