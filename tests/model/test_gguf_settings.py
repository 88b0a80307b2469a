"""Metadata of a GGUF file that contradict its tensors or each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from symlm.config.model_config import ModelConfig
from symlm.config.rope import RopeScaling
from symlm.errors import DataError
from symlm.model.gguf.layout import rope_factors
from test_gguf import edited, model, opened, tokenizer, with_value, without

__all__ = ["model", "tokenizer"]

Change = Callable[[gguf.GGUFWriter, gguf.GGUFReader], set[str]]


def both(*changes: Change) -> Change:
    """Several edits of one file."""

    def change(writer: gguf.GGUFWriter, source: gguf.GGUFReader) -> set[str]:
        return set().union(*(one(writer, source) for one in changes))

    return change


REFUSED: list[tuple[str, Any, str, str]] = [
    ("llama.rope.scaling.attn_factor", 1.2, "FLOAT32", "attn_factor 1.2"),
    ("llama.rope.scaling.alpha", 1000.0, "FLOAT32", "alpha 1000.0 is not supported, expected 0.0"),
    ("llama.rope.scaling.factor", 4.0, "FLOAT32", "factor 4.0 is not supported, expected 1.0"),
    ("llama.rope.scale_linear", 4.0, "FLOAT32", "scale_linear 4.0 is not supported"),
    ("llama.rope.scaling.type", "linear", "STRING", "'linear' is not supported, expected 'none'"),
    ("llama.rope.scaling.type", "llama3", "STRING", "'llama3' is not supported, expected 'none'"),
    ("llama.rope.dimension_count", 8, "UINT32", "dimension_count 8 is not supported"),
    ("llama.attention.key_length", 32, "UINT32", "key_length 32 is not supported"),
    ("llama.attention.value_length", 32, "UINT32", "value_length 32 is not supported"),
    ("llama.attention.head_count_kv", 0, "UINT32", "head_count_kv: found 0"),
    ("llama.attention.head_count_kv", 4, "UINT32", "attn_k.weight has the shape"),
    ("llama.vocab_size", 299, "UINT32", "vocab_size is 299, token_embd.weight has rows for 300 tokens"),
    ("llama.block_count", 1, "UINT32", "blk.1."),
    ("tokenizer.ggml.eot_token_id", 300, "UINT32", "eot_token_id: found 300"),
]


@pytest.mark.parametrize(("key", "value", "kind", "named"), REFUSED, ids=[f"{case[0]} {case[1]}" for case in REFUSED])
def test_what_contradicts_the_tensors_is_named(
    key: str, value: Any, kind: str, named: str, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        opened(edited(model, tmp_path / "x.gguf", with_value(key, value, kind)), tmp_path / "out")
    assert named in caught.value.message


def shape(model: Path, folder: Path, change: Change) -> ModelConfig:
    """What a changed file says, as read from the folder that it becomes."""
    folder.mkdir(exist_ok=True)
    return ModelConfig.from_hf(opened(edited(model, folder / "x.gguf", change), folder / "out") / "config.json")


def test_every_end_ends_a_text(model: Path, tmp_path: Path) -> None:
    """Each of llama.cpp's keys names one; together they are the ends."""
    ends = {f"tokenizer.ggml.{name}_token_id": id_ for name, id_ in (("eos", 7), ("eot", 9), ("eom", 7))}
    found = shape(model, tmp_path, both(*(with_value(key, id_, "UINT32") for key, id_ in ends.items())))
    assert found.eos_token_ids == (7, 9)


def test_a_base_that_is_missing_is_that_of_llama_cpp(model: Path, tmp_path: Path) -> None:
    assert shape(model, tmp_path, without("llama.rope.freq_base")).rope_theta == 10000.0


def test_factors_count_and_not_what_is_said_about_them(model: Path, tmp_path: Path) -> None:
    scaling = RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
    plain = shape(model, tmp_path, without())
    said = {f"symlm.rope_scaling.{name}": float(value) for name, value in scaling.as_dict().items()}

    def change(factor: float, tensor: bool) -> Change:
        def write(writer: gguf.GGUFWriter, source: gguf.GGUFReader) -> set[str]:
            if tensor:
                writer.add_tensor("rope_freqs.weight", np.asarray(rope_factors(plain, scaling), dtype=np.float32))
            for key, value in {**said, "symlm.rope_scaling.factor": factor}.items():
                writer.add_float32(key, value)
            return {"rope_freqs.weight", *said}

        return write

    assert shape(model, tmp_path / "a", change(8.0, tensor=True)).rope_scaling == scaling
    # Without the tensor llama.cpp stretches nothing.
    assert shape(model, tmp_path / "b", change(8.0, tensor=False)).rope_scaling is None
    with pytest.raises(DataError, match=r"rope_freqs\.weight holds rotary factors that follow from no scaling"):
        shape(model, tmp_path / "c", change(4.0, tensor=True))
