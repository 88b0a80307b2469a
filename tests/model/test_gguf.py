"""GGUF files made elsewhere or damaged on the way: each opens, or is an error of symlm that says what is wrong."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tokenizers
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from exporting import SHAPE, random_folder, train_tiny
from symlm.config.model_config import ModelConfig
from symlm.config.rope import RopeScaling
from symlm.errors import DataError, SymlmError
from symlm.export.write import export
from symlm.model.gguf.file import read_gguf
from symlm.model.gguf.layout import from_pairs, rope_factors, scaling_of, to_pairs
from symlm.model.gguf.read import model_config_of, unpack_gguf
from symlm.model.gguf.vocabulary import SPLITTINGS, splitting_name, tokenizer_json, vocabulary_of
from symlm.model.tensors import read_header, read_tensors

CONFIG = ModelConfig(**SHAPE)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokenizer of a small run."""
    return train_tiny(tmp_path_factory.mktemp("gguf")) / "tokenizer.json"


@pytest.fixture(scope="module")
def model(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file of some 90 kB with random weights."""
    folder = tmp_path_factory.mktemp("model")
    source = random_folder(folder / "in", tokenizer, CONFIG)
    return export(source, "gguf", folder / "model.gguf", dtype="q8_0").path


def edited(path: Path, target: Path, change: Callable[[gguf.GGUFWriter, gguf.GGUFReader], set[str]]) -> Path:
    """A copy of a GGUF file, written by the library. `change` adds what it likes and gives the names (of values and
    tensors) that are not copied."""
    source = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(target, "llama")
    left_out = change(writer, source) | {"general.architecture"}
    for key, field in source.fields.items():
        if key.startswith("GGUF.") or key in left_out:
            continue
        inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), field.types[0], sub_type=inner)
    for tensor in source.tensors:
        if tensor.name not in left_out:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def opened(path: Path, folder: Path) -> Path:
    """Unpack a file into a new folder."""
    folder.mkdir()
    unpack_gguf(path, folder)
    return folder


def test_a_file_of_the_library(model: Path, tmp_path: Path) -> None:
    copy = edited(model, tmp_path / "copy.gguf", lambda writer, source: set())
    first, second = opened(model, tmp_path / "a"), opened(copy, tmp_path / "b")
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def without(*names: str) -> Callable[[gguf.GGUFWriter, gguf.GGUFReader], set[str]]:
    """An edit that leaves values or tensors out."""
    return lambda writer, source: set(names)


def with_value(key: str, value: Any, kind: str) -> Callable[[gguf.GGUFWriter, gguf.GGUFReader], set[str]]:
    """An edit that sets a value."""

    def change(writer: gguf.GGUFWriter, source: gguf.GGUFReader) -> set[str]:
        writer.add_key_value(key, value, gguf.GGUFValueType[kind])
        return {key}

    return change


def with_tensor(name: str, values: np.ndarray[Any, Any]) -> Callable[[gguf.GGUFWriter, gguf.GGUFReader], set[str]]:
    """An edit that sets a tensor."""

    def change(writer: gguf.GGUFWriter, source: gguf.GGUFReader) -> set[str]:
        writer.add_tensor(name, values)
        return {name}

    return change


def with_kind(kind: str) -> Callable[[gguf.GGUFWriter, gguf.GGUFReader], set[str]]:
    """An edit that gives a tensor a type of few bits."""

    def change(writer: gguf.GGUFWriter, source: gguf.GGUFReader) -> set[str]:
        type_ = gguf.GGMLQuantizationType[kind]
        writer.add_tensor("blk.0.ffn_up.weight", np.zeros((96, 36), np.uint8), raw_dtype=type_)
        return {"blk.0.ffn_up.weight"}

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_kind("Q4_0"), r"tensor 'blk\.0\.ffn_up\.weight' is Q4_0, expected F32, F16, BF16 or Q8_0"),
        (without("blk.1.attn_q.weight"), r"no tensor blk\.1\.attn_q\.weight"),
        (without("token_embd.weight"), r"no tensor token_embd\.weight"),
        (without("llama.embedding_length"), "embedding_length: found nothing"),
        (without("llama.attention.layer_norm_rms_epsilon"), "layer_norm_rms_epsilon: found nothing"),
        (without("tokenizer.ggml.model"), "a tokenizer of type 'no', expected gpt2"),
        (without("tokenizer.ggml.pre"), r"no tokenizer\.ggml\.pre"),
        (without("tokenizer.ggml.tokens"), "tokens: found nothing, expected a list"),
        (without("tokenizer.ggml.merges"), "merges: found nothing, expected a list"),
        (with_value("tokenizer.ggml.model", "llama", "STRING"), "a tokenizer of type 'llama', expected gpt2"),
        (with_value("tokenizer.ggml.pre", "mine", "STRING"), "pre is 'mine', known are gpt-2, smollm"),
        (with_value("tokenizer.ggml.eos_token_id", 300, "UINT32"), "found 300, expected a whole number from 0 to 299"),
        (with_value("llama.attention.head_count", 3, "UINT32"), "3 heads do not divide the hidden size 64"),
        (with_value("llama.attention.head_count", [4, 4], "ARRAY"), "head_count: found"),
        (with_value("llama.rope.dimension_count", 8, "UINT32"), "dimension_count 8 is not supported, expected"),
        (with_value("llama.rope.scaling.type", "yarn", "STRING"), "'yarn' is not supported, expected 'none'"),
        (with_value("llama.expert_count", 8, "UINT32"), "expert_count 8 is not supported"),
        (with_value("llama.block_count", 1 << 31, "UINT32"), "block_count: found 2147483648"),
        (with_value("split.count", 2, "UINT16"), "part of a GGUF model in 2 files"),
        (with_tensor("blk.0.attn_q.bias", np.zeros(64, np.float32)), r"'blk\.0\.attn_q\.bias' is not part of a model"),
        (with_tensor("output_norm.weight", np.zeros(32, np.float32)), r"has the shape \[32\], expected \[64\]"),
        (with_tensor("rope_freqs.weight", np.zeros(8, np.float32)), "follow from no scaling of the type llama3"),
        (with_tensor("rope_freqs.weight", np.ones(3, np.float32)), r"has the shape \[3\], expected \[8\]"),
    ],
    ids=lambda value: None if callable(value) else "",
)
def test_what_cannot_be_opened_is_named(
    model: Path, tmp_path: Path, change: Callable[[gguf.GGUFWriter, gguf.GGUFReader], set[str]], message: str
) -> None:
    path = edited(model, tmp_path / "x.gguf", change)
    with pytest.raises(DataError, match=message) as caught:
        opened(path, tmp_path / "out")
    assert str(path) in caught.value.message


def test_what_a_file_says_about_its_origin_is_not_believed(model: Path, tmp_path: Path) -> None:
    def change(writer: gguf.GGUFWriter, source: gguf.GGUFReader) -> set[str]:
        writer.add_string("symlm.note", "mine")
        writer.add_string("symlm.../../x", "no name")
        writer.add_array("symlm.list", [1, 2])
        writer.add_float64("symlm.endless", float("inf"))
        writer.add_bool("symlm.flag", True)
        return set()

    folder = opened(edited(model, tmp_path / "x.gguf", change), tmp_path / "out")
    facts = json.loads((folder / "symlm.json").read_text())
    assert facts["note"] == "mine"
    assert not {"list", "endless", "flag", "../../x"} & facts.keys()


def test_another_architecture(model: Path, tmp_path: Path) -> None:
    raw = model.read_bytes().replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0qwen2", 1)
    (tmp_path / "x.gguf").write_bytes(raw)
    with pytest.raises(DataError, match="architecture 'qwen2', expected llama"):
        opened(tmp_path / "x.gguf", tmp_path / "out")


def test_files_that_are_none(model: Path, tmp_path: Path) -> None:
    raw = model.read_bytes()
    path = tmp_path / "x.gguf"
    huge = struct.pack("<Q", 1 << 60)
    cases = {
        b"": "not a GGUF file",
        b"GGUF": "ends where 4 more bytes are expected",
        bytes(4000): "not a GGUF file",
        b"GGUF" + struct.pack(">I", 3) + raw[8:]: "in big-endian order",
        b"GGUF" + struct.pack("<I", 1) + raw[8:]: "of version 1",
        raw[:8] + huge + raw[16:]: "tensors, expected at most",
        raw[:16] + huge + raw[24:]: "values, expected at most",
        raw[:24] + huge + raw[32:]: "a text of 1,152,921,504,606,846,976 bytes",
        raw[:-1]: "is not in the file",
        raw[: len(raw) // 4]: "damaged GGUF file",
    }
    for content, message in cases.items():
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_gguf(path)
    with pytest.raises(DataError, match="cannot read"):
        read_gguf(tmp_path)
    with path.open("wb") as file:
        # Nothing but a length: takes no place on the disk, and no memory to refuse.
        file.write(
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 0, 1 << 33)
        )
        file.truncate(20 << 30)
    with pytest.raises(DataError, match="8,589,934,592 numbers in the"):
        read_gguf(path)


@st.composite
def damage(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Cuts a file, or changes some of its bytes; most of them where the header is."""
    if draw(st.booleans()):
        part = draw(st.floats(0, 1))
        return lambda raw: raw[: int(len(raw) * part)]
    places = draw(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6))
    power = draw(st.sampled_from([1, 3, 6]))

    def change(raw: bytes) -> bytes:
        changed = bytearray(raw)
        for place, value in places:
            changed[int((len(raw) - 1) * place**power)] = value
        return bytes(changed)

    return change


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(change=lambda raw: raw)
@given(change=damage())
def test_damaged_files(model: Path, tmp_path_factory: pytest.TempPathFactory, change: Callable[[bytes], bytes]) -> None:
    path, folder = tmp_path_factory.getbasetemp() / "damaged.gguf", tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(change(model.read_bytes()))
    folder.mkdir(exist_ok=True)
    try:
        unpack_gguf(path, folder)
    except SymlmError as error:
        assert str(path) in error.message
        assert len(error.message) < 1000


@pytest.fixture(scope="module")
def weights(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A safetensors file."""
    return (random_folder(tmp_path_factory.mktemp("w") / "in", tokenizer, CONFIG) / "model.safetensors").read_bytes()


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(change=lambda raw: raw)
@given(change=damage())
def test_damaged_weights(
    weights: bytes, tmp_path_factory: pytest.TempPathFactory, change: Callable[[bytes], bytes]
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(change(weights))
    try:
        for tensor in read_header(path).values():
            tensor.floats()
    except SymlmError as error:
        assert str(path) in error.message


@pytest.mark.parametrize(
    "index",
    [b"{}", b'{"weight_map": {}}', b'{"weight_map": {"a": "../x"}}', b'{"weight_map": {"a": "model.bin"}}', b"[",
     b'{"weight_map": {"a": 3}}'],
)  # fmt: skip
def test_damaged_indexes(tmp_path: Path, index: bytes) -> None:
    (tmp_path / "model.safetensors.index.json").write_bytes(index)
    with pytest.raises(DataError, match=str(tmp_path)):
        read_tensors(tmp_path)


# --- rotary embedding -------------------------------------------------------------------------------------------------


def test_the_order_of_rows_has_an_inverse() -> None:
    rows = np.random.default_rng(0).normal(size=(6 * 8, 5)).astype(np.float32)
    paired = to_pairs(rows, 6)
    assert np.array_equal(paired[:4], rows[[0, 4, 1, 5]])
    assert np.array_equal(from_pairs(paired, 6), rows)


def test_factors_of_other_converters(model: Path, tmp_path: Path) -> None:
    """The file has only the factors; the numbers of Llama 3.1 and 3.2 are found from them."""
    for factor in (8.0, 32.0):
        scaling = RopeScaling(
            factor=factor, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192
        )
        config = ModelConfig(**{**SHAPE, "hidden_size": 512, "rope_theta": 500000.0})  # type: ignore[arg-type]
        factors = rope_factors(config, scaling)
        assert factors.shape == (64,)
        assert (factors[0], factors[-1]) == (1, factor)
        assert scaling_of(config, factors) == scaling
    # In a model whose waves are too short to be stretched there is none.
    path = edited(model, tmp_path / "x.gguf", with_tensor("rope_freqs.weight", np.ones(8, np.float32)))
    assert model_config_of(read_gguf(path)).rope_scaling is None


# --- tokenizers -------------------------------------------------------------------------------------------------------

TEXTS = ["I'LL say: they're 12345 naïve cafés…\r\n\n  x\t ÄÖ 北京 한국 😀 don't  ", " ", "a" * 50, "3.14159 = pi", ""]


def made(pre: str) -> dict[str, Any]:
    """A tokenizer.json that the library has trained with a splitting."""
    splitting = SPLITTINGS[pre]
    start = tokenizers.Tokenizer(tokenizers.models.BPE(ignore_merges=splitting.ignore_merges))
    raw = json.loads(start.to_str())
    raw |= {"pre_tokenizer": splitting.pre_tokenizer, "normalizer": splitting.normalizer}
    library = tokenizers.Tokenizer.from_str(json.dumps(raw))
    library.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=340, special_tokens=["<|end|>"], initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    library.train_from_iterator(TEXTS * 20, trainer)
    library.add_tokens(["<extra>"])
    value = json.loads(library.to_str())
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize("pre", SPLITTINGS)
def test_tokenizers_that_llama_cpp_knows(pre: str) -> None:
    raw, path = made(pre), Path("tokenizer.json")
    assert splitting_name(raw, path) == pre
    size = len(raw["model"]["vocab"]) + 1
    vocabulary = vocabulary_of(raw, path, size + 3, bos=0)
    assert (vocabulary.types[0], vocabulary.types[size - 1], vocabulary.types[size]) == (3, 4, 5)
    assert vocabulary.tokens[size:] == [f"[PAD{n}]" for n in range(size, size + 3)]
    assert not vocabulary.add_bos
    back = tokenizer_json(vocabulary, path, 0)
    first, second = (tokenizers.Tokenizer.from_str(json.dumps(value)) for value in (raw, back))
    assert first.get_vocab() == second.get_vocab()
    for text in [*TEXTS, "<|end|> and <extra>"]:
        assert first.encode(text).ids == second.encode(text).ids
    # A model that is told to begin every text with a token stays so.
    single = [{"SpecialToken": {"id": "<|end|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    post = {"type": "TemplateProcessing", "single": single}
    vocabulary = vocabulary_of({**raw, "post_processor": {"type": "Sequence", "processors": [post]}}, path, size, 0)
    assert vocabulary.add_bos
    again = tokenizers.Tokenizer.from_str(json.dumps(tokenizer_json(vocabulary, path, 0)))
    assert again.encode("x").ids == [0, *first.encode("x").ids]


def test_tokenizers_that_llama_cpp_does_not_know() -> None:
    raw, path = made("gpt-2"), Path("tokenizer.json")
    model = raw["model"]

    def refused(changes: dict[str, Any], message: str) -> None:
        with pytest.raises(DataError, match=message) as caught:
            vocabulary_of({**raw, **changes}, path, 400, 0)
        assert "tokenizer.json" in caught.value.message

    refused(
        {"pre_tokenizer": {"type": "Whitespace"}}, r"no name for a tokenizer with pre_tokenizer Whitespace; known are"
    )
    refused({"pre_tokenizer": None}, "no pre_tokenizer")
    refused({"pre_tokenizer": {**SPLITTINGS["gpt-2"].pre_tokenizer, "add_prefix_space": True}}, "ByteLevel")
    refused({"normalizer": {"type": "Lowercase"}}, "normalizer Lowercase")
    refused({"model": {**model, "ignore_merges": True}}, "ignore_merges")
    refused({"model": {**model, "type": "WordPiece"}}, "type 'WordPiece', expected byte-level BPE")
    refused({"model": {**model, "byte_fallback": True}}, "with byte fallback")
    refused({"model": {**model, "merges": [["a"]]}}, r"merge \['a'\], expected two tokens")
    refused({"model": {**model, "merges": [["a b", "c"]]}}, "has blanks in it")
    refused({"model": {**model, "vocab": {"a": 500}}}, "'a' has the id 500, the model has 400 embeddings")
    refused({"model": {**model, "vocab": {"a": 1, "b": 1}}}, "have the same id 1")
    refused({"model": {**model, "vocab": {"a": -1}}}, "found -1, expected a whole number")
    refused({"added_tokens": [3]}, "an added token that is a number")
