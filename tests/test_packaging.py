"""The installed package: what it requires, what it carries, what it was built with."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import metadata, requires
from pathlib import Path

from symlm import _symlm

ROOT = Path(__file__).parent.parent
MOST_BYTES = 12 * 2**20


def test_it_needs_three_packages_at_run_time() -> None:
    needed = [line for line in requires("symlm") or [] if "extra ==" not in line]
    assert {re.split(r"[^\w-]", line)[0] for line in needed} == {"numpy", "rich", "click"}
    assert metadata("symlm")["Requires-Python"] == ">=3.11"
    assert metadata("symlm")["License-Expression"] == "MIT OR Apache-2.0"


def test_the_extension_serves_every_python_and_is_small() -> None:
    path = Path(_symlm.__file__ or "")
    assert path.name.endswith(".abi3.so")
    assert path.stat().st_size <= MOST_BYTES
    # The stub and the marker of a typed package lie beside it.
    assert path.with_name("_symlm.pyi").is_file()
    assert path.with_name("py.typed").is_file()


def test_nothing_ties_the_build_to_one_processor() -> None:
    """The wheel runs on every x86-64; instruction sets are chosen at run time."""
    assert not any((ROOT / ".cargo" / name).exists() for name in ("config", "config.toml"))
    manifests = [ROOT / "Cargo.toml", ROOT / "pyproject.toml", *ROOT.glob("rust/*/Cargo.toml")]
    for manifest in manifests:
        assert "target-cpu" not in manifest.read_text(encoding="utf-8"), manifest
    build_scripts = list(ROOT.glob("rust/*/build.rs"))
    assert build_scripts == []
    release = tomllib.loads((ROOT / "Cargo.toml").read_text(encoding="utf-8"))["profile"]["release"]
    assert release["lto"] == "thin"


def test_the_crates_that_compute_are_optimised_for_speed() -> None:
    # The level of symlm-py is that of link-time optimisation, so of all kernels: at "s" their loops are not unrolled,
    # and an update takes two and a half times as long. No other test would notice.
    release = tomllib.loads((ROOT / "Cargo.toml").read_text(encoding="utf-8"))["profile"]["release"]
    levels = {name: package.get("opt-level", 3) for name, package in release.get("package", {}).items()}
    assert release.get("opt-level", 3) == 3
    assert {levels.get(name, 3) for name in ("symlm-py", "symlm-core", "symlm-kernels")} == {3}
