"""Nothing here is imported but with `-m browser`: it needs playwright and Chromium."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Only what was asked for."""
    asked = "browser" in str(config.getoption("markexpr", "")).split()
    return None if asked or collection_path.name in ("__init__.py", "conftest.py") else True
