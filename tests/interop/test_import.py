"""Models that transformers made, with random weights, give the same logits here; and its tokenizer the same ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elsewhere import BEGIN, END, TEXT, llama3_tokenizer, metaspace_tokenizer
from symlm.evaluation.windows import evaluate
from symlm.generate.generator import Generator
from symlm.model.resolve import resolve_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.interop

SHAPE: dict[str, Any] = {
    "vocab_size": 272, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 8,
    "num_key_value_heads": 8, "max_position_embeddings": 512, "initializer_range": 0.08, "bos_token_id": BEGIN,
    "eos_token_id": END, "tie_word_embeddings": False, "rms_norm_eps": 1e-5,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}  # fmt: skip
KINDS: dict[str, tuple[dict[str, Any], str, str | None]] = {
    "MHA, untied": ({}, "float32", None),
    "MHA, tied": ({"tie_word_embeddings": True}, "float32", None),
    "GQA": ({"num_key_value_heads": 2}, "float32", None),
    "GQA, tied, f16": ({"num_key_value_heads": 4, "tie_word_embeddings": True}, "float16", None),
    "llama3 rope": ({"rope_parameters": LLAMA3, "num_key_value_heads": 2}, "float32", None),
    "several files": ({"num_key_value_heads": 1}, "float32", "100KB"),
    "bf16": ({"num_key_value_heads": 2}, "bfloat16", None),
    "other rope_theta": ({"rope_parameters": {"rope_type": "default", "rope_theta": 777.0}}, "float32", None),
}


def save(folder: Path, change: dict[str, Any], dtype: str = "float32", shard: str | None = None) -> None:
    """Leave a model of transformers in a folder, with a tokenizer."""
    torch.manual_seed(7)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**SHAPE, **change})).to(getattr(torch, dtype))
    model.save_pretrained(folder, **({} if shard is None else {"max_shard_size": shard}))
    (folder / "tokenizer.json").write_text(json.dumps(llama3_tokenizer()))


def opened(folder: Path, dtype: str = "float32") -> Any:
    """The model of a folder, computing in a type."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()


def logits_of(model: Any, ids: list[int]) -> np.ndarray[Any, Any]:
    """Logits of transformers, [len(ids), vocabulary]."""
    with torch.no_grad():
        result: np.ndarray[Any, Any] = model(torch.tensor([ids])).logits[0].float().numpy()
    return result


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    change, dtype, shard = KINDS[kind]
    save(tmp_path, change, dtype, shard)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard is not None)
    ids = [BEGIN, *np.random.default_rng(3).integers(0, 272, 299).tolist()]
    ours = Generator.from_pretrained(tmp_path).logits(ids)
    single = float(np.abs(ours - logits_of(opened(tmp_path), ids)).max())
    print(f"\n{kind}: {single:.2e} (logits up to {np.abs(ours).max():.1f})", end="")
    assert single <= 2e-4
    if dtype == "bfloat16":
        own = float(np.abs(ours - logits_of(opened(tmp_path, dtype), ids)).max())
        print(f", against bf16 arithmetic {own:.2e}", end="")


@pytest.mark.parametrize("kind", [llama3_tokenizer, metaspace_tokenizer])
def test_ids_are_those_of_auto_tokenizer(kind: Any, tmp_path: Path) -> None:
    save(tmp_path, {})
    (tmp_path / "tokenizer.json").write_text(json.dumps(kind()))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours = resolve_model(tmp_path).load_tokenizer()
    assert ours.encode_prompt(TEXT) == theirs(TEXT)["input_ids"]
    assert ours.encode(TEXT) == theirs(TEXT, add_special_tokens=False)["input_ids"]


def test_the_loss_is_that_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMLM_CACHE_DIR", str(tmp_path / "cache"))
    save(tmp_path / "model", {"num_key_value_heads": 2, "max_position_embeddings": 256})
    model = opened(tmp_path / "model")
    rng = np.random.default_rng(1)
    words = ["the", "cat", "sat", "on", "mat", "12", "\n"]
    text = " ".join(rng.choice(words, 30_000).tolist())[:100_000]
    (tmp_path / "text.txt").write_text(text)
    ours = evaluate(tmp_path / "model", tmp_path / "text.txt", progress="off").loss
    ids = [BEGIN, *resolve_model(tmp_path / "model").load_tokenizer().encode(text)]
    windows = torch.tensor([ids[i : i + 257] for i in range(0, len(ids) - 256, 256)])
    with torch.no_grad():
        rows = [model(part[:, :-1]).logits.double() for part in windows.split(16)]
    theirs = float(torch.nn.functional.cross_entropy(torch.cat(rows).flatten(0, 1), windows[:, 1:].flatten()))
    print(f"\nloss {ours:.7f}, of transformers {theirs:.7f}, relative {abs(ours / theirs - 1):.1e}", end="")
    assert ours == pytest.approx(theirs, rel=1e-5)
