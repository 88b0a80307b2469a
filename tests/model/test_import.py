"""Models from elsewhere: weights, tokenizers, evaluation, training that begins with them; and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from conftest import Cli
from elsewhere import (
    BEGIN,
    END,
    STOP,
    TEXT,
    Elsewhere,
    llama3_tokenizer,
    make_model,
    metaspace_tokenizer,
    write_sharded,
    write_tensors,
)
from reference import model as reference
from symlm import _symlm
from symlm.config.model_config import ModelConfig
from symlm.config.train_config import TrainConfig
from symlm.errors import DataError, SymlmError, UsageError, UserError
from symlm.evaluation.windows import evaluate
from symlm.generate.generator import Generator
from symlm.model.resolve import resolve_model
from symlm.run.checkpoint import State
from symlm.training.trainer import Trainer

SCALING = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
KINDS: dict[str, dict[str, Any]] = {
    "f32, tied": {"tie_embeddings": True},
    "f16, one key/value head": {"dtype": "F16", "num_kv_heads": 1},
    "bf16, several files, stretched": {"dtype": "BF16", "sharded": True, "rope_scaling": SCALING},
}
IDS = [BEGIN, *np.random.default_rng(5).integers(0, 260, 50).tolist()]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMLM_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def made(tmp_path: Path) -> Elsewhere:
    """A model in the manner of Llama 3."""
    return make_model(tmp_path / "model", dtype="BF16", rope_scaling=SCALING)


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A text of some 6,000 tokens."""
    path = tmp_path / "words.txt"
    path.write_text("the cat sat on the mat. 12 345\n" * 300)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_oracle(kind: str, tmp_path: Path) -> None:
    made = make_model(tmp_path / "model", **KINDS[kind])
    generator = Generator.from_pretrained(made.folder)
    np.testing.assert_allclose(generator.logits(IDS), made.logits(IDS), atol=2e-5)


def test_a_text_ends_where_the_model_ends_it(made: Elsewhere) -> None:
    # A head that always prefers one token.
    for wanted, expected in ((END, ""), (STOP, ""), (256 + 2, " the" * 3), (270, "")):
        parameters = dict(made.parameters)
        parameters["lm_head.weight"] = np.zeros_like(parameters["lm_head.weight"])
        parameters["model.norm.weight"] = np.zeros_like(parameters["model.norm.weight"])
        write_tensors(made.folder / "model.safetensors", parameters)
        generator = Generator.from_pretrained(made.folder)
        # All logits are equal, so the first candidate is token 0; the order decides and nothing is random.
        assert generator.generate("the", max_new_tokens=2, temperature=0) == "!!"
        parameters["model.embed_tokens.weight"] = np.ones_like(parameters["model.embed_tokens.weight"])
        parameters["model.norm.weight"] = np.ones_like(parameters["model.norm.weight"])
        for name in [name for name in parameters if "o_proj" in name or "down_proj" in name]:
            parameters[name] = np.zeros_like(parameters[name])
        parameters["lm_head.weight"][wanted] = 1.0
        write_tensors(made.folder / "model.safetensors", parameters)
        generator = Generator.from_pretrained(made.folder)
        assert generator.generate("the", max_new_tokens=3, temperature=0) == expected


@pytest.mark.parametrize("kind", [llama3_tokenizer, metaspace_tokenizer])
def test_tokens_are_those_of_the_library(kind: Any, tmp_path: Path) -> None:
    made = make_model(tmp_path / "model", tokenizer=kind())
    ours = resolve_model(made.folder).load_tokenizer()
    theirs = tokenizers.Tokenizer.from_str(json.dumps(kind()))
    ids = theirs.encode(TEXT, add_special_tokens=False).ids
    assert ours.encode(TEXT) == ids
    assert ours.encode_prompt(TEXT) == theirs.encode(TEXT).ids
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)
    assert b"".join(ours.decode_bytes([id_]) for id_ in ids).decode().strip(" ") == TEXT.strip(" ")
    assert (ours.eot_id, ours.vocab_size) == (END, theirs.get_vocab_size())
    ours.save(str(tmp_path / "copy.json"))
    assert (tmp_path / "copy.json").read_bytes() == (made.folder / "tokenizer.json").read_bytes()


def test_the_loss_is_that_of_the_oracle(made: Elsewhere, words: Path, cli: Cli) -> None:
    result = evaluate(made.folder, words, progress="off")
    ids = [BEGIN, *resolve_model(made.folder).load_tokenizer().encode(words.read_text())]
    length = made.config.seq_len
    windows = np.array([ids[i : i + length + 1] for i in range(0, len(ids) - length, length)])
    assert (result.windows, result.step) == (len(windows), None)
    assert result.loss == pytest.approx(reference.loss(made.config, made.parameters, windows), rel=1e-5)
    shown = cli("eval", made.folder, words)
    assert shown.returncode == 0, shown.stderr
    assert f"{result.loss:.4f} nats" in shown.stdout
    assert "step" not in shown.stdout


# --- training that begins with a model -------------------------------------------------------------------------------


def settings(made: Elsewhere, tmp_path: Path, **more: Any) -> TrainConfig:
    """Three updates that change next to nothing."""
    return TrainConfig(
        **{
            "init_from": str(made.folder), "out_dir": str(tmp_path / "run"), "max_steps": 3, "batch_size": 4,
            "seq_len": 32, "learning_rate": 1e-12, "weight_decay": 0.0, "eval_interval": 0, "sample_every": 0,
            "progress": "off", "threads": 2, **more,
        }
    )  # fmt: skip


def test_a_training_begins_with_the_weights_and_needs_them_no_more(
    made: Elsewhere, words: Path, tmp_path: Path
) -> None:
    config = settings(made, tmp_path)
    run = Trainer(TrainConfig(**{**vars(config), "stop_at_step": 2}), data=words).fit()
    environment = json.loads((run.path / "environment.json").read_text())
    assert environment["init_from"]["path"] == str(made.folder)
    assert list(environment["init_from"]["sha256"]) == ["model.safetensors"]
    files = resolve_model(run.path, "last")
    shape = files.model_config()
    # With all its positions, although the windows of the run are shorter.
    assert shape == ModelConfig.from_hf(made.folder / "config.json")
    assert State.read(files.folder).config["model"]["seq_len"] == 32
    assert (shape.bos_token_id, shape.eos_token_ids) == (BEGIN, (END, STOP))
    assert shape.rope_scaling is not None
    logits = Generator.from_pretrained(run.path, "last").logits(IDS[:20])
    np.testing.assert_allclose(logits, made.logits(IDS[:20]), atol=1e-4)
    first = json.loads((run.path / "metrics.jsonl").read_text().splitlines()[1])
    assert first["event"] in ("train", "save", "eval")

    shutil.rmtree(made.folder)
    again = Trainer(TrainConfig(**{**vars(config), "resume": "auto"}), data=words).fit()
    assert (again.step, again.finished) == (3, True)
    assert State.read(resolve_model(again.path, "last").folder).step == 3
    assert (again.path / "tokenizer.json").read_text() == json.dumps(llama3_tokenizer())


def test_a_training_with_few_tokens_learns(made: Elsewhere, words: Path, tmp_path: Path) -> None:
    before = evaluate(made.folder, words, progress="off").loss
    run = Trainer(settings(made, tmp_path, max_steps=20, learning_rate=3e-3), data=words).fit()
    assert run.metrics["train_loss"] < before - 0.5


def test_the_shape_is_the_model_s(made: Elsewhere, words: Path, tmp_path: Path) -> None:
    for change, named in (
        ({"num_layers": 3}, "--num-layers: the model has 2, asked for 3"),
        ({"vocab_size": 300}, "--vocab-size: the model has 272, asked for 300"),
        ({"seq_len": 65}, "--seq-len 65 is more than the 64 positions"),
        ({"tokenizer": str(made.folder / "tokenizer.json")}, "--tokenizer"),
    ):
        with pytest.raises(UsageError, match=named):
            Trainer(settings(made, tmp_path, **change), data=words).fit()
    assert not (tmp_path / "run").exists()
    plan = Trainer(TrainConfig(init_from=str(made.folder)), data=words).plan()
    assert plan.parameters == sum(p.size for p in made.parameters.values())
    assert plan.config.seq_len == 64


def test_a_changed_model_is_not_the_one_that_was_begun_with(
    made: Elsewhere, words: Path, tmp_path: Path, cli: Cli
) -> None:
    run = Trainer(settings(made, tmp_path, hash_interval=1), data=words).fit()
    same = cli("verify", run.path, "--from", "start")
    assert same.returncode == 0, same.stderr
    write_tensors(made.folder / "model.safetensors", made.parameters, "F32")
    changed = cli("verify", run.path, "--from", "start")
    assert changed.returncode == 3
    assert "not the model that the run began with" in changed.stderr


def test_a_run_here_can_be_begun_with(words: Path, tmp_path: Path) -> None:
    small: dict[str, Any] = {
        "preset": "tiny",
        "vocab_size": 270,
        "seq_len": 16,
        "batch_size": 4,
        "max_steps": 2,
        "sample_every": 0,
    }
    first = Trainer(TrainConfig(**small, out_dir=str(tmp_path / "a"), progress="off"), data=words).fit()
    run = Trainer(
        TrainConfig(init_from=str(first.path), out_dir=str(tmp_path / "b"), max_steps=1, batch_size=4, progress="off"),
        data=words,
    ).fit()
    assert (run.config.seq_len, run.config.vocab_size) == (16, 270)
    assert (run.path / "tokenizer.json").read_bytes() == (first.path / "tokenizer.json").read_bytes()


# --- what is refused -------------------------------------------------------------------------------------------------


def refused(folder: Path, kind: type[SymlmError] = DataError) -> str:
    """The message of the error that opening a model gives."""
    with pytest.raises(kind) as caught:
        Generator.from_pretrained(folder)
    assert "\n" not in caught.value.message
    return f"{caught.value.message} ({caught.value.hint})"


def test_bad_weights_are_refused(made: Elsewhere) -> None:
    weights = made.folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    assert "bytes of data, expected" in refused(made.folder)
    without = {name: p for name, p in made.parameters.items() if name != "lm_head.weight"}
    write_tensors(weights, without)
    assert "tensor lm_head.weight: missing" in refused(made.folder)
    write_tensors(weights, made.parameters | {"model.layers.0.self_attn.q_proj.bias": np.zeros(32)})
    assert "unknown" in refused(made.folder)

    weights.unlink()
    index = write_sharded(made.folder, made.parameters, "BF16")
    Generator.from_pretrained(made.folder)
    shard = made.folder / "model-00002-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-10])
    assert shard.name in refused(made.folder)
    shard.unlink()
    assert shard.name in refused(made.folder)
    raw = json.loads(index.read_text())
    raw["weight_map"]["model.norm.weight"] = "../../etc/secret.safetensors"
    index.write_text(json.dumps(raw))
    assert "in the same folder" in refused(made.folder)
    index.unlink()
    (made.folder / "pytorch_model.bin").touch()
    assert "found pytorch_model.bin, expected model.safetensors" in refused(made.folder, UserError)


def test_a_tokenizer_must_be_there_and_fit(made: Elsewhere) -> None:
    path = made.folder / "tokenizer.json"
    raw = llama3_tokenizer()
    last = raw["added_tokens"][-1]
    raw["added_tokens"] += [{**last, "id": 264 + i, "content": f"<|{i}|>"} for i in range(10)]
    path.write_text(json.dumps(raw))
    assert "found 274 tokens, the model has an embedding for 272" in refused(made.folder)
    raw["model"]["dropout"] = 0.1
    path.write_text(json.dumps(raw))
    assert "dropout" in refused(made.folder)
    path.write_text("{")
    assert "not a tokenizer.json" in refused(made.folder)
    path.unlink()
    assert "no tokenizer.json beside the weights" in refused(made.folder)
    (made.folder / "tokenizer.model").touch()
    assert "found tokenizer.model, expected tokenizer.json" in refused(made.folder)


def test_other_architectures_are_refused(made: Elsewhere) -> None:
    path = made.folder / "config.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps(raw | {"model_type": "mistral"}))
    assert "expected model_type llama, found 'mistral'" in refused(made.folder)
    path.write_text(json.dumps(raw | {"num_hidden_layers": 3}))
    assert "model.layers.2.input_layernorm.weight: missing" in refused(made.folder)
    path.unlink()
    assert "config.json: missing" in refused(made.folder)


def test_files_that_are_no_models(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF\x03\0\0\0")
    with pytest.raises(DataError, match="damaged GGUF file: ends where"):
        resolve_model(path)
    path.write_bytes(b"something else")
    with pytest.raises(UserError, match="not a run folder, a model folder or a GGUF file"):
        resolve_model(path)


def test_a_model_without_an_end_cannot_be_evaluated(made: Elsewhere, words: Path) -> None:
    path = made.folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": None}))
    (made.folder / "generation_config.json").unlink()
    assert _symlm.Tokenizer.of_model(str(made.folder / "tokenizer.json"), None, 272).eot_id is None
    assert len(Generator.from_pretrained(made.folder).generate("the", max_new_tokens=4)) > 0
    with pytest.raises(DataError, match="without a token that ends a text"):
        evaluate(made.folder, words, progress="off")
