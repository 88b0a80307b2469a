"""Exported folders and files: what is in them, that they read back the same, and what is refused."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import symlm
from conftest import Cli
from exporting import SHAPE, random_folder, train_tiny
from symlm.config.model_config import ModelConfig
from symlm.config.rope import RopeScaling
from symlm.errors import DataError, SymlmError, UsageError, UserError
from symlm.export.write import export
from symlm.model.gguf.read import unpack_gguf
from symlm.model.tensors import from_floats, outgoing, read_tensors, to_floats, write_tensors

IDS = list(range(0, 290, 7))
HF_FILES = {
    "model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "README.md", "symlm.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run."""
    return train_tiny(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def tokenizer(run: Path) -> Path:
    """Its tokenizer."""
    return run / "tokenizer.json"


def read(path: Path) -> dict[str, Any]:
    """A JSON file."""
    value = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(value, dict)
    return value


def unpacked(path: Path, folder: Path) -> symlm.Generator:
    """The generator of a GGUF file, which becomes the folder."""
    folder.mkdir()
    unpack_gguf(path, folder)
    return symlm.Generator.from_pretrained(folder)


def left_behind(folder: Path) -> list[str]:
    """What is in a folder."""
    return sorted(path.name for path in folder.iterdir())


# --- a folder for transformers ----------------------------------------------------------------------------------------


def test_a_folder_for_transformers(run: Path, tmp_path: Path) -> None:
    done = export(run, "hf", tmp_path / "hf")
    folder = done.path
    assert (done.dtype, done.difference) == ("f32", 0.0)
    assert set(left_behind(folder)) == HF_FILES
    assert left_behind(tmp_path) == ["hf"]
    # The checkpoint's own file, byte for byte, so that sha256sum compares them.
    weights = (folder / "model.safetensors").read_bytes()
    assert weights == (run / "best" / "model.safetensors").read_bytes()
    text = "it's naïve 北京 <|endoftext|> 😀\n\n x"
    ours, theirs = (symlm.Tokenizer.from_file(str(path / "tokenizer.json")) for path in (run, folder))
    assert theirs.encode(text) == ours.encode(text)
    config = read(folder / "config.json")
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["rope_theta"], config["rope_parameters"]) == (
        10000.0,
        {"rope_type": "default", "rope_theta": 10000.0},
    )
    assert (config["dtype"], config["torch_dtype"]) == ("float32", "float32")
    assert (config["bos_token_id"], config["eos_token_id"]) == (0, 0)
    assert read(folder / "generation_config.json")["eos_token_id"] == 0
    special = {name: "<|endoftext|>" for name in ("bos_token", "eos_token", "pad_token")}
    assert read(folder / "special_tokens_map.json") == special
    described = read(folder / "tokenizer_config.json")
    assert described["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert described["model_max_length"] == SHAPE["seq_len"]
    assert not (described["clean_up_tokenization_spaces"] or described["add_bos_token"] or described["add_eos_token"])
    again = symlm.Generator.from_pretrained(folder)
    assert np.array_equal(again.logits(IDS), symlm.Generator.from_pretrained(run).logits(IDS))


def test_the_origin_is_told_without_the_paths_of_this_machine(run: Path, tmp_path: Path) -> None:
    folder = export(run, "hf", tmp_path / "hf").path
    facts = read(folder / "symlm.json")
    environment = read(run / "environment.json")
    assert facts["train_sha256"] == environment["data"]["train_sha256"]
    assert facts["tokenizer_sha256"] == environment["data"]["tokenizer_sha256"]
    assert facts["weights_sha256"] == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert (facts["step"], facts["seed"], facts["contract"]) == (4, 42, symlm._symlm.CONTRACT_VERSION)
    card = (folder / "README.md").read_text(encoding="utf-8")
    for known in (facts["train_sha256"], f"{facts['val_bpb']:.4f}", 'data = ["words.txt"]', "AutoModelForCausalLM"):
        assert known in card
    for path in folder.iterdir():
        if path.suffix in (".json", ".md"):
            assert str(run.parent) not in path.read_text(encoding="utf-8"), path
    # They are carried into the next export.
    next_ = export(folder, "hf", tmp_path / "next").path
    assert read(next_ / "symlm.json") == facts


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_what_comes_in_goes_out_byte_for_byte(tokenizer: Path, tmp_path: Path, dtype: str) -> None:
    config = ModelConfig(**SHAPE, tie_embeddings=False)  # type: ignore[arg-type]
    source = random_folder(tmp_path / "in", tokenizer, config, dtype)
    done = export(source, "hf", tmp_path / "out")
    assert done.difference == 0.0
    before, after = read_tensors(source), read_tensors(done.path)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert (tensor.dtype, tensor.shape) == (after[name].dtype, after[name].shape) == (dtype, tensor.shape)
        assert tensor.load().tobytes() == after[name].load().tobytes()
    assert read(done.path / "config.json")["dtype"] == {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[dtype]


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_narrower_weights(run: Path, tmp_path: Path, dtype: str) -> None:
    done = export(run, "hf", tmp_path / "hf", dtype=dtype)
    assert 0 < done.difference < 0.5
    wide = read_tensors(run / "best")
    for name, tensor in read_tensors(done.path).items():
        assert tensor.dtype == dtype.upper()
        error = np.abs(tensor.floats() - wide[name].floats())
        assert (error <= np.abs(wide[name].floats()) * (2**-11 if dtype == "f16" else 2**-8) + 2**-25).all()


def test_rounding_is_to_nearest_ties_to_even() -> None:
    values = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8 + 2**-20), np.inf, np.nan, 1e-40], dtype=np.float32)
    back = to_floats(from_floats(values, "BF16", "x"), "BF16")
    assert back[:5].tolist() == [1.0, 1.0, 1 + 2**-6, -(1 + 2**-7), np.inf]
    assert np.isnan(back[5])
    assert abs(back[6] - 1e-40) < 1e-40
    assert to_floats(from_floats(values[:2], "F16", "x"), "F16").tolist() == values[:2].tolist()


def test_values_beyond_a_type_are_named(tokenizer: Path, tmp_path: Path) -> None:
    source = random_folder(tmp_path / "in", tokenizer, ModelConfig(**SHAPE), scale=1e5)  # type: ignore[arg-type]
    for to in ("hf", "gguf"):
        with pytest.raises(DataError, match=r"\.weight: .* values are too large for f16, the largest is") as caught:
            export(source, to, tmp_path / "out", dtype="f16")
        assert "f32 or bf16" in (caught.value.hint or "")
        assert left_behind(tmp_path) == ["in"]
    with pytest.raises(DataError, match="bf16"):
        from_floats(np.array([3.4e38], dtype=np.float32), "BF16", "x")


def test_a_model_in_parts_and_with_more_than_it_needs(run: Path, tokenizer: Path, tmp_path: Path) -> None:
    """Weights in several files that an index joins, as transformers writes large models."""
    config = ModelConfig(**SHAPE)  # type: ignore[arg-type]
    source = random_folder(tmp_path / "in", tokenizer, config)
    whole = read_tensors(source)
    index: dict[str, str] = {}
    for number, part in enumerate((list(whole)[::2], list(whole)[1::2])):
        name = f"model-{number}.safetensors"
        with (source / name).open("wb") as file:
            write_tensors(file, [outgoing(whole[tensor], None) for tensor in part])
        index |= dict.fromkeys(part, name)
    (source / "model.safetensors").rename(tmp_path / "whole.safetensors")
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    done = export(source, "hf", tmp_path / "out")
    assert (done.path / "model.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


# --- a file for llama.cpp ---------------------------------------------------------------------------------------------


def llama_order(rows: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Rows of a head h0 .. hn as llama.cpp has them: h0, h(n/2), h1, h(n/2 + 1), .."""
    size = len(rows) // heads
    order = [h * size + half * (size // 2) + i for h in range(heads) for i in range(size // 2) for half in (0, 1)]
    return rows[order]


def test_a_file_for_llama_cpp(run: Path, tmp_path: Path) -> None:
    done = export(run, "gguf", tmp_path / "model.gguf")
    assert (done.dtype, done.difference) == ("f32", 0.0)
    assert left_behind(tmp_path) == ["model.gguf"]
    file = gguf.GGUFReader(done.path)
    kinds = gguf.GGUFValueType
    expected = {
        "general.architecture": ([kinds.STRING], "llama"),
        "general.file_type": ([kinds.UINT32], 0),
        "llama.vocab_size": ([kinds.UINT32], 300),
        "llama.context_length": ([kinds.UINT32], 48),
        "llama.embedding_length": ([kinds.UINT32], 64),
        "llama.block_count": ([kinds.UINT32], 2),
        "llama.feed_forward_length": ([kinds.UINT32], 96),
        "llama.attention.head_count": ([kinds.UINT32], 4),
        "llama.attention.head_count_kv": ([kinds.UINT32], 2),
        "llama.attention.layer_norm_rms_epsilon": ([kinds.FLOAT32], np.float32(1e-5)),
        "llama.rope.dimension_count": ([kinds.UINT32], 16),
        "llama.rope.freq_base": ([kinds.FLOAT32], 10000.0),
        "tokenizer.ggml.model": ([kinds.STRING], "gpt2"),
        "tokenizer.ggml.pre": ([kinds.STRING], "gpt-2"),
        "tokenizer.ggml.bos_token_id": ([kinds.UINT32], 0),
        "tokenizer.ggml.eos_token_id": ([kinds.UINT32], 0),
        "tokenizer.ggml.add_bos_token": ([kinds.BOOL], False),
        "tokenizer.ggml.add_eos_token": ([kinds.BOOL], False),
        "symlm.train_sha256": ([kinds.STRING], read(run / "environment.json")["data"]["train_sha256"]),
        "symlm.step": ([kinds.UINT64], 4),
    }
    found = {key: (field.types, field.contents()) for key, field in file.fields.items() if key in expected}
    assert found == expected
    vocab = read(run / "tokenizer.json")["model"]["vocab"]
    assert file.fields["tokenizer.ggml.tokens"].contents() == sorted(vocab, key=vocab.__getitem__)
    assert file.fields["tokenizer.ggml.token_type"].contents() == [3] + [1] * 299
    assert file.fields["tokenizer.ggml.token_type"].types == [kinds.ARRAY, kinds.INT32]
    merges = read(run / "tokenizer.json")["model"]["merges"]
    assert file.fields["tokenizer.ggml.merges"].contents() == [" ".join(pair) for pair in merges]
    ours = {name: tensor.floats() for name, tensor in read_tensors(run / "best").items()}
    theirs = {tensor.name: tensor for tensor in file.tensors}
    assert len(theirs) == len(ours)
    assert "output.weight" not in theirs
    assert theirs["token_embd.weight"].shape.tolist() == [64, 300]
    query, key = ours["model.layers.1.self_attn.q_proj.weight"], ours["model.layers.1.self_attn.k_proj.weight"]
    assert np.array_equal(theirs["blk.1.attn_q.weight"].data, llama_order(query, 4))
    assert np.array_equal(theirs["blk.1.attn_k.weight"].data, llama_order(key, 2))
    assert np.array_equal(theirs["blk.1.ffn_down.weight"].data, ours["model.layers.1.mlp.down_proj.weight"])
    assert np.array_equal(theirs["blk.0.attn_norm.weight"].data, ours["model.layers.0.input_layernorm.weight"])


@pytest.mark.parametrize("dtype", ["f16", "bf16", "q8_0"])
def test_matrices_are_narrower_and_vectors_are_not(run: Path, tmp_path: Path, dtype: str) -> None:
    done = export(run, "gguf", tmp_path / "model.gguf", dtype=dtype)
    assert 0 < done.difference < 0.5
    for tensor in gguf.GGUFReader(done.path).tensors:
        assert tensor.tensor_type.name == ("F32" if "norm" in tensor.name else dtype.upper())
        library = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        (tmp_path / "unpacked").mkdir(exist_ok=True)
        assert np.isfinite(library).all()
    # Our reader and the library make the same floats of it.
    unpack_gguf(done.path, tmp_path / "unpacked")
    ours = read_tensors(tmp_path / "unpacked")["model.layers.1.mlp.up_proj.weight"].floats()
    theirs = next(tensor for tensor in gguf.GGUFReader(done.path).tensors if tensor.name == "blk.1.ffn_up.weight")
    assert np.array_equal(ours, gguf.quants.dequantize(theirs.data, theirs.tensor_type).reshape(ours.shape))


SCALING = RopeScaling(
    factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32
)  # fmt: skip


@pytest.mark.parametrize("scaling", [None, SCALING], ids=["plain", "llama3"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_there_and_back(tokenizer: Path, tmp_path: Path, tied: bool, scaling: RopeScaling | None) -> None:
    shape = {**SHAPE, "num_kv_heads": 1, "rope_theta": 500000.0, "rms_norm_eps": 1e-6}
    config = ModelConfig(**shape, tie_embeddings=tied, rope_scaling=scaling)  # type: ignore[arg-type]
    source = random_folder(tmp_path / "in", tokenizer, config)
    done = export(source, "gguf", tmp_path / "model.gguf")
    assert done.difference == 0.0
    generator = unpacked(done.path, tmp_path / "back")
    assert generator.model == config
    assert (tmp_path / "back" / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    text = "it's naïve 北京 <|endoftext|> 😀\n\n x"
    assert generator.tokenizer.encode(text) == symlm.Tokenizer.from_file(str(tokenizer)).encode(text)


def test_the_origin_goes_there_and_back(run: Path, tmp_path: Path) -> None:
    folder = export(run, "hf", tmp_path / "hf").path
    unpacked(export(run, "gguf", tmp_path / "model.gguf").path, tmp_path / "back")
    facts = read(folder / "symlm.json")
    assert (
        facts.pop("exported_tokenizer_sha256") == hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
    )
    assert read(tmp_path / "back" / "symlm.json") == facts


def test_a_file_is_a_model(run: Path, tmp_path: Path) -> None:
    file = export(run, "gguf", tmp_path / "model.gguf", dtype="q8_0").path
    done = export(file, "hf", tmp_path / "hf")
    assert (done.dtype, done.difference) == ("f32", 0.0)
    assert read(done.path / "symlm.json")["step"] == 4
    assert "# model\n" in (done.path / "README.md").read_text()
    here, there = (symlm.Generator.from_pretrained(path) for path in (file, done.path))
    assert np.array_equal(here.logits(IDS), there.logits(IDS))


def test_a_vocabulary_without_merges(tmp_path: Path) -> None:
    run = train_tiny(tmp_path, vocab_size=257)
    done = export(run, "gguf", tmp_path / "model.gguf")
    assert done.difference == 0.0
    raw = done.path.read_bytes()
    at = raw.index(b"tokenizer.ggml.merges") + len(b"tokenizer.ggml.merges")
    # A list of texts, none of them: llama.cpp wants the key.
    assert raw[at : at + 16] == b"\x09\0\0\0\x08\0\0\0" + bytes(8)


def test_a_folder_for_ollama(run: Path, tmp_path: Path) -> None:
    done = export(run, "ollama", tmp_path / "mine", dtype="q8_0")
    assert left_behind(done.path) == ["Modelfile", "model.gguf"]
    lines = (done.path / "Modelfile").read_text().splitlines()
    assert lines[:3] == [
        "FROM ./model.gguf", 'TEMPLATE """{{ .Prompt }}"""', 'PARAMETER stop "<|endoftext|>"'
    ]  # fmt: skip
    assert "PARAMETER num_ctx 48" in lines


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command(run: Path, cli: Cli, tmp_path: Path) -> None:
    done = cli("export", run, "--to", "ollama", "--out", "mine", "--dtype", "q8_0")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"wrote mine \([\d,]+ bytes, q8_0\)", lines[0])
    assert re.fullmatch(
        r"read back: largest difference of a logit [\d.e-]+ over \d+ positions \(the error of 8-bit weights\)", lines[1]
    )
    assert lines[2] == "next: ollama create mine -f mine/Modelfile"
    assert cli("export", run, "--to", "gguf", "--out", "a.gguf").returncode == 0
    again = cli("export", run, "--to", "gguf", "--out", "a.gguf")
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr == "error: a.gguf: exists\nhint: choose another --out, or use --force\n"
    assert cli("export", run, "--to", "gguf", "--out", "a.gguf", "--force", "--checkpoint", 4).returncode == 0


def test_nothing_is_overwritten(run: Path, tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for to, name, message in (
        ("hf", "used", "the folder is not empty"), ("ollama", "used", "the folder is not empty"),
        ("hf", "file", "not a folder"), ("gguf", "file", "exists"), ("gguf", "used", "found a folder"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            export(run, to, tmp_path / name)  # type: ignore[arg-type]
    assert left_behind(tmp_path / "used") == ["mine"]
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert export(run, "hf", tmp_path / "empty").path == tmp_path / "empty"
    assert export(run, "hf", tmp_path / "new" / "folder").path.is_dir()


def test_targets_that_cannot_be_written(run: Path) -> None:
    for to in ("hf", "gguf", "ollama"):
        with pytest.raises(UserError, match="--out: cannot write /proc/none"):
            export(run, to, "/proc/none")
    with pytest.raises(UserError, match="--out: cannot write"):
        export(run, "gguf", "/nowhere/at/all.gguf")
    with pytest.raises(UsageError, match="q8_0 cannot be written to hf"):
        export(run, "hf", "x", dtype="q8_0")
    with pytest.raises(UserError, match="no such model"):
        export("none", "hf", "x")


def test_the_package_gguf_is_asked_for(run: Path, tmp_path: Path) -> None:
    """Before anything is read; folders for transformers need nothing."""
    code = (
        "import sys; sys.modules['gguf'] = None\n"
        "from symlm.export import export\n"
        f"export({str(run)!r}, 'hf', {str(tmp_path / 'hf')!r})\n"
        "from symlm.cli import main\n"
        f"sys.exit(main(['export', 'none', '--to', 'gguf', '--out', {str(tmp_path / 'x.gguf')!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: the package gguf is not installed\nhint: pip install 'symlm[gguf]'\n"
    assert left_behind(tmp_path) == ["hf"]


def test_shapes_that_cannot_be_quantised(tmp_path: Path, cli: Cli, text: Path) -> None:
    """It is said when such a model is trained, and refused when it is exported."""
    flags = {**SHAPE, "intermediate_size": 100, "max_steps": 2, "batch_size": 12, "threads": 1, "sample_every": 0}
    words = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", value)]
    done = cli("train", text.name, "--out-dir", "run", "--progress", "plain", *words)
    assert done.returncode == 0, done.stderr
    note = (
        "note: this model cannot be exported as q8_0, only as f32, f16 or bf16: intermediate size 100 is not a multiple"
    )
    assert done.stderr.count(note) == 1
    resumed = cli("train", text.name, "--out-dir", "run", "--progress", "plain", "--resume", "auto", *words)
    assert "q8_0" not in resumed.stderr
    with pytest.raises(DataError, match=r"found model\.layers\.0\.mlp\.down_proj\.weight \(100\)") as caught:
        export(tmp_path / "run", "gguf", tmp_path / "x.gguf", dtype="q8_0")
    assert "--dtype f16" in (caught.value.hint or "")
    assert not (tmp_path / "x.gguf").exists()
    assert export(tmp_path / "run", "gguf", tmp_path / "x.gguf", dtype="f16").difference < 0.5


def test_weights_that_do_not_fit_the_shape(run: Path, tokenizer: Path, tmp_path: Path) -> None:
    config = ModelConfig(**SHAPE)  # type: ignore[arg-type]
    source = random_folder(tmp_path / "in", tokenizer, config)
    shape = read(source / "config.json")

    def refused(changes: dict[str, Any], message: str) -> None:
        (source / "config.json").write_text(json.dumps({**shape, **changes}))
        with pytest.raises(SymlmError, match=message):
            export(source, "hf", tmp_path / "out")
        assert left_behind(tmp_path) == ["in"]

    refused({"num_hidden_layers": 3}, r"no tensor model\.layers\.2\.")
    refused({"intermediate_size": 128}, r"has the shape \[96, 64\], expected \[128, 64\]")
    refused({"tie_word_embeddings": False}, r"no tensor lm_head\.weight")
    refused({"model_type": "gpt2"}, "expected model_type llama, found 'gpt2'")
    (source / "config.json").write_text(json.dumps(shape))
    (source / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"no tokenizer\.json"):
        export(source, "hf", tmp_path / "out")
