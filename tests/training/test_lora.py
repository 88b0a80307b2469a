"""Training of low-rank adapters: the run folder, resuming, computing again, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import planted
import symlm
from conftest import Cli
from symlm import _symlm
from symlm.check.replay import replay
from symlm.check.verify import verify as verify_run
from symlm.config.engine import settings_of
from symlm.errors import DataError, UsageError
from symlm.model.resolve import resolve_model
from symlm.run.checkpoint import State, read_manifest, verify
from symlm.run.metrics import read_lines
from symlm.system.files import file_hash

SHAPE: dict[str, Any] = {"preset": "tiny", "vocab_size": 300, "seq_len": 32, "hidden_size": 32, "num_layers": 2,
                         "num_heads": 4, "num_kv_heads": 2, "intermediate_size": 48}  # fmt: skip
SETTINGS: dict[str, Any] = {"batch_size": 8, "eval_interval": 4, "sample_every": 0, "hash_interval": 4,
                            "log_interval": 1, "threads": 2, "progress": "off"}  # fmt: skip
LORA: dict[str, Any] = {"lora_rank": 3, "lora_alpha": 6.0, "lora_targets": "v_proj,q_proj,down_proj",
                        "learning_rate": 0.01}  # fmt: skip
STEPS, STEP = 12, "checkpoints/step-00000012"
FILES = ("model.safetensors", "optimizer.safetensors", "adapter/adapter_model.safetensors")

Tensors = dict[str, np.ndarray[Any, np.dtype[np.float32]]]


def tensors(path: Path) -> Tensors:
    """The tensors of a safetensors file in f32."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    found: Tensors = {}
    for name, info in json.loads(raw[8 : 8 + size]).items():
        if name != "__metadata__":
            start, end = (8 + size + offset for offset in info["data_offsets"])
            found[name] = np.frombuffer(raw[start:end], "<f4").reshape(info["shape"])
    return found


def fit(place: Path, name: str, **changes: Any) -> symlm.Run:
    """A run of adapters on the base of this place."""
    config = {**SETTINGS, **LORA, "init_from": str(place / "model"), "max_steps": STEPS, "save_interval": 4,
              "keep_last": 5, "out_dir": str(place / name), **changes}  # fmt: skip
    return symlm.Trainer(symlm.TrainConfig(**config), data=[place / "text.txt"]).fit()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder with a text, a model that was trained on it (`model`) and adapters for that (`run`)."""
    folder = tmp_path_factory.mktemp("lora")
    planted.write_text(folder / "text.txt", 90, 40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYMLM_CACHE_DIR", str(folder / "cache"))
        patch.setattr(_symlm, "fma_peak", lambda threads, seconds: 1.0)
        config = symlm.TrainConfig(**SHAPE, **SETTINGS, max_steps=20, out_dir=str(folder / "model"))
        symlm.Trainer(config, data=[folder / "text.txt"]).fit()
        fit(folder, "run")
        yield folder


@pytest.fixture
def copied(place: Path, tmp_path: Path) -> Path:
    """The same in a folder that may be spoiled."""
    shutil.copytree(place / "run", tmp_path / "run")
    return tmp_path / "run"


def test_the_weights_are_the_base_and_the_adapters(place: Path) -> None:
    base = tensors(place / "run/base/model.safetensors")
    start = tensors(place / "model/best/model.safetensors")
    weights, factors = (tensors(place / "run" / STEP / name) for name in (FILES[0], FILES[2]))
    assert base.keys() == weights.keys()
    changed = set()
    for name, w0 in base.items():
        assert np.array_equal(w0, start[name])
        own = f"base_model.model.{name.removesuffix('.weight')}"
        a, b = factors.pop(f"{own}.lora_A.weight", None), factors.pop(f"{own}.lora_B.weight", None)
        if a is None or b is None:
            assert weights[name].tobytes() == w0.tobytes(), name
            continue
        changed.add(name.split(".")[-2])
        assert (a.shape, b.shape) == ((3, w0.shape[1]), (w0.shape[0], 3))
        expected = w0 + 2.0 * (b.astype(np.float64) @ a.astype(np.float64))
        assert np.max(np.abs(weights[name] - expected)) < 1e-6
        assert np.max(np.abs(weights[name] - w0)) > 1e-4, name
    assert (factors, changed) == ({}, {"q_proj", "v_proj", "down_proj"})
    assert json.loads((place / "run/base/config.json").read_text()) == json.loads(
        (place / "run" / STEP / "config.json").read_text()
    )


def test_the_checkpoint_is_complete_and_small(place: Path) -> None:
    run = place / "run"
    for folder in (run / STEP, run / "best"):
        verify(folder)
        assert {*FILES, "adapter/adapter_config.json"} <= read_manifest(folder).keys()
    moments = tensors(run / STEP / FILES[1])
    assert len(moments) == 2 * 2 * 2 * 3
    assert "first_moment.model.layers.1.mlp.down_proj.lora_B.weight" in moments
    assert (run / STEP / FILES[1]).stat().st_size < (place / "model/best" / FILES[1]).stat().st_size / 4
    peft = json.loads((run / STEP / "adapter/adapter_config.json").read_text())
    assert (peft["peft_type"], peft["task_type"]) == ("LORA", "CAUSAL_LM")
    assert (peft["bias"], peft["lora_dropout"]) == ("none", 0)
    assert (peft["r"], peft["lora_alpha"], peft["fan_in_fan_out"]) == (3, 6, False)
    assert peft["target_modules"] == ["q_proj", "v_proj", "down_proj"]
    assert peft["base_model_name_or_path"] == "../../../base"
    assert (run / STEP / "adapter" / peft["base_model_name_or_path"]).resolve() == (run / "base").resolve()


def test_the_adapter_folder_is_a_model(copied: Path, tmp_path: Path) -> None:
    """The base and the adapters of a checkpoint are its weights, bit for bit, wherever the run lies; `best/` too, whose
    adapter folder is that of a checkpoint."""
    moved = copied.rename(tmp_path / "elsewhere")
    (tmp_path / "base").mkdir()
    for checkpoint in (moved / STEP, moved / "best"):
        files = resolve_model(checkpoint / "adapter")
        merged, whole = tensors(files.weights), tensors(checkpoint / FILES[0])
        assert merged.keys() == whole.keys()
        for name, value in whole.items():
            assert merged[name].tobytes() == value.tobytes(), name
        assert files.model_config() == resolve_model(checkpoint).model_config()
        assert files.load_tokenizer().sha256 == resolve_model(checkpoint).load_tokenizer().sha256
    weights = moved / "base/model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-3] ^= 1
    weights.write_bytes(raw)
    with pytest.raises(DataError, match=r"not the weights that the adapters of .* were trained on"):
        resolve_model(moved / STEP / "adapter")


def test_training_lowers_the_loss(place: Path) -> None:
    def losses(run: str) -> list[float]:
        return [record["val_loss"] for record in read_lines(place / run / "metrics.jsonl") if record["event"] == "eval"]

    assert losses("run")[-1] < losses("model")[-1]


def test_going_on_gives_the_same_files(place: Path) -> None:
    half = fit(place, "half", stop_at_step=6, threads=1)
    assert (half.step, half.finished) == (6, False)
    whole = fit(place, "half", resume="auto", threads=3)
    assert whole.finished
    for name in FILES:
        assert file_hash(place / "half" / STEP / name) == file_hash(place / "run" / STEP / name), name


def test_other_adapters_are_another_run(place: Path) -> None:
    with pytest.raises(symlm.errors.UserError, match="--lora-rank: the run has 3, asked for 4"):
        fit(place, "run", resume="auto", lora_rank=4)


def test_updates_are_computed_again(place: Path) -> None:
    run = place / "run"
    for start in ("start", "4"):
        result = verify_run(run, steps=STEPS, start=start, threads=3, progress="off")
        assert result.difference is None
        assert result.compared["weights of a checkpoint"] == result.compared["moments of a checkpoint"]
    again = replay(run, 7, out=str(place / "again"), progress="off")
    assert again.difference is None
    verify(place / "again")
    assert (place / "again/adapter/adapter_config.json").is_file()


def test_a_rollback_to_the_beginning_begins_with_the_base(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way back from update 3, before any checkpoint, leads to adapters that add nothing."""
    with monkeypatch.context() as patch:
        patch.setattr(_symlm, "Engine", planted.failing_once(3))
        run = fit(place, "back", save_interval=50, hash_interval=1, on_nan="rollback").path
    (back,) = (record for record in read_lines(run / "metrics.jsonl") if record["event"] == "rollback")
    assert (back["step"], back["left_out"], back["checkpoint"]) == (0, [[1, 3]], None)
    result = verify_run(run, steps=STEPS, start="start", progress="off")
    assert result.difference is None and result.compared["weights, by their hash"] == STEPS


def test_the_model_is_used_as_any_other(place: Path, cli: Cli) -> None:
    done = cli("generate", place / "run", "--prompt", "a", "--max-new-tokens", 5, "--temperature", 0)
    assert done.returncode == 0, done.stderr
    done = cli("eval", place / "run", place / "text.txt", "--progress", "off")
    assert done.returncode == 0, done.stderr
    found = symlm.Generator.from_pretrained(place / "run", "last")
    assert found.generate("a", max_new_tokens=3, temperature=0.0)


def test_a_finished_run_is_extended(copied: Path, cli: Cli) -> None:
    done = cli("train", "--extend-steps", 4, "--out-dir", copied, "--progress", "off")
    assert done.returncode == 0, done.stderr
    verify(copied / "checkpoints/step-00000016")


def test_a_base_that_is_not_that_of_the_run_is_refused(place: Path, copied: Path) -> None:
    path = copied / "base/model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DataError, match="trained on other base weights") as caught:
        verify_run(copied, steps=4, start="8", progress="off")
    assert "restore the folder base" in (caught.value.hint or "")
    with pytest.raises(DataError, match="damaged or replaced: the adapters of step 4 were trained on other base"):
        verify_run(copied, steps=4, start="start", progress="off")
    path.write_bytes(raw[:-9])
    with pytest.raises(DataError, match=r"base/model\.safetensors: found \d+ bytes of data"):
        verify_run(copied, steps=4, start="8", progress="off")
    shutil.rmtree(copied / "base")
    with pytest.raises(DataError, match=r"base/model\.safetensors: missing from the run"):
        verify_run(copied, steps=4, start="8", progress="off")


def test_adapters_that_are_not_those_of_the_checkpoint_are_refused(copied: Path) -> None:
    """A checkpoint whose files are whole but do not belong together."""
    other, own = copied / "checkpoints/step-00000008", copied / STEP
    shutil.copyfile(other / FILES[2], own / FILES[2])
    manifest = json.loads((own / "MANIFEST.json").read_text())
    manifest["files"][FILES[2]]["sha256"] = file_hash(own / FILES[2])
    (own / "MANIFEST.json").write_text(json.dumps(manifest))
    verify(own)
    state = json.loads((own / "trainer_state.json").read_text())
    shards = _symlm.Shards.random(str(copied / "shards"), 300, 2000, 0)
    engine = _symlm.Engine(settings_of({**state["config"], "threads": 1}), shards)
    try:
        engine.load_weights(str(copied / "base/model.safetensors"))
        with pytest.raises(DataError, match="is not what the base weights and the adapters beside it give"):
            engine.load(str(own), State.read(own).engine_state(own))
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora_rank": 4}, "--lora-rank 4: adapters need a model that they are added to"),
        ({"init_from": "m", "lora_rank": 4, "embedding_lr_ratio": 2}, "adapters leave the embedding as it is"),
        ({"lora_alpha": 4}, "--lora-alpha is about adapters, but there are none"),
        ({"lora_targets": "q_proj"}, "--lora-targets is about adapters, but there are none"),
        ({"init_from": "m", "lora_rank": 2, "lora_targets": "q_prj"}, "found 'q_prj', expected some of q_proj"),
        ({"init_from": "m", "lora_rank": -1}, "--lora-rank: expected at least 0"),
        ({"init_from": "m", "lora_rank": 2, "lora_alpha": 0}, "--lora-alpha: expected a number above 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        symlm.TrainConfig(**settings)
    assert message in caught.value.message


def test_targets_have_one_spelling() -> None:
    config = symlm.TrainConfig(init_from="m", lora_rank=2, lora_targets=" up_proj, q_proj ,up_proj")
    assert (config.lora_targets, config.lora_alpha_value) == ("q_proj,up_proj", 4.0)
    assert symlm.TrainConfig(init_from="m", lora_rank=2).lora_target_names == symlm.config.train_config.LORA_TARGETS
