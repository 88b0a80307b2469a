"""Names that are not UTF-8, and texts that are not whole characters."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import symlm
from conftest import Cli
from exporting import train_tiny
from symlm.config.sources import to_toml
from symlm.config.toml import parse_toml
from symlm.display.tensorboard import export_events
from symlm.errors import UsageError, UserError, printable
from symlm.export.write import export
from symlm.run.history import read_history
from symlm.run.metrics import to_line
from symlm.system.names import restored, storable

NAMES = st.binary(min_size=1, max_size=20).filter(lambda raw: b"\0" not in raw).map(os.fsdecode)


@given(name=NAMES)
def test_every_name_stands_in_json_and_toml_and_comes_back(name: str) -> None:
    assert restored(json.loads(to_line({"path": name}))["path"]) == name
    text = to_toml(symlm.TrainConfig(data=[f"./{name}"]))  # type: ignore[arg-type]
    tomllib.loads(text.encode().decode())
    assert parse_toml(text).values["data"] == (f"./{name}",)
    assert printable(name).isprintable()
    assert UserError(name).message == printable(name)


@pytest.mark.parametrize("stored", ["a\0", "a\0zz", "a\0" + "7f"])
def test_a_mark_that_stands_for_no_byte(stored: str) -> None:
    with pytest.raises(UsageError, match="two hexadecimal digits"):
        parse_toml(f"out_dir = {json.dumps(stored)}")


def test_messages_show_what_would_garble_them() -> None:
    assert printable(os.fsdecode(b"fr\xe9\n\x1b[31m.txt")) == r"fr\xe9\n\x1b[31m.txt"
    assert storable("a\ud800") == "a\ufffd"


def test_halves_of_characters_are_usage_errors(tmp_path: Path) -> None:
    generator = symlm.Generator.from_pretrained(train_tiny(tmp_path))
    for call in (
        lambda: generator.generate("\ud800"),
        lambda: generator.generate("a", stop="\udfff"),
        lambda: generator.tokenizer.encode("a\ud800"),
        lambda: symlm.Tokenizer.from_file("\ud800"),
        lambda: symlm.Tokenizer.from_file("a\0b"),
        lambda: symlm.Generator.from_pretrained("\ud800"),
        lambda: symlm.Generator.from_pretrained("a\0b"),
        lambda: symlm.TrainConfig(sample_prompt="\ud800"),
        lambda: symlm.TrainConfig(out_dir="\ud800"),
        lambda: symlm.evaluate(tmp_path / "run", tmp_path / "words.txt", text_field="\ud800"),
        lambda: symlm.evaluate(tmp_path / "run", "\ud800"),
        lambda: symlm.evaluate_rolling(tmp_path / "run", "\ud800"),
        lambda: symlm.evaluate_choices(tmp_path / "run", "\ud800"),
        lambda: symlm.TensorBoard("\ud800"),
        lambda: export(tmp_path / "run", "hf", "\ud800"),
        lambda: export(tmp_path / "run", "gguf", "\ud800.gguf"),
        lambda: symlm.finetune_config("\ud800"),
        lambda: symlm.Trainer(symlm.TrainConfig(), data="\ud800"),
        lambda: generator.tokenizer.save("\ud800"),
        lambda: export_events(tmp_path / "run", "\ud800"),
        lambda: list(read_history("\ud800")),
        lambda: symlm.TrainConfig.from_file("\ud800"),
    ):
        with pytest.raises(UsageError):
            call()


def test_a_text_to_evaluate_is_named_as_everything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_tiny(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = symlm.evaluate(tmp_path / "run", tmp_path / "words.txt")
    words: list[Any] = ["~/words.txt", os.fsencode(tmp_path / "words.txt"), [os.fsencode(tmp_path / "w*.txt")]]
    for data in words:
        assert symlm.evaluate(tmp_path / "run", data) == expected
    wrong: list[Any] = [None, 5, ""]
    for data in wrong:
        with pytest.raises(UsageError, match="data: expected a path, found"):
            symlm.evaluate(tmp_path / "run", [data])


def test_a_run_in_a_folder_that_is_not_utf8(cli: Cli, text: Path, tmp_path: Path) -> None:
    source, run = os.fsdecode(b"t\xe9.txt"), os.fsdecode(b"r\xe9\nu")
    text.rename(tmp_path / source)
    words = ["--vocab-size", 280, "--seq-len", 16, "--batch-size", 12, "--max-steps", 4, "--threads", 1]
    done = cli("train", source, *words, "--out-dir", run, "--stop-at-step", 2)
    assert done.returncode == 0, done.stderr
    assert r"$'r\xe9\nu'" in done.stderr
    done = cli("train", "--resume", run)
    assert done.returncode == 0, done.stderr
    json.loads((tmp_path / run / "environment.json").read_text(encoding="utf-8"))
