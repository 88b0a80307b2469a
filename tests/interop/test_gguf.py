"""Exported files in llama.cpp: ids, logits, greedy text, perplexity."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import symlm
from exporting import random_folder
from symlm.config.model_config import ModelConfig
from symlm.config.rope import RopeScaling
from symlm.config.sampling import Sampling
from symlm.export.write import export
from symlm.model.gguf.vocabulary import SPLITTINGS

pytestmark = pytest.mark.interop

MOST_LOGITS = 1e-3
STRINGS = 10_000
PERPLEXITY_BYTES = 200_000
MOST_PERPLEXITY = 0.005

Floats = np.ndarray[Any, np.dtype[np.float32]]


def load(path: Path, context: int = 512, vocab_only: bool = False) -> llama_cpp.Llama:
    """A model in llama.cpp, with a cache in f32 and logits of every position."""
    return llama_cpp.Llama(
        str(path), n_ctx=context, n_batch=context, n_ubatch=context, n_threads=1, n_threads_batch=1, logits_all=True,
        type_k=0, type_v=0, vocab_only=vocab_only, verbose=False,
    )  # fmt: skip


def encode(llama: llama_cpp.Llama, text: str) -> list[int]:
    """Ids of a text by the tokenizer in the file."""
    found: list[int] = llama.tokenize(text.encode("utf-8"), add_bos=False, special=False)
    return found


def logits(llama: llama_cpp.Llama, ids: list[int]) -> Floats:
    """Logits after each token."""
    llama.reset()
    llama.eval(ids)
    found: Floats = llama.scores[: len(ids)].copy()
    return found


@pytest.fixture(scope="module")
def file(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported model."""
    return export(run, "gguf", tmp_path_factory.mktemp("gguf") / "model.gguf").path


@pytest.fixture(scope="module")
def llama(file: Path) -> Iterator[llama_cpp.Llama]:
    """The model there."""
    model = load(file)
    yield model
    model.close()


def test_logits_and_ids(generator: symlm.Generator, llama: llama_cpp.Llama, prompts: list[str]) -> None:
    worst = 0.0
    for prompt in prompts:
        ids = generator.tokenizer.encode(prompt)
        assert encode(llama, prompt) == ids
        worst = max(worst, float(np.abs(generator.logits(ids) - logits(llama, ids)).max()))
    print(f"\n20 prompts in llama.cpp (llama-cpp-python {llama_cpp.__version__}): largest difference {worst:.3g}")
    assert worst <= MOST_LOGITS


def test_tokens_that_frame_a_text(llama: llama_cpp.Llama) -> None:
    assert (llama.token_bos(), llama.token_eos()) == (0, 0)
    assert llama.tokenize(b"x", add_bos=True) == llama.tokenize(b"x", add_bos=False)
    assert 0 in llama.tokenize(b"a<|endoftext|>b", add_bos=False, special=True)
    assert 0 not in llama.tokenize(b"a<|endoftext|>b", add_bos=False, special=False)


def test_ids_of_text(generator: symlm.Generator, llama: llama_cpp.Llama, held: str) -> None:
    for start in range(0, len(held), 10_000):
        sample = held[start : start + 10_000]
        assert encode(llama, sample) == generator.tokenizer.encode(sample)


@pytest.fixture(scope="module")
def agreed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """All characters of which llama.cpp and symlm have the same class: letter, number, space, or none of them.

    A vocabulary in which `a`, `1` and `!` merge with every byte shows it: they do so in front of a letter, a number,
    or another character, and are cut off elsewhere.
    """
    folder = tmp_path_factory.mktemp("classes")
    (folder / "text.txt").write_text("ab " * 500)
    symlm._symlm.Corpus.open([str(folder / "text.txt")]).train_tokenizer(257, 1, None).save(str(folder / "t.json"))
    raw = json.loads((folder / "t.json").read_text(encoding="utf-8"))
    vocab = raw["model"]["vocab"]
    single = [token for token in vocab if len(token) == 1]
    raw["model"]["merges"] = [[first, second] for first in "a1!" for second in single]
    for first, second in raw["model"]["merges"]:
        vocab[first + second] = len(vocab)
    (folder / "tokenizer.json").write_text(json.dumps(raw), encoding="utf-8")
    config = ModelConfig(
        vocab_size=len(vocab), hidden_size=8, intermediate_size=8, num_layers=1, num_heads=1, num_kv_heads=1, seq_len=16
    )
    source = random_folder(folder / "in", folder / "tokenizer.json", config)
    llama = load(export(source, "gguf", folder / "classes.gguf").path, vocab_only=True)
    ours = symlm.Tokenizer.from_file(str(folder / "tokenizer.json"))
    newline = ours.encode("\n")[0]
    characters = [chr(c) for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000 and chr(c) not in "\n\r"]
    same = []
    for start in range(0, len(characters), 4000):
        part = characters[start : start + 4000]
        text = "".join(f"a{c}\n1{c}\n!{c}\n" for c in part)
        here, there = (_split(ids, newline) for ids in (ours.encode(text), encode(llama, text)))
        assert len(here) == len(there) == 3 * len(part)
        same += [c for i, c in enumerate(part) if here[3 * i : 3 * i + 3] == there[3 * i : 3 * i + 3]]
    llama.close()
    print(f"\ncharacters whose class differs: {len(characters) - len(same):,} of {len(characters):,}")
    return same


def _split(ids: list[int], at: int) -> list[list[int]]:
    parts: list[list[int]] = [[]]
    for number in ids:
        if number == at:
            parts.append([])
        else:
            parts[-1].append(number)
    return parts[:-1]


def test_ids_of_any_text(generator: symlm.Generator, llama: llama_cpp.Llama, agreed: list[str]) -> None:
    assert len(agreed) > 1_100_000
    common = [c for c in agreed if ord(c) < 0x3000]
    parts = st.one_of(
        st.sampled_from(
            ["'", "'s", "'ll", "'LL", " ", "  ", "\n", "\n\n", "\r\n", "\t", " \n", "the", " and", "12", "<|"]
        ),
        st.sampled_from(common),
        st.sampled_from(agreed),
        st.text(st.sampled_from(common), max_size=6),
    )

    @settings(max_examples=STRINGS)
    @given(text=st.lists(parts, max_size=16).map("".join))
    def check(text: str) -> None:
        assert encode(llama, text) == generator.tokenizer.encode(text)

    check()


def test_greedy_text(generator: symlm.Generator, llama: llama_cpp.Llama, prompts: list[str]) -> None:
    """Token by token as long as the two best logits are further apart than the two programs."""
    assert generator.model is not None
    for prompt in prompts[3:8]:
        ids = generator.tokenizer.encode(prompt)
        count = min(200, generator.model.seq_len - len(ids))
        sampling = Sampling(max_new_tokens=count, temperature=0, top_k=0, top_p=1, min_p=0, seed=1)
        settings = symlm._symlm.SampleSettings(**dataclasses.asdict(sampling), stop_ids=[])
        here = list(generator._engine.stream(ids, settings))
        assert len(here) == count
        llama.reset()
        llama.eval(ids)
        for position, token in enumerate(here):
            scores = llama.scores[llama.n_tokens - 1]
            second, first = np.argsort(scores)[-2:]
            if int(first) != token:
                assert scores[first] - scores[second] <= MOST_LOGITS, (prompt, position)
                assert token == int(second)
            llama.eval([token])


@pytest.mark.parametrize("dtype", ["f16", "bf16", "q8_0"])
def test_narrow_weights(run: Path, prompts: list[str], tmp_path: Path, generator: symlm.Generator, dtype: str) -> None:
    """llama.cpp rounds activations too, so it is near and not equal."""
    path = export(run, "gguf", tmp_path / "model.gguf", dtype=dtype).path
    llama = load(path)
    ids = generator.tokenizer.encode(prompts[-1])
    difference = np.abs(generator.logits(ids) - logits(llama, ids))
    llama.close()
    assert float(difference.max()) < 0.5
    assert float(difference.mean()) < 0.05


def test_perplexity_of_8_bits(file: Path, run: Path, generator: symlm.Generator, held: str, tmp_path: Path) -> None:
    assert generator.model is not None
    text = held.encode()[:PERPLEXITY_BYTES].decode(errors="ignore")
    ids, length = generator.tokenizer.encode(text), generator.model.seq_len
    found = {}
    for dtype, path in (("f32", file), ("q8_0", export(run, "gguf", tmp_path / "q.gguf", dtype="q8_0").path)):
        llama = load(path, context=length)
        losses = []
        for start in range(0, len(ids) - length, length):
            scores = logits(llama, ids[start : start + length]).astype(np.float64)
            target = np.array(ids[start + 1 : start + length + 1])
            highest = scores.max(axis=1, keepdims=True)
            total = highest[:, 0] + np.log(np.exp(scores - highest).sum(axis=1))
            losses.append(total - scores[np.arange(length), target])
        llama.close()
        found[dtype] = float(np.exp(np.concatenate(losses).mean()))
    change = found["q8_0"] / found["f32"] - 1
    print(
        f"\nperplexity on {len(text.encode()):,} bytes: f32 {found['f32']:.4f}, q8_0 {found['q8_0']:.4f}, {change:+.3%}"
    )
    assert abs(change) <= MOST_PERPLEXITY


SCALING = RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=128)


@pytest.mark.parametrize(
    "changes",
    [{}, {"tie_embeddings": False}, {"num_kv_heads": 1}, {"rope_theta": 500000.0, "rope_scaling": SCALING}],
    ids=["plain", "untied", "one key head", "llama3 rope"],
)
def test_every_kind_of_model(run: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    shape: dict[str, Any] = {
        "vocab_size": json.loads((run / "tokenizer.json").read_text())["model"]["vocab"].__len__(), "hidden_size": 128,
        "intermediate_size": 160, "num_layers": 2, "num_heads": 2, "num_kv_heads": 2, "seq_len": 512,
    }  # fmt: skip
    source = random_folder(tmp_path / "in", run / "tokenizer.json", ModelConfig(**{**shape, **changes}), scale=0.08)
    llama = load(export(source, "gguf", tmp_path / "model.gguf").path)
    ids = np.random.default_rng(3).integers(0, shape["vocab_size"], 400).tolist()
    difference = float(np.abs(symlm.Generator.from_pretrained(source).logits(ids) - logits(llama, ids)).max())
    llama.close()
    print(f"\n{changes or 'plain'}: {difference:.3g}")
    assert difference <= MOST_LOGITS


def test_a_vocabulary_without_merges(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("ab " * 500)
    path = tmp_path / "tokenizer.json"
    symlm._symlm.Corpus.open([str(tmp_path / "text.txt")]).train_tokenizer(257, 1, None).save(str(path))
    config = ModelConfig(
        vocab_size=257, hidden_size=32, intermediate_size=32, num_layers=1, num_heads=1, num_kv_heads=1, seq_len=16
    )
    source = random_folder(tmp_path / "in", path, config)
    llama = load(export(source, "gguf", tmp_path / "model.gguf").path, vocab_only=True)
    assert encode(llama, "ab cé") == symlm.Tokenizer.from_file(str(path)).encode("ab cé")
    llama.close()


@pytest.mark.parametrize("pre", SPLITTINGS)
def test_splittings(pre: str, held: str, tmp_path: Path) -> None:
    """Tokenizers made elsewhere, of every kind that has a name: the ids of the library that made them."""
    import tokenizers

    splitting = SPLITTINGS[pre]
    raw = json.loads(tokenizers.Tokenizer(tokenizers.models.BPE(ignore_merges=splitting.ignore_merges)).to_str())
    raw |= {"pre_tokenizer": splitting.pre_tokenizer, "normalizer": splitting.normalizer}
    library = tokenizers.Tokenizer.from_str(json.dumps(raw))
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=800, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    library.train_from_iterator([held], trainer)
    library.decoder = tokenizers.decoders.ByteLevel()
    library.save(str(tmp_path / "tokenizer.json"))
    config = ModelConfig(
        vocab_size=800, hidden_size=32, intermediate_size=32, num_layers=1, num_heads=1, num_kv_heads=1, seq_len=16
    )
    source = random_folder(tmp_path / "in", tmp_path / "tokenizer.json", config)
    llama = load(export(source, "gguf", tmp_path / "model.gguf").path, vocab_only=True)
    samples = [held[start : start + 2000] for start in range(0, 100_000, 2000)]
    for sample in [*samples, "I'LL pay 1234567 now: don't\r\n\r\n  x", "naïve 北京 12 ½ ٣"]:
        assert encode(llama, sample) == library.encode(sample, add_special_tokens=False).ids
    llama.close()
