"""Models for the tests of export and import: one that was trained, and folders with random weights of any shape."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import symlm
from symlm import _symlm
from symlm.config.engine import model_shape
from symlm.config.model_config import ModelConfig
from symlm.model.tensors import Outgoing, from_floats, write_tensors

SHAPE = dict(
    vocab_size=300, hidden_size=64, intermediate_size=96, num_layers=2, num_heads=4, num_kv_heads=2, seq_len=48
)


def train_tiny(folder: Path, **changes: object) -> Path:
    """A run of four updates in `folder`; gives the run folder."""
    text = folder / "words.txt"
    words = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "naïve", "北京", "42", "it's"]
    lines = (" ".join(words[(i * k + k) % len(words)] for k in range(1, 12)) + "." for i in range(1200))
    text.write_text("\n".join(lines), encoding="utf-8")
    settings = {**SHAPE, "max_steps": 4, "batch_size": 12, "threads": 1, "sample_every": 0, "progress": "off"}
    config = symlm.TrainConfig(out_dir=str(folder / "run"), **{**settings, **changes})  # type: ignore[arg-type]
    return symlm.Trainer(config, data=[text]).fit().path


def train_apart(folder: Path) -> Path:
    """As `train_tiny`, with a separate token cache in the folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYMLM_CACHE_DIR", str(folder / "cache"))
        return train_tiny(folder)


def random_folder(
    folder: Path, tokenizer: Path, config: ModelConfig, dtype: str = "F32", scale: float = 0.3, seed: int = 0
) -> Path:
    """A folder of transformers with random weights and the tokenizer of the file `tokenizer`."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    table = _symlm.parameter_table(model_shape(config))
    tensors = []
    for parameter in table:
        name, shape = parameter.name, parameter.shape
        values = random.normal(0, scale, shape).astype(np.float32)
        if len(shape) == 1:
            values = (1 + values / 10).astype(np.float32)
        raw = from_floats(values, dtype, name)
        tensors.append(Outgoing(name, dtype, tuple(shape), lambda raw=raw: raw))  # type: ignore[misc]
    with (folder / "model.safetensors").open("wb") as file:
        write_tensors(file, tensors)
    (folder / "config.json").write_text(json.dumps(config.to_hf()))
    (folder / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    return folder
