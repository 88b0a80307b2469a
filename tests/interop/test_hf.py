"""Exported folders in transformers: ids, logits, loss, and the way back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import symlm
from exporting import random_folder
from symlm.config.model_config import ModelConfig
from symlm.export.write import export
from symlm.model.tensors import read_tensors

pytestmark = pytest.mark.interop

MOST_LOGITS, MOST_LOSS = 2e-4, 1e-5
LOSS_BYTES = 100_000


@pytest.fixture(scope="module")
def folder(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported model."""
    return export(run, "hf", tmp_path_factory.mktemp("hf") / "model").path


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    """The model there."""
    torch.set_num_threads(1)
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    """The tokenizer there."""
    return transformers.AutoTokenizer.from_pretrained(folder)


def logits(model: Any, ids: list[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Logits after each token."""
    with torch.no_grad():
        found: np.ndarray[Any, np.dtype[np.float32]] = model(torch.tensor([ids])).logits[0].float().numpy()
    return found


def test_logits_and_ids(generator: symlm.Generator, model: Any, tokenizer: Any, prompts: list[str]) -> None:
    assert model.dtype == torch.float32
    worst = 0.0
    for prompt in prompts:
        ids = generator.tokenizer.encode(prompt)
        assert tokenizer(prompt)["input_ids"] == ids
        assert tokenizer.decode(ids) == prompt
        worst = max(worst, float(np.abs(generator.logits(ids) - logits(model, ids)).max()))
    print(f"\n20 prompts in transformers {transformers.__version__}: largest difference of a logit {worst:.3g}")
    assert worst <= MOST_LOGITS


TEXTS = st.lists(
    st.sampled_from(["it's", " they'll", "  ", "\n\n", "\r\n", " x", "123", "<|", "|>", "end", "é", "北京", "😀", "\t"])
    | st.text(max_size=6),
    max_size=12,
).map("".join)


@settings(max_examples=1000)
@given(text=TEXTS)
def test_ids_of_any_text(generator: symlm.Generator, tokenizer: Any, text: str) -> None:
    ids = generator.tokenizer.encode(text)
    assert tokenizer(text)["input_ids"] == ids
    assert tokenizer.decode(ids) == text


def test_the_token_between_documents(generator: symlm.Generator, tokenizer: Any) -> None:
    """There its text is the token, unless one asks for what symlm does: it is plain text."""
    text = "a<|endoftext|>b"
    plain = generator.tokenizer.encode(text)
    assert 0 not in plain
    assert tokenizer(text, split_special_tokens=True)["input_ids"] == plain
    assert tokenizer(text)["input_ids"].count(0) == 1
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == tokenizer.pad_token_id == 0


def test_greedy_text(generator: symlm.Generator, model: Any, tokenizer: Any, prompts: list[str]) -> None:
    prompt = prompts[8]
    inputs = tokenizer(prompt, return_tensors="pt")
    made = model.generate(inputs.input_ids, attention_mask=inputs.attention_mask, do_sample=False, max_new_tokens=40)
    there = tokenizer.decode(made[0][inputs.input_ids.shape[1] :], skip_special_tokens=True)
    assert generator.generate(prompt, temperature=0, max_new_tokens=40).startswith(there.rstrip("\ufffd"))


def test_loss(run: Path, generator: symlm.Generator, model: Any, held: str, tmp_path: Path) -> None:
    path = tmp_path / "held.txt"
    path.write_bytes(held.encode()[:LOSS_BYTES].decode(errors="ignore").encode())
    ours = symlm.evaluate(run, path, threads=1, progress="off")
    ids = generator.tokenizer.encode(path.read_text(encoding="utf-8"))
    assert generator.model is not None
    length = generator.model.seq_len
    losses = []
    for start in range(0, len(ids) - length, length):
        window = torch.tensor(ids[start : start + length + 1])
        with torch.no_grad():
            found = model(window[None, :-1]).logits[0].double()
        losses.append(torch.nn.functional.cross_entropy(found, window[1:], reduction="none"))
    theirs = torch.cat(losses)
    assert len(theirs) == ours.tokens
    mean = theirs.mean().item()
    relative = abs(ours.loss - mean) / mean
    print(f"\nloss on {LOSS_BYTES:,} bytes: {ours.loss:.7f} here, {mean:.7f} there, {relative:.2g} relative")
    assert relative <= MOST_LOSS


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("tied", [True, False])
def test_round_trip(folder: Path, tmp_path: Path, dtype: str, tied: bool) -> None:
    """Made there, through symlm, and read there again: the same bytes."""
    config = transformers.LlamaConfig(
        vocab_size=1100, hidden_size=96, intermediate_size=160, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, tie_word_embeddings=tied, bos_token_id=0, eos_token_id=0, max_position_embeddings=64,
        rms_norm_eps=1e-6,
    )  # fmt: skip
    torch.manual_seed(1)
    made = transformers.LlamaForCausalLM(config).to(getattr(torch, dtype))
    # Small parts, so that some of them are in several files.
    made.save_pretrained(tmp_path / "there", max_shard_size="100KB" if tied else "1GB")
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "there")
    done = export(tmp_path / "there", "hf", tmp_path / "back")
    assert done.difference == 0.0
    assert (tmp_path / "there" / "model.safetensors").exists() != tied
    before, after = read_tensors(tmp_path / "there"), read_tensors(tmp_path / "back")
    assert {name: tensor.load().tobytes() for name, tensor in before.items()} == {
        name: tensor.load().tobytes() for name, tensor in after.items()
    }
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back")
    assert again.dtype == getattr(torch, dtype)
    state = again.state_dict()
    for name, values in made.state_dict().items():
        assert torch.equal(values, state[name]), name


def test_narrow_weights(run: Path, generator: symlm.Generator, prompts: list[str], tmp_path: Path) -> None:
    for dtype in ("f16", "bf16"):
        path = export(run, "hf", tmp_path / dtype, dtype=dtype).path
        narrow = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        here = symlm.Generator.from_pretrained(path)
        ids = generator.tokenizer.encode(prompts[-1])
        assert float(np.abs(here.logits(ids) - logits(narrow, ids)).max()) <= MOST_LOGITS


def test_config_of_a_model_with_everything(tmp_path: Path, folder: Path) -> None:
    """What this package writes is what transformers reads: every field that changes what is computed."""
    config = ModelConfig(
        vocab_size=1024, hidden_size=64, intermediate_size=96, num_layers=1, num_heads=4, num_kv_heads=1, seq_len=77,
        rope_theta=500000.0, rms_norm_eps=3e-6, tie_embeddings=False,
    )  # fmt: skip
    path = random_folder(tmp_path / "in", folder / "tokenizer.json", config)
    out = export(path, "hf", tmp_path / "out").path
    loaded = transformers.AutoConfig.from_pretrained(out)
    for name, value in json.loads((out / "config.json").read_text()).items():
        if name not in ("rope_theta", "torch_dtype", "dtype"):
            assert getattr(loaded, name) == value, name
    model = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
    ids = list(range(3, 70))
    here = symlm.Generator.from_pretrained(path).logits(ids)
    assert float(np.abs(here - logits(model, ids)).max()) <= MOST_LOGITS
