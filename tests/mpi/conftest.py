"""What the tests of ranks share. Nothing here is imported but with `-m mpi`: it needs mpi4py, a launcher, and root for
the hosts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .hosts import Hosts
    from .launch import Launcher


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Only what was asked for."""
    asked = "mpi" in str(config.getoption("markexpr", "")).split()
    return None if asked or collection_path.name in ("__init__.py", "conftest.py") else True


@pytest.fixture(scope="session")
def launcher() -> Launcher:
    """The launcher of the environment that runs the tests."""
    from .launch import Launcher

    return Launcher.here()


@pytest.fixture
def make_hosts(tmp_path: Path) -> Iterator[Callable[..., Hosts]]:
    """Makes hosts that are gone after the test: `make_hosts(count, rate="1gbit")`."""
    from .hosts import Hosts, missing

    why = missing()
    if why is not None:
        pytest.skip(why)
    with ExitStack() as stack:

        def make(count: int, rate: str | None = "1gbit") -> Hosts:
            return stack.enter_context(Hosts(count, tmp_path / "hosts", rate=rate))

        yield make
