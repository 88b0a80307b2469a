"""`symlm replay` of a bundle that was written before some of today's settings existed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import planted
import symlm
from conftest import Cli
from planted import fit, plant
from symlm.config.engine import BEFORE
from symlm.layout import MANIFEST, STATE
from symlm.run.metrics import read_lines
from symlm.system.files import file_hash


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The bundle of an update that is not finite, of the run `run`."""
    monkeypatch.setenv("SYMLM_CACHE_DIR", str(tmp_path / "cache"))
    planted.write_text(tmp_path / "text.txt", 90, 40)
    run = fit(tmp_path, "run", max_steps=60, stop_at_step=10).path
    plant(run, 10)
    with pytest.raises(symlm.NanError):
        fit(tmp_path, "run", resume="auto")
    (failure,) = (record for record in read_lines(run / "metrics.jsonl") if record["event"] == "nan")
    folder: Path = run / failure["bundle"]
    return folder


def change_settings(bundle: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change what a bundle keeps of the settings of training, and its manifest with it."""
    path, manifest = bundle / STATE, bundle / MANIFEST
    state = json.loads(path.read_text())
    edit(state["config"]["train"])
    path.write_text(json.dumps(state))
    content = json.loads(manifest.read_text())
    content["files"][STATE] |= {"size": path.stat().st_size, "sha256": file_hash(path)}
    manifest.write_text(json.dumps(content))


def replay(cli: Cli, bundle: Path) -> str:
    done = cli("replay", "run", "--step", int(bundle.name.split("-")[1]))
    assert done.returncode == 0, done.stderr
    assert "not finite: the loss of 1 of 4 windows" in done.stdout
    return done.stderr


def test_settings_that_did_not_exist_are_what_they_were_before(bundle: Path, cli: Cli) -> None:
    def older(train: dict[str, Any]) -> None:
        for name in BEFORE:
            del train[name]

    change_settings(bundle, older)
    told = replay(cli, bundle)
    assert f"from run/nan/{bundle.name} " in told
    assert "warning" not in told


def test_a_bundle_of_other_settings_is_passed_over_by_name(bundle: Path, cli: Cli) -> None:
    change_settings(bundle, lambda train: train.update(attend="document"))
    told = replay(cli, bundle)
    assert "was made with attend 'document', but config.toml of its run gives 'window'; beginning from a" in told
    assert "from run/checkpoints/step-00000010" in told
