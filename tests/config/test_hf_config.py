"""`config.json` of transformers: what is read, what is written, what is refused."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from elsewhere import BEGIN, llama3_tokenizer, metaspace_tokenizer
from symlm import _symlm
from symlm.config.engine import model_shape
from symlm.config.model_config import ModelConfig
from symlm.config.rope import RopeScaling
from symlm.config.train_config import TrainConfig
from symlm.errors import DataError, UsageError
from symlm.generate.generator import Generator
from symlm.model.tokenizer import load_tokenizer

SCALING = RopeScaling(
    factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64
)  # fmt: skip
MODEL = ModelConfig(
    vocab_size=300,
    hidden_size=16,
    intermediate_size=24,
    num_layers=1,
    num_heads=4,
    num_kv_heads=2,
    seq_len=256,
    rope_theta=500000.0,
    tie_embeddings=False,
    rope_scaling=SCALING,
    bos_token_id=7,
    eos_token_ids=(9, 11),
)


def read(folder: Path, raw: dict[str, Any], generation: dict[str, Any] | None = None) -> ModelConfig:
    """What `from_hf` makes of a folder with these files."""
    (folder / "config.json").write_text(json.dumps(raw))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return ModelConfig.from_hf(folder / "config.json")


@pytest.mark.parametrize(
    "model",
    [
        TrainConfig().model,
        MODEL,
        dataclasses.replace(MODEL, bos_token_id=None, eos_token_ids=()),
        dataclasses.replace(MODEL, rope_scaling=None),
    ],
    ids=["preset", "llama3", "no ids", "no scaling"],
)
def test_what_is_written_is_read_again(model: ModelConfig, tmp_path: Path) -> None:
    assert read(tmp_path, model.to_hf()) == model


def test_old_and_new_rope_fields_mean_the_same(tmp_path: Path) -> None:
    whole = MODEL.to_hf()
    old = {name: value for name, value in whole.items() if name != "rope_parameters"}
    new = {name: value for name, value in whole.items() if name not in ("rope_theta", "rope_scaling", "torch_dtype")}
    assert read(tmp_path, old) == read(tmp_path, new) == MODEL


def test_what_transformers_leaves_out_has_its_defaults(tmp_path: Path) -> None:
    raw = {name: value for name, value in MODEL.to_hf().items() if name not in (
        "rms_norm_eps", "rope_theta", "rope_parameters", "rope_scaling", "num_key_value_heads", "head_dim",
        "tie_word_embeddings", "bos_token_id", "eos_token_id", "attention_bias", "mlp_bias",
    )}  # fmt: skip
    model = read(tmp_path, raw)
    assert (model.rms_norm_eps, model.rope_theta, model.num_kv_heads, model.tie_embeddings) == (1e-6, 1e4, 4, False)
    assert (model.bos_token_id, model.eos_token_ids, model.rope_scaling) == (1, (2,), None)


def test_further_ends_come_from_the_generation_config(tmp_path: Path) -> None:
    raw = MODEL.to_hf() | {"eos_token_id": 9}
    assert read(tmp_path, raw, {"eos_token_id": [13, 9, 14]}).eos_token_ids == (9, 13, 14)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "mistral"}, "mistral"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"attention_bias": True, "mlp_bias": True}, "mlp_bias True"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"sliding_window": 4096}, "sliding_window 4096"),
        ({"quantization_config": {"quant_method": "gptq"}}, "gptq"),
        ({"head_dim": 8}, "head_dim 8"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "'yarn'"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 4.0}}, "'linear'"),
        ({"rope_scaling": None, "rope_parameters": {"rope_type": "llama3", "factor": 4.0}}, "low_freq_factor"),
        ({"rope_parameters": {**SCALING.as_dict(), "rope_type": "llama3", "high_freq_factor": 1.0}}, "high_freq"),
        ({"rope_scaling": {"rope_type": "default", "partial_rotary_factor": 0.5}, "rope_parameters": None}, "partial"),
        ({"eos_token_id": [1, 300]}, "eos_token_id"),
        ({"bos_token_id": -1}, "bos_token_id"),
        ({"eos_token_id": list(range(100))}, "100 tokens"),
    ],
)
def test_what_is_not_supported_is_named(change: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=named) as caught:
        read(tmp_path, MODEL.to_hf() | change)
    assert str(tmp_path / "config.json") in caught.value.message


def test_ids_beyond_the_vocabulary_are_refused() -> None:
    with pytest.raises(UsageError, match="eos_token_ids"):
        dataclasses.replace(MODEL, eos_token_ids=(300,))


class Scripted:
    """Stands in for the engine: it draws the tokens it was given."""

    repeated = 0

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = tokens

    def stream_behind(self, tokenizer: object, text: str, settings: _symlm.SampleSettings) -> Scripted:
        stop = settings.stop_ids
        return Scripted(list(itertools.takewhile(lambda token: token not in stop, self.tokens)))

    def __iter__(self) -> Iterator[int]:
        return iter(self.tokens)


class Letters:
    """Stands in for a tokenizer: token n is letter n."""

    def decode_bytes(self, ids: list[int]) -> bytes:
        return bytes(id_ + ord("a") for id_ in ids)


def test_a_text_ends_at_any_of_the_ends() -> None:
    def text(tokens: list[int], model: ModelConfig = MODEL) -> str:
        generator = Generator(Scripted(tokens), Letters(), model)  # type: ignore[arg-type]
        return generator.generate("ab")

    assert text([0, 1, 9, 2]) == "ab"
    assert text([0, 1, 2, 11, 2]) == "abc"
    assert text([0, 1, 2], dataclasses.replace(MODEL, eos_token_ids=())) == "abc"
    # Token 0 is one like any other.
    assert text([1, 0, 1]) == "bab"


def test_an_empty_prompt_is_the_start_of_a_text(tmp_path: Path) -> None:
    def opening(model: ModelConfig, file: dict[str, Any]) -> list[int]:
        (tmp_path / "tokenizer.json").write_text(json.dumps(file))
        return load_tokenizer(tmp_path / "tokenizer.json", model=model).encode_prompt("")

    assert opening(MODEL, metaspace_tokenizer()) == [7]
    assert opening(dataclasses.replace(MODEL, bos_token_id=None), metaspace_tokenizer()) == [9]
    assert opening(MODEL, llama3_tokenizer()) == [BEGIN]
    assert opening(dataclasses.replace(MODEL, bos_token_id=None, eos_token_ids=()), metaspace_tokenizer()) == [0]


def test_the_engine_takes_the_shape_as_it_is_sent() -> None:
    assert _symlm.flops_per_token(model_shape(dataclasses.replace(MODEL, rope_scaling=None))) > 0
