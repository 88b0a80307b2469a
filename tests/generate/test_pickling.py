"""Objects of the Python interface in other processes: they arrive as they were, or say why they cannot."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import symlm
from elsewhere import BEGIN, TEXT, Elsewhere, llama3_tokenizer, make_model, metaspace_tokenizer, write_tensors
from exporting import train_apart
from symlm import _symlm
from symlm.errors import DataError, UsageError
from symlm.export.write import export
from symlm.generate.generator import Generator
from symlm.model.resolve import resolve_model
from test_peft_adapter import make_adapter

IDS = [BEGIN, 5, 6, 7]
WAYS: list[Callable[[Any], Any]] = [lambda value: pickle.loads(pickle.dumps(value)), copy.copy, copy.deepcopy]


@pytest.fixture
def made(tmp_path: Path) -> Elsewhere:
    """A model from elsewhere."""
    return make_model(tmp_path / "model")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four updates."""
    return train_apart(tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize("way", WAYS)
def test_tokenizers(way: Callable[[Any], Any], made: Elsewhere, run: Path) -> None:
    found = [symlm.Tokenizer.from_file(str(run / "tokenizer.json")), resolve_model(run).load_tokenizer()]
    for kind in (llama3_tokenizer, metaspace_tokenizer):
        (made.folder / "tokenizer.json").write_text(json.dumps(kind()))
        found.append(resolve_model(made.folder).load_tokenizer())
        found.append(_symlm.Tokenizer.of_model(str(made.folder / "tokenizer.json"), None, None))
    for tokenizer in found:
        other = way(tokenizer)
        assert type(other) is symlm.Tokenizer
        for name in ("sha256", "vocab_size", "eot_id", "document_start"):
            assert getattr(other, name) == getattr(tokenizer, name)
        assert other.encode(TEXT) == tokenizer.encode(TEXT)
        assert other.encode_prompt(TEXT) == tokenizer.encode_prompt(TEXT)
        for token in (0, 260, 265, 271, 272, 299, 300):
            # Rows of the embedding without a token, and what is beyond them.
            assert decoded(other, token) == decoded(tokenizer, token)


def decoded(tokenizer: symlm.Tokenizer, token: int) -> bytes | type[Exception]:
    """What a token decodes to."""
    try:
        return tokenizer.decode_bytes([token])
    except symlm.SymlmError as error:
        return type(error)


@pytest.mark.parametrize("way", WAYS)
def test_generators(way: Callable[[Any], Any], made: Elsewhere, run: Path, tmp_path: Path) -> None:
    export(made.folder, "hf", str(tmp_path / "hf"))
    export(run, "gguf", str(tmp_path / "x.gguf"))
    adapter = make_adapter(tmp_path / "adapter", made)
    for path in (made.folder, run, run / "checkpoints/step-00000004", tmp_path / "hf", tmp_path / "x.gguf", adapter):
        generator = Generator.from_pretrained(path)
        other = way(generator)
        assert other.logits(IDS).tobytes() == generator.logits(IDS).tobytes()
        assert other.generate("the", max_new_tokens=5, seed=3) == generator.generate("the", max_new_tokens=5, seed=3)
        assert (other.model, other.note) == (generator.model, generator.note)


def greedy(generator: Generator) -> str:
    """The work of another process."""
    return generator.generate("the", max_new_tokens=5, temperature=0)


def test_other_processes(made: Elsewhere, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made.folder.parent)
    generator = Generator.from_pretrained("model")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(greedy, (generator,)) == greedy(generator)


def test_files_must_be_what_they_were(made: Elsewhere, tmp_path: Path) -> None:
    generator = Generator.from_pretrained(made.folder)
    kept = pickle.dumps(generator)
    weights = made.folder / "model.safetensors"
    raw = weights.read_bytes()
    changed = {name: value * 2 for name, value in made.parameters.items()}
    write_tensors(weights, changed)
    with pytest.raises(DataError, match="not the model that was pickled"):
        pickle.loads(kept)
    os.utime(weights, (1, 1))
    with pytest.raises(DataError, match="cannot be pickled: changed since it was loaded"):
        pickle.dumps(generator)
    # In this process it keeps what it has.
    assert copy.copy(generator).logits(IDS).tobytes() == generator.logits(IDS).tobytes()
    weights.write_bytes(raw)
    pickle.loads(kept)
    made.folder.rename(tmp_path / "gone")
    with pytest.raises(symlm.UserError, match="no such model"):
        pickle.loads(kept)


def test_a_model_in_training_says_so(made: Elsewhere) -> None:
    loaded = Generator.from_pretrained(made.folder)
    training = Generator(loaded._engine, loaded.tokenizer, loaded.model)
    with pytest.raises(UsageError, match="a generator of a model in training cannot be pickled") as caught:
        pickle.dumps(training)
    assert "Generator.from_pretrained" in str(caught.value.hint)
    assert copy.deepcopy(training).logits(IDS).tobytes() == loaded.logits(IDS).tobytes()
    for own in (loaded._engine, loaded.stream("the")):
        with pytest.raises(TypeError, match="cannot pickle"):
            pickle.dumps(own)


@pytest.mark.parametrize("way", WAYS)
def test_everything_else(way: Callable[[Any], Any], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMLM_CACHE_DIR", str(tmp_path / "cache"))
    text = run.parent / "words.txt"
    config = symlm.TrainConfig(
        preset="tiny", vocab_size=300, seq_len=16, batch_size=4, max_steps=1, sample_every=0, progress="off",
        out_dir=str(tmp_path / "again"),
    )  # fmt: skip
    assert way(config) == config
    trainer = symlm.Trainer(config, data=[text], callbacks=[way(symlm.TensorBoard(str(tmp_path / "board")))])
    finished = way(trainer).fit()
    assert way(finished) == finished
    used = symlm.Trainer(symlm.TrainConfig(**{**vars(config), "out_dir": str(tmp_path / "used")}), data=[text])
    used.fit()
    assert way(used).config == used.config
    result = symlm.evaluate(run, text, progress="off", max_windows=2)
    assert way(result) == result
    model = Generator.from_pretrained(run).model
    assert way(model) == model
    errors = [kind("what", "how") for kind in (symlm.UserError, symlm.UsageError, DataError, symlm.MemoryPlanError,
              symlm.NanError, symlm.DifferenceError, symlm.InternalError)]  # fmt: skip
    for error in (*errors, symlm.Interrupted(15, str(run), 3)):
        other = way(error)
        assert type(other) is type(error)
        assert (vars(other), str(other)) == (vars(error), str(error))
