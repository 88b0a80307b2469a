"""8-bit weights: near those in f32, equal bits whatever the instructions, and Q8_0 files as they are."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from exporting import train_apart
from symlm import _symlm
from symlm.config.engine import model_shape
from symlm.errors import DataError, UsageError
from symlm.export.write import export
from symlm.generate.generator import Generator


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_apart(tmp_path_factory.mktemp("run"))


IDS = [3, 1, 4, 1, 5, 9, 2, 6]


def loss(generator: Generator, ids: list[int]) -> float:
    logits = generator.logits(ids)[:-1].astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    chosen = logits[np.arange(len(ids) - 1), ids[1:]] - np.log(np.exp(logits).sum(axis=1))
    return float(-chosen.mean())


def test_the_loss_is_that_of_f32_within_half_a_per_cent(run: Path) -> None:
    plain, small = Generator.from_pretrained(run), Generator.from_pretrained(run, weights="q8")
    ids = [(7 * i) % (plain.model.vocab_size - 1) + 1 for i in range(plain.model.seq_len)]
    assert small.engine.token_bytes * 3 < plain.engine.token_bytes
    assert 0 < abs(loss(small, ids) - loss(plain, ids)) < 0.005


def test_a_q8_0_file_is_taken_as_it_is(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    export(run, "gguf", path, dtype="q8_0")
    from_file = Generator.from_pretrained(path, weights="q8")
    assert from_file.files is not None
    # Nothing was unpacked as f32.
    assert not list(from_file.files.folder.glob("*.safetensors"))
    own = Generator.from_pretrained(run, weights="q8")
    assert (from_file.logits(IDS) == own.logits(IDS)).all()
    # A file in f32 is quantised to the same integers.
    other = tmp_path / "f32.gguf"
    export(run, "gguf", other, dtype="f32")
    assert (Generator.from_pretrained(other, weights="q8").logits(IDS) == own.logits(IDS)).all()


def test_pickling_keeps_the_kind_of_weights(run: Path) -> None:
    small = Generator.from_pretrained(run, weights="q8")
    again = pickle.loads(pickle.dumps(small))
    assert again.weights == "q8"
    assert (again.logits(IDS) == small.logits(IDS)).all()


def test_bits_are_equal_whatever_the_instructions(run: Path) -> None:
    program = (
        "import sys; from symlm.generate.generator import Generator as G;"
        f"g = G.from_pretrained(sys.argv[1], weights='q8'); sys.stdout.write(g.logits({IDS}).tobytes().hex())"
    )
    found = set()
    for isa in _symlm.available_isas():
        done = subprocess.run(
            [sys.executable, "-c", program, str(run)],
            capture_output=True,
            check=True,
            env={**os.environ, "SYMLM_ISA": isa},
        )
        found.add(done.stdout)
    assert len(found) == 1


def test_other_kinds_are_refused(run: Path) -> None:
    with pytest.raises(UsageError, match="weights: found 'q4', expected f32 or q8"):
        Generator.from_pretrained(run, weights="q4")


def test_weights_that_do_not_fit_are_refused(run: Path) -> None:
    weights = _symlm.Weights8(model_shape(Generator.from_pretrained(run).model))
    for name, raw, message in (
        ("none", b"", "no tensor none"),
        ("model.norm.weight", b"\0" * 4, "model.norm.weight: found 1 values, expected"),
        ("model.norm.weight", b"\0" * 3, "found 3 bytes, expected f32"),
    ):
        with pytest.raises(DataError, match=message):
            weights.set_values(name, raw)
    for name in ("model.norm.weight", "model.embed_tokens.weight"):
        with pytest.raises(DataError, match="8-bit blocks"):
            weights.set_blocks(name, b"\0" * 34)
    with pytest.raises(DataError, match="no tensor model"):
        weights.finish()
    with pytest.raises(UsageError, match="a model already"):
        weights.finish()
