"""What symlm writes is never taken for text: runs, exports and figures inside of a folder of texts."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from symlm import _symlm
from symlm.bench.run import RESULT
from symlm.config.sources import to_toml
from symlm.config.train_config import TrainConfig
from symlm.display import tensorboard
from symlm.errors import DataError
from symlm.evaluation.choices import ItemResult
from symlm.evaluation.rolling import DocumentLoss
from symlm.layout import (
    CHECKPOINTS,
    COMPANIONS,
    CONFIG,
    ENVIRONMENT,
    FACTS,
    GGUF_NAME,
    MANIFEST,
    MODEL_CONFIG,
    MODELFILE,
    STATE,
    TEMP_PREFIX,
    TOKENIZER,
    TOKENIZER_TEMP,
)
from symlm.run.checkpoint import State
from symlm.run.folder import START, RunFolder

SHORT = ("--preset", "tiny", "--vocab-size", 300, "--seq-len", 32, "--batch-size", 12, "--max-steps", 6, "--threads", 1)

In = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def folder(tmp_path: Path, text: Path) -> Path:
    """A folder of one text."""
    made = tmp_path / "d"
    made.mkdir()
    text.rename(made / "a.txt")
    return made


@pytest.fixture
def inside(folder: Path, environment: dict[str, str]) -> In:
    """Runs `python -m symlm` inside of that folder."""

    def run(*words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "symlm", *map(str, words)],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done

    return run


@pytest.mark.parametrize("out", [(), ("--out-dir", "my-run"), ("--out-dir", "deep/er/run")])
def test_a_run_in_the_folder_of_its_text(folder: Path, inside: In, out: tuple[str, ...]) -> None:
    first = inside("train", ".", *SHORT, *out, "--stop-at-step", 3)
    assert "left out" not in first.stderr
    run = folder / (out[1] if out else "runs/data-tiny")
    assert (run / "metrics.jsonl").is_file()
    resumed = inside("train", ".", *SHORT, *out, "--resume", "auto")
    name = str(run.relative_to(folder))
    assert f"left out 1 folder that symlm wrote: {name}\n" in resumed.stderr and resumed.stderr.count("left out") == 1
    assert (run / "checkpoints" / "step-00000006").is_dir()
    inside("verify", name)
    inside("replay", name, "--step", 2)
    # Another run reads the same text, and so does everything else.
    inside("train", ".", *SHORT, "--out-dir", "second")
    weights = "checkpoints/step-00000006/model.safetensors"
    assert (run / weights).read_bytes() == (folder / "second" / weights).read_bytes()
    assert "left out 2 folders that symlm wrote: " in inside("eval", name, ".").stderr
    inside("eval", name, "**/*.*")
    inside("tokenizer", "train", ".", "--vocab-size", 300, "-o", "t.json")
    assert (folder / "t.json").read_bytes() == (run / TOKENIZER).read_bytes()


def test_a_run_whose_files_were_edited(folder: Path, inside: In) -> None:
    """Either of the two files tells what the folder is."""
    inside("train", ".", *SHORT, "--out-dir", "run")
    config, environment = folder / "run" / CONFIG, folder / "run" / ENVIRONMENT
    written = config.read_text(encoding="utf-8"), environment.read_text(encoding="utf-8")

    def files() -> int:
        return _open(folder, ".").files

    config.write_text("".join(written[0].splitlines(keepends=True)[1:]))
    assert files() == 1
    inside("train", ".", *SHORT, "--out-dir", "run", "--resume", "auto")
    config.unlink()
    assert files() == 1
    config.write_text(written[0])
    environment.write_text("{}")
    assert files() == 1
    environment.unlink()
    assert files() == 1
    # Nothing tells that symlm wrote it.
    config.unlink()
    with pytest.raises(DataError, match=r"metrics\.jsonl: line 1: found fields"):
        files()


def test_exports_and_results_in_the_folder_of_texts(folder: Path, inside: In) -> None:
    inside("train", ".", *SHORT, "--out-dir", "run", "--tensorboard", "logs", "--trace", "trace.json")
    questions = folder / "q.jsonl.off"
    questions.write_text('{"prompt": "a", "choices": ["b", "c"], "answer": 0}\n')
    inside("export", "run", "--to", "hf", "--out", "model")
    inside("eval", "run", "a.txt", "--per-document", "--out", "documents.jsonl")
    inside("eval", "run", "--choices", questions.name, "--out", "answers.jsonl")
    questions.unlink()
    inside("replay", "run", "--step", 3, "--out", "state")
    inside("tokenizer", "train", "a.txt", "--vocab-size", 300)
    for name in [
        "logs",
        "trace.json",
        "model/README.md",
        "documents.jsonl",
        "answers.jsonl",
        "state",
        "tokenizer.json",
    ]:
        assert (folder / name).exists()
    cache = folder / "cache"
    cache.symlink_to(folder.parent / "cache")
    for data in [".", "*", "**/*"]:
        files = _open(folder, data)
        assert files.files == 1 and files.note is not None, data
    assert "2 folders and 2 files" in str(_open(folder, ".").note)


def _open(folder: Path, data: str) -> _symlm.Corpus:
    before = Path.cwd()
    os.chdir(folder)
    try:
        return _symlm.Corpus.open([data])
    finally:
        os.chdir(before)


def test_a_folder_that_begins_to_be_a_run(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text " * 100)
    run = RunFolder(tmp_path / "run")
    run.lock()
    try:
        for name in (TOKENIZER, ENVIRONMENT, *COMPANIONS, f"{TEMP_PREFIX}x", f"{TOKENIZER_TEMP}y"):
            (run.path / name).write_text("[1]")
        for data in (str(tmp_path), f"{tmp_path}/**/*"):
            corpus = _symlm.Corpus.open([data])
            assert [path.name for path in corpus.paths] == ["a.txt"]
    finally:
        run.unlock()


def test_the_names_are_those_of_the_modules_that_write_them() -> None:
    own = _symlm.own_output()
    assert [(folder.what, folder.names) for folder in own.folders] == [
        ("run", [CONFIG, ENVIRONMENT]),
        ("run", [CONFIG, CHECKPOINTS]),
        ("run", [ENVIRONMENT, CONFIG]),
        ("run", [ENVIRONMENT, CHECKPOINTS]),
        ("checkpoint", [STATE, MANIFEST]),
        ("export", [FACTS, MODEL_CONFIG]),
        ("ollama", [GGUF_NAME, MODELFILE]),
    ]
    run, _, recorded, _, checkpoint, _, ollama = own.folders
    assert to_toml(TrainConfig()).startswith(run.mark) and run.mark.startswith("# symlm")
    assert recorded.mark == '"threads_rule"'
    assert checkpoint.mark in State({}, {}, {}).to_json()
    assert ollama.mark == "symlm."
    assert {own.lock, *own.begun} == set(START)
    assert own.unfinished == [TEMP_PREFIX, TOKENIZER_TEMP]
    assert own.events in Path(tensorboard.__file__).read_text(encoding="utf-8")
    known = {of.what: of.names for of in own.fields}
    assert known["eval --per-document --out"] == [field.name for field in dataclasses.fields(DocumentLoss)]
    assert known["eval --choices --out"] == [field.name for field in dataclasses.fields(ItemResult)]


def test_figures_and_tokenizers_are_known_by_their_fields(tmp_path: Path, text: Path) -> None:
    known = {of.what: of.names for of in _symlm.own_output().fields}
    tokenizer = tmp_path / "tokenizer.json"
    _symlm.Corpus.open([text]).train_tokenizer(300, 1, None).save(str(tokenizer))
    assert list(json.loads(tokenizer.read_text(encoding="utf-8"))) == known["tokenizer train"]
    from symlm.bench import facts

    begins = list(facts.facts())
    assert known["bench"][: len(begins)] == begins and RESULT.endswith(".json")
