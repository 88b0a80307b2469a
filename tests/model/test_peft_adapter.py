"""Adapter folders of PEFT as models: their base is found, and what would be computed otherwise is refused."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import Cli
from elsewhere import BEGIN, Elsewhere, llama3_tokenizer, make_model, write_tensors
from symlm.config.train_config import TrainConfig
from symlm.errors import DataError, SymlmError, UserError
from symlm.generate.generator import Generator
from symlm.model.peft import merge
from symlm.model.resolve import resolve_model
from symlm.training.trainer import Trainer

IDS = [BEGIN, 5, 6, 7, 200, 31]
RANK = 3
MODULES = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")

Factors = dict[str, np.ndarray[Any, Any]]


def factors(made: Elsewhere, modules: tuple[str, ...] = MODULES, rank: int = RANK, seed: int = 2) -> Factors:
    """Random factors by the names of PEFT."""
    random = np.random.default_rng(seed)
    found: Factors = {}
    for name, weight in made.parameters.items():
        if name.removesuffix(".weight").endswith(modules):
            own = f"base_model.model.{name.removesuffix('.weight')}"
            found[f"{own}.lora_A.weight"] = random.normal(0, 0.3, (rank, weight.shape[1])).astype("<f4")
            found[f"{own}.lora_B.weight"] = random.normal(0, 0.3, (weight.shape[0], rank)).astype("<f4")
    return found


def make_adapter(folder: Path, made: Elsewhere, tensors: Factors | None = None, **changes: Any) -> Path:
    """An adapter folder of PEFT; gives it."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "alpha_pattern": {}, "auto_mapping": None, "base_model_name_or_path": str(made.folder), "bias": "none",
        "fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": True, "lora_alpha": 6,
        "lora_dropout": 0.05, "modules_to_save": None, "peft_type": "LORA", "peft_version": "0.21.2", "r": RANK,
        "rank_pattern": {}, "target_modules": ["q_proj", "v_proj", "down_proj"], "task_type": "CAUSAL_LM",
        "use_dora": False, "use_rslora": False, **changes,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    write_tensors(folder / "adapter_model.safetensors", factors(made) if tensors is None else tensors)
    return folder


@pytest.fixture
def made(tmp_path: Path) -> Elsewhere:
    """A base in bf16, in several files."""
    return make_model(tmp_path / "model", dtype="BF16", sharded=True)


def expected(made: Elsewhere, tensors: Factors, scale: float | dict[str, float] = 2.0) -> np.ndarray[Any, Any]:
    """Logits of the oracle with the factors added; `scale` may differ by the last name of a module."""
    parameters = dict(made.parameters)
    for name in tensors:
        if name.endswith(".lora_A.weight"):
            own = name.removesuffix(".lora_A.weight")
            weight = own.removeprefix("base_model.model.") + ".weight"
            factor = scale if isinstance(scale, float) else scale[own.rsplit(".", 1)[1]]
            product = tensors[f"{own}.lora_B.weight"].astype(float) @ tensors[name].astype(float)
            parameters[weight] = parameters[weight] + factor * product
    return Elsewhere(made.folder, made.config, parameters).logits(IDS)


def check(folder: Path, logits: np.ndarray[Any, Any]) -> None:
    """The model of an adapter folder has these logits."""
    np.testing.assert_allclose(Generator.from_pretrained(folder).logits(IDS), logits, atol=2e-4)


def test_scales(made: Elsewhere, tmp_path: Path) -> None:
    tensors = factors(made)
    folder = tmp_path / "adapter"
    check(make_adapter(folder, made, tensors), expected(made, tensors))
    check(make_adapter(folder, made, tensors, use_rslora=True), expected(made, tensors, 6 / 3**0.5))
    scales = {"q_proj": 4.0, "v_proj": 2.0, "down_proj": 1.0}
    pattern = {"self_attn.q_proj": 12, "^q_proj": 99, "down_proj": 3}
    check(make_adapter(folder, made, tensors, alpha_pattern=pattern), expected(made, tensors, scales))
    tensors = factors(made, MODULES[:1], 2) | factors(made, MODULES[1:])
    scales = {"q_proj": 3.0, "v_proj": 2.0, "down_proj": 2.0}
    check(make_adapter(folder, made, tensors, rank_pattern={"q_proj": 2}), expected(made, tensors, scales))
    tensors = factors(made, ("lm_head", "mlp.up_proj"))
    check(make_adapter(folder, made, tensors, target_modules=".*(up_proj|lm_head)"), expected(made, tensors))
    tensors = {name: value for name, value in factors(made).items() if ".layers.1." in name}
    check(make_adapter(folder, made, tensors, layers_to_transform=[1]), expected(made, tensors))


def test_the_base_is_found(made: Elsewhere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = expected(made, factors(made))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for path in (str(made.folder), "../model", "../../model"):
        check(make_adapter(tmp_path / "a/adapter", made, base_model_name_or_path=path), logits)
    for wrong in ("meta-llama/Llama-3.2-1B", "", None, 7, "a\0b"):
        make_adapter(tmp_path / "a/adapter", made, base_model_name_or_path=wrong)
        with pytest.raises(UserError, match=r"adapter_config\.json: base_model_name_or_path: found") as caught:
            resolve_model(tmp_path / "a/adapter")
        assert "nothing is downloaded" in str(caught.value.hint)


def test_the_adapter_s_own_tokenizer_goes_first(made: Elsewhere, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "adapter", made)
    assert resolve_model(folder).load_tokenizer().encode("the") == [257]
    bytes_alone = llama3_tokenizer()
    bytes_alone["model"] |= {"merges": [], "ignore_merges": False}
    (folder / "tokenizer.json").write_text(json.dumps(bytes_alone))
    (folder / "chat_template.jinja").write_text("hello")
    files = resolve_model(folder)
    assert len(files.load_tokenizer().encode("the")) == 3
    template = files.companion("chat_template.jinja")
    assert template is not None
    assert template.read_text() == "hello"
    assert files.model_config().eos_token_ids == resolve_model(made.folder).model_config().eos_token_ids


def test_every_command_takes_it(made: Elsewhere, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMLM_CACHE_DIR", str(tmp_path / "cache"))
    folder = make_adapter(tmp_path / "adapter", made)
    (tmp_path / "words.txt").write_text("the cat sat on the mat. 12 345\n" * 100)
    for words in (
        ("generate", folder, "--prompt", "the", "--max-new-tokens", 3),
        ("eval", folder, "words.txt"),
        ("export", folder, "--to", "hf", "--out", "out"),
    ):
        done = cli(*words)
        assert done.returncode == 0, done.stderr
    check(tmp_path / "out", expected(made, factors(made)))
    config = TrainConfig(
        init_from=str(folder), out_dir=str(tmp_path / "run"), max_steps=1, batch_size=4, seq_len=16, sample_every=0,
        learning_rate=1e-12, progress="off",
    )  # fmt: skip
    run = Trainer(config, data=[tmp_path / "words.txt"]).fit()
    record = json.loads((run.path / "environment.json").read_text())["init_from"]
    assert {"adapter_config.json", "adapter_model.safetensors", "model.safetensors.index.json"} < set(record["sha256"])
    np.testing.assert_allclose(
        Generator.from_pretrained(run.path, "last").logits(IDS), expected(made, factors(made)), atol=2e-3
    )


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "dora": ({"use_dora": True}, "use_dora True"),
    "bias": ({"bias": "all"}, "bias 'all'"),
    "whole modules": ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    "bias of factors": ({"lora_bias": True}, "lora_bias True"),
    "another method": ({"peft_type": "IA3"}, "peft_type 'IA3'"),
    "another task": ({"task_type": "SEQ_CLS"}, "task_type 'SEQ_CLS'"),
    "another base": ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa', which changes the base"),
    "more layers": ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
    "tokens": ({"trainable_token_indices": [1]}, "trainable_token_indices"),
    "a method to come": ({"use_tomorrow": True}, "use_tomorrow True"),
    "expression": ({"alpha_pattern": {"(a+)+$": 3}}, "regular expression '(a+)+$' is not supported"),
    "alpha": ({"lora_alpha": "16"}, "lora_alpha: found '16'"),
    "rank": ({"r": 4}, "of rank r = 4"),
    "no targets": ({"target_modules": ["q_proj"]}, "has factors of model.layers.0.self_attn.v_proj"),
    "excluded": ({"exclude_modules": ["v_proj"]}, "self_attn.v_proj, which target_modules, exclude_modules"),
    "layers": ({"layers_to_transform": 1}, "has factors of model.layers.0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_computed_is_named(name: str, made: Elsewhere, tmp_path: Path) -> None:
    change, named = REFUSED[name]
    folder = make_adapter(tmp_path / "adapter", made, **change)
    assert named in refused(folder)


def refused(folder: Path, kind: type[SymlmError] = DataError) -> str:
    """The message for an adapter folder that is not opened."""
    with pytest.raises(kind) as caught:
        Generator.from_pretrained(folder)
    assert "\n" not in caught.value.message
    return caught.value.message


def test_bad_files_are_refused(made: Elsewhere, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    whole = factors(made)
    first = next(iter(whole))
    make_adapter(folder, made, {name: value for name, value in whole.items() if name != first})
    assert "found one factor" in refused(folder)
    make_adapter(folder, made, whole | {first: whole[first][:, :5]})
    assert "found factors of the shapes [3, 5] and [32, 3], expected [3, 32]" in refused(folder)
    for other in ("base_model.model.model.embed_tokens.lora_embedding_A", "base_model.model.lm_head.weight",
                  "base_model.model.model.layers.7.mlp.up_proj.lora_A.weight"):  # fmt: skip
        make_adapter(folder, made, whole | {other: whole[first]})
        assert other in refused(folder)
    make_adapter(folder, made, base_model_name_or_path=str(folder))
    assert "is an adapter too" in refused(folder)
    make_adapter(folder, made)
    shutil.copy(made.folder / "model-00001-of-00003.safetensors", folder / "model.safetensors")
    assert "beside model.safetensors" in refused(folder)
    (folder / "model.safetensors").unlink()
    (folder / "adapter_model.safetensors").unlink()
    assert "adapter_model.safetensors: missing" in refused(folder)
    tied = make_model(tmp_path / "tied", tie_embeddings=True)
    head = {f"base_model.model.lm_head.lora_{half}.weight": np.ones(shape)
            for half, shape in (("A", (3, 32)), ("B", (272, 3)))}  # fmt: skip
    assert "lm_head.lora_A" in refused(make_adapter(folder, tied, head))


def test_adapters_are_merged_with_one_rounding() -> None:
    """As with exact numbers: the products are rounded when they are added, not before."""
    random = np.random.default_rng(4)
    for scale in (1.0, 1e-18, 1e-30):
        base, a, b = ((random.standard_normal(shape) * scale).astype(np.float32) for shape in ((5, 7), (3, 7), (5, 3)))
        factor = np.float32(0.3)
        merged = merge(base, a, b, 0.3)
        for o, i in np.ndindex(5, 7):
            total = np.float32(0)
            for k in range(3):
                total = rounded(Fraction(float(b[o, k])) * Fraction(float(a[k, i])) + Fraction(float(total)))
            exact = Fraction(float(factor)) * Fraction(float(total)) + Fraction(float(base[o, i]))
            assert merged[o, i] == rounded(exact)
    # Halfway between two numbers but for a part that 64 bits have no room for.
    base = np.array([[1 + 2.0**-23]], dtype=np.float32)
    a = np.array([[2.0**-24 + 2.0**-47]], dtype=np.float32)
    b = np.array([[1 - 2.0**-24]], dtype=np.float32)
    for sign in (1, -1):
        total = rounded(Fraction(float(b[0, 0])) * Fraction(float(a[0, 0])) * sign)
        assert merge(base, a, sign * b, 1.0)[0, 0] == rounded(Fraction(float(total)) + Fraction(float(base[0, 0])))


def rounded(exact: Fraction) -> np.float32:
    """The float32 that is nearest, the even one of two."""
    near = np.float32(float(exact))
    candidates = [near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))]
    return min(candidates, key=lambda value: (abs(Fraction(float(value)) - exact), int(value.view(np.uint32)) & 1))
