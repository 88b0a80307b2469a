"""Adapters that PEFT saved, opened here as models: the logits are those of PEFT, unmerged and merged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import symlm
from elsewhere import BEGIN, make_model
from symlm.errors import DataError
from symlm.generate.generator import Generator

peft = pytest.importorskip("peft")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.interop, pytest.mark.filterwarnings("ignore")]

IDS = [BEGIN, *np.random.default_rng(8).integers(0, 260, 40).tolist()]
COMPUTED: dict[str, dict[str, Any]] = {
    "two modules": {"target_modules": ["q_proj", "v_proj"]},
    "all linear": {"target_modules": "all-linear"},
    "expression": {"target_modules": r".*\.(self_attn\.k_proj|mlp\.gate_proj)"},
    "rank-stabilized": {"use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 2, "layers.1.self_attn.v_proj": 8}, "alpha_pattern": {"v_proj": 5}},
    "anchored": {"alpha_pattern": {"^model.layers.0.self_attn.q_proj": 3, "q_proj": 7}},
    "one layer": {"layers_to_transform": 1},
    "excluded": {"target_modules": ["q_proj", "v_proj", "o_proj"], "exclude_modules": ["o_proj"]},
    "gaussian": {"init_lora_weights": "gaussian"},
    "turned over": {"fan_in_fan_out": True},
}
REFUSED: dict[str, dict[str, Any]] = {
    "dora": {"use_dora": True},
    "bias": {"bias": "all"},
    "whole modules": {"modules_to_save": ["lm_head"]},
    "head, which PEFT saves whole": {"target_modules": ["lm_head", "down_proj"]},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "principal components": {"init_lora_weights": "pissa"},
    "tokens": {"trainable_token_indices": [1, 2]},
    "replicated": {"layer_replication": [[0, 2], [1, 2]]},
}


def save(folder: Path, base: Path, settings: dict[str, Any]) -> None:
    """An adapter of PEFT with random factors."""
    torch.manual_seed(11)
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    config = {"r": 4, "lora_alpha": 10, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **settings}
    model = peft.get_peft_model(opened(base), peft.LoraConfig(**config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.3)
    model.save_pretrained(folder)


def opened(folder: Path) -> Any:
    """The base in f32."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logits(model: Any) -> np.ndarray[Any, Any]:
    """Logits of transformers, [tokens, vocabulary]."""
    with torch.no_grad():
        found: np.ndarray[Any, Any] = model(torch.tensor([IDS])).logits[0].numpy()
    return found


@pytest.mark.parametrize("name", COMPUTED)
def test_logits_are_those_of_peft(name: str, tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", dtype="BF16", seed=5).folder
    save(tmp_path / "adapter", base, COMPUTED[name])
    ours = Generator.from_pretrained(tmp_path / "adapter").logits(IDS)
    model = peft.PeftModel.from_pretrained(opened(base), tmp_path / "adapter").eval()
    unmerged = float(np.abs(ours - logits(model)).max())
    merged = float(np.abs(ours - logits(model.merge_and_unload())).max())
    moved = float(np.abs(ours - logits(opened(base))).max())
    print(f"\n{name}: against PEFT {unmerged:.1e}, merged there {merged:.1e}; the adapter moves {moved:.2f}", end="")
    assert max(unmerged, merged) <= 2e-4
    assert moved > 0.05


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_computed_is_refused(name: str, tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", seed=5).folder
    save(tmp_path / "adapter", base, REFUSED[name])
    with pytest.raises(DataError) as caught:
        Generator.from_pretrained(tmp_path / "adapter")
    print(f"\n{caught.value.message}", end="")


def test_adapters_of_a_run_are_found_from_their_folder(
    run: Path, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the guide says: PEFT takes the path to the base from the working directory."""
    (tmp_path / "text.txt").write_text(text[-100_000:], encoding="utf-8")
    config = symlm.TrainConfig(
        init_from=str(run), lora_rank=4, learning_rate=5e-3, batch_size=4, max_steps=5, sample_every=0, progress="off",
        out_dir=str(tmp_path / "tuned"),
    )  # fmt: skip
    tuned = symlm.Trainer(config, data=[tmp_path / "text.txt"]).fit().path
    adapter = tuned / "checkpoints/step-00000005/adapter"
    assert str(tmp_path) not in (adapter / "adapter_config.json").read_text()
    ids = symlm.Generator.from_pretrained(tuned, "last").tokenizer.encode("def a(self):")
    ours = symlm.Generator.from_pretrained(tuned, "last").logits(ids)
    assert symlm.Generator.from_pretrained(adapter).logits(ids).tobytes() == ours.tobytes()
    monkeypatch.chdir(adapter)
    model = peft.AutoPeftModelForCausalLM.from_pretrained(".").eval()
    with torch.no_grad():
        theirs = model(torch.tensor([ids])).logits[0].numpy()
    assert float(np.abs(ours - theirs).max()) <= 1e-4
    assert json.loads(Path("adapter_config.json").read_text())["base_model_name_or_path"] == "../../../base"
