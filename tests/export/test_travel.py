"""What models carry along when they travel, and what of it is refused: settings, origin, context, damaged numbers."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import symlm
from exporting import SHAPE, random_folder, train_tiny
from symlm import _symlm
from symlm.config.model_config import ModelConfig
from symlm.errors import DataError, InternalError, UserError
from symlm.export.write import export
from symlm.model.gguf import write
from symlm.model.gguf.file import read_gguf
from symlm.model.gguf.vocabulary import begins_with, vocabulary_of
from symlm.model.resolve import resolve_model
from symlm.model.tensors import read_header
from symlm.system.reading import read_object
from symlm.training.initial import take_over

CONFIG = ModelConfig(**SHAPE)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMLM_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run."""
    return train_tiny(tmp_path_factory.mktemp("travel"))


@pytest.fixture
def source(run: Path, tmp_path: Path) -> Path:
    """A folder of transformers with random weights."""
    return random_folder(tmp_path / "in", run / "tokenizer.json", CONFIG)


def read(path: Path) -> dict[str, Any]:
    """A JSON file."""
    value = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(value, dict)
    return value


def change(path: Path, **values: object) -> None:
    """Set fields of a JSON file."""
    path.write_text(json.dumps({**(read(path) if path.is_file() else {}), **values}))


# --- what is carried along --------------------------------------------------------------------------------------------


def test_a_training_with_short_windows_leaves_the_context_of_the_model(run: Path, tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("the quick brown fox jumps over a lazy dog. " * 200)
    config = symlm.TrainConfig(
        init_from=str(run), seq_len=16, max_steps=2, batch_size=12, threads=1, sample_every=0, progress="off",
        out_dir=str(tmp_path / "tuned"),
    )  # fmt: skip
    tuned = symlm.Trainer(config, data=[tmp_path / "more.txt"]).fit().path
    assert resolve_model(tuned).model_config().seq_len == SHAPE["seq_len"]
    generator = symlm.Generator.from_pretrained(tuned)
    ids = list(range(1, SHAPE["seq_len"] + 1))
    assert np.isfinite(generator.logits(ids)).all()
    # The windows of the run are its own still.
    assert symlm.evaluate(tuned, tmp_path / "more.txt", progress="off").tokens % 16 == 0
    folder = export(tuned, "hf", tmp_path / "hf").path
    assert read(folder / "config.json")["max_position_embeddings"] == SHAPE["seq_len"]
    assert read(folder / "tokenizer_config.json")["model_max_length"] == SHAPE["seq_len"]
    # And where it began is told.
    weights = (run / "best" / "model.safetensors").read_bytes()
    assert read(folder / "symlm.json")["init_sha256"] == f"{hashlib.sha256(weights).hexdigest()} model.safetensors"


def test_what_stands_beside_a_model_stays_with_what_is_trained_from_it(source: Path, tmp_path: Path) -> None:
    chat = {"chat_template": "{{ messages }}", "tokenizer_class": "PreTrainedTokenizerFast", "own": 1}
    change(source / "tokenizer_config.json", **chat)
    change(source / "generation_config.json", do_sample=False)
    (tmp_path / "more.txt").write_text("the quick brown fox jumps over a lazy dog. " * 200)
    model = source
    for name in ("first", "second"):
        config = symlm.TrainConfig(
            init_from=str(model), max_steps=1, batch_size=12, threads=1, sample_every=0, progress="off",
            out_dir=str(tmp_path / name),
        )  # fmt: skip
        model = symlm.Trainer(config, data=[tmp_path / "more.txt"]).fit().path
    folder = export(model, "hf", tmp_path / "hf").path
    assert read(folder / "tokenizer_config.json") == chat
    assert read(folder / "generation_config.json")["do_sample"] is False
    assert "temperature" not in read(folder / "generation_config.json")


def test_an_unpacked_file_is_gone_once_its_weights_are_loaded(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is unpacked again for a return to the beginning, if it is the same file still."""
    file = export(source, "gguf", tmp_path / "m.gguf").path
    (tmp_path / "room").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "room"))
    loaded: list[bool] = []

    class Engine:
        def load_weights(self, path: str) -> None:
            loaded.append(Path(path).is_file())

    engine = cast("_symlm.Engine", Engine())
    _, initial = take_over(symlm.TrainConfig(init_from=str(file)))
    assert initial is not None
    assert len(list((tmp_path / "room").iterdir())) == 1
    for _ in range(2):
        initial.load(engine)
        assert not list((tmp_path / "room").iterdir())
    assert loaded == [True, True]
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match="not the model that the run began with"):
        initial.load(engine)


def test_settings_for_generating_stay(source: Path, tmp_path: Path) -> None:
    change(source / "generation_config.json", do_sample=False, max_length=7, eos_token_id=[0, 5], pad_token_id=3)
    found = read(export(source, "hf", tmp_path / "a").path / "generation_config.json")
    assert found == {
        "do_sample": False, "max_length": 7, "eos_token_id": [0, 5], "pad_token_id": 3, "bos_token_id": 0
    }  # fmt: skip
    # A file with tokens alone, as a GGUF file gives, says nothing about them.
    (source / "generation_config.json").write_text('{"eos_token_id": 0}')
    found = read(export(source, "hf", tmp_path / "b").path / "generation_config.json")
    assert (found["do_sample"], found["temperature"], found["pad_token_id"]) == (True, 0.8, 0)


def test_ollama_goes_by_the_template_of_a_model_that_has_one(source: Path, tmp_path: Path) -> None:
    change(source / "tokenizer_config.json", chat_template="{{ messages }}")
    folder = export(source, "ollama", tmp_path / "chat").path
    assert "TEMPLATE" not in (folder / "Modelfile").read_text()
    assert read_gguf(folder / "model.gguf").values["tokenizer.chat_template"] == "{{ messages }}"


def test_a_folder_named_by_a_link(source: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    export(source, "hf", tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "config.json").is_file()


# --- what is refused --------------------------------------------------------------------------------------------------


def test_numbers_that_are_none_are_refused(source: Path, tmp_path: Path) -> None:
    norm = read_header(source / "model.safetensors")["model.norm.weight"]
    with (source / "model.safetensors").open("r+b") as file:
        file.seek(norm.offset)
        file.write(struct.pack("<f", float("nan")))
    for to in ("hf", "gguf"):
        with pytest.raises(DataError, match="in: the logits are not finite numbers"):
            export(source, to, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_wrong_file_is_found_when_it_is_read_back(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "to_pairs", lambda rows, heads: rows)
    with pytest.raises(InternalError, match="the exported model differs by"):
        export(source, "gguf", tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_facts_may_be_anything(source: Path, tmp_path: Path) -> None:
    change(source / "symlm.json", step="many", val_loss="low", val_bpb=[1], tokens=7)
    card = (export(source, "hf", tmp_path / "out").path / "README.md").read_text()
    assert "| tokens seen | 7 |" in card
    assert "held-out" not in card


def test_half_a_character(source: Path, tmp_path: Path) -> None:
    (tmp_path / "whole.json").write_text('{"a": "\\ud83d\\ude00", "b": "\\\\ud83d"}')
    assert read_object(tmp_path / "whole.json", "file") == {"a": "😀", "b": "\\ud83d"}
    for name in ("symlm.json", "tokenizer_config.json"):
        (source / name).write_text('{"chat_template": "\\ud83d"}')
        for to in ("hf", "gguf"):
            with pytest.raises(DataError, match="half of a surrogate pair"):
                export(source, to, tmp_path / "out")
        (source / name).unlink()


def frame(*parts: str) -> dict[str, Any]:
    """A post-processor; TEXT stands for the text."""
    sequence, ids = {"Sequence": {"id": "A", "type_id": 0}}, {"<|endoftext|>": 0, "a": 65}
    single = [sequence if p == "TEXT" else {"SpecialToken": {"id": p, "type_id": 0}} for p in parts]
    special = {token: {"id": token, "ids": [number], "tokens": [token]} for token, number in ids.items()}
    return {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": special}


def test_tokens_around_a_text(source: Path, tmp_path: Path) -> None:
    """llama.cpp is told of those that begin and end a text; others would be lost."""
    path = source / "tokenizer.json"
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    for part, begins, ends in (
        (None, False, False), (byte_level, False, False), (frame("TEXT"), False, False),
        (frame("<|endoftext|>", "TEXT"), True, False), (frame("TEXT", "<|endoftext|>"), False, True),
        ({"type": "Sequence", "processors": [byte_level, frame("<|endoftext|>", "TEXT")]}, True, False),
        ({"type": "Sequence", "processors": [frame("<|endoftext|>", "TEXT", "<|endoftext|>")]}, True, True),
    ):  # fmt: skip
        change(path, post_processor=part)
        vocabulary = vocabulary_of(read(path), path, CONFIG.vocab_size, 0, 0)
        assert (vocabulary.add_bos, vocabulary.add_eos) == (begins, ends)
        assert begins_with(part, "<|endoftext|>") == begins
    for part in (
        frame("TEXT", "a"), frame("a", "TEXT"), {"type": "BertProcessing", "sep": ["a", 65]},
        {"type": "Sequence", "processors": [frame("<|endoftext|>", "<|endoftext|>", "TEXT")]},
    ):  # fmt: skip
        change(path, post_processor=part)
        with pytest.raises(DataError, match="a GGUF file knows only the tokens that begin and end one") as caught:
            export(source, "gguf", tmp_path / "out.gguf")
        assert "--to hf" in (caught.value.hint or "")


def test_a_pipe_is_no_model(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="not a run folder, a model folder or a GGUF file"):
        resolve_model(tmp_path / "pipe")


def test_a_file_that_is_cut_off(source: Path, tmp_path: Path) -> None:
    raw = export(source, "gguf", tmp_path / "m.gguf").path.read_bytes()
    for size in (4, 10, 23):
        (tmp_path / "cut.gguf").write_bytes(raw[:size])
        with pytest.raises(DataError, match="damaged GGUF file: ends where"):
            resolve_model(tmp_path / "cut.gguf")
    (tmp_path / "cut.gguf").write_bytes(raw[:2])
    with pytest.raises(DataError, match="not a GGUF file"):
        read_gguf(tmp_path / "cut.gguf")


def test_tensors_that_share_their_bytes(source: Path, tmp_path: Path) -> None:
    """A small file could become a model that fills the disk."""
    raw = (source / "model.safetensors").read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    del header["__metadata__"]
    for entry in header.values():
        entry["data_offsets"] = [0, entry["data_offsets"][1] - entry["data_offsets"][0]]
    largest = max(entry["data_offsets"][1] for entry in header.values())
    text = json.dumps(header).encode()
    (tmp_path / "shared.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(largest))
    with pytest.raises(DataError, match="tensors that overlap"):
        read_header(tmp_path / "shared.safetensors")
    gguf = bytearray(export(source, "gguf", tmp_path / "m.gguf").path.read_bytes())
    tensors = read_gguf(tmp_path / "m.gguf").tensors
    data = min(tensor.offset for tensor in tensors.values())
    for name in tensors:
        # Behind the name: dimensions (4 + 8 each), type (4), offset (8).
        at = gguf.index(name.encode(), 0, data) + len(name)
        at += 4 + 8 * len(tensors[name].shape) + 4
        gguf[at : at + 8] = bytes(8)
    largest = max(tensor.nbytes for tensor in tensors.values())
    (tmp_path / "shared.gguf").write_bytes(gguf[: data + largest])
    with pytest.raises(DataError, match="tensors that overlap"):
        read_gguf(tmp_path / "shared.gguf")
