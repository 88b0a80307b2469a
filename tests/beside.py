"""What the tests of settings, chat templates and special tokens share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf

import symlm
from symlm.export.write import Exported, export


def write(path: Path, **values: object) -> None:
    """A JSON file with these fields."""
    path.write_text(json.dumps(values), encoding="utf-8")


def read(path: Path) -> dict[str, Any]:
    """A JSON file."""
    value = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(value, dict)
    return value


def metadata(path: Path) -> dict[str, Any]:
    """The metadata of a GGUF file, as the library reads them."""
    return {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items()}


def noted(source: Path, to: str, out: Path) -> tuple[Exported, list[str]]:
    """An export, and what it tells."""
    notes: list[str] = []
    return export(source, to, out, report=notes.append), notes  # type: ignore[arg-type]


def tuned(model: Path, folder: Path, **changes: Any) -> Path:
    """A run of one update from a model."""
    folder.mkdir(exist_ok=True)
    (folder / "more.txt").write_text("the cat sat on the mat " * 400)
    settings = dict(max_steps=1, batch_size=12, threads=1, progress="off", sample_every=0) | changes
    config = symlm.finetune_config(model, out_dir=str(folder / "run"), **settings)
    return symlm.Trainer(config, data=[folder / "more.txt"]).fit().path
