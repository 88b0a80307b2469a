"""Adapters in PEFT: on the base in transformers they give the model of the checkpoint, unmerged and merged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.numpy import load_file

import symlm

# PEFT asks transformers for what has another name by now.
pytestmark = [pytest.mark.interop, pytest.mark.filterwarnings("ignore::FutureWarning")]

MOST_LOGITS = 1e-4
STEPS = 30

Floats = np.ndarray[Any, np.dtype[np.float32]]


@pytest.fixture(scope="module", params=["v_proj,q_proj", None], ids=["attention", "everything"])
def adapters(run: Path, text: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A run of adapters on the model that these tests share, trained on another part of its text."""
    folder = tmp_path_factory.mktemp("lora")
    (folder / "text.txt").write_text(text[-300_000:], encoding="utf-8")
    config = symlm.TrainConfig(
        init_from=str(run), lora_rank=8, lora_targets=request.param, learning_rate=5e-3, batch_size=8, max_steps=STEPS,
        sample_every=0, progress="off", out_dir=str(folder / "run"),
    )  # fmt: skip
    return symlm.Trainer(config, data=[folder / "text.txt"]).fit().path


@pytest.fixture(scope="module")
def checkpoint(adapters: Path) -> Path:
    """Its last checkpoint."""
    return adapters / "checkpoints" / f"step-{STEPS:08d}"


def base_model(adapters: Path) -> Any:
    """The base in transformers."""
    torch.set_num_threads(1)
    return transformers.AutoModelForCausalLM.from_pretrained(adapters / "base").eval()


def logits(model: Any, ids: list[int]) -> Floats:
    """Logits after each token."""
    with torch.no_grad():
        found: Floats = model(torch.tensor([ids])).logits[0].float().numpy()
    return found


def test_logits_of_the_adapters(adapters: Path, checkpoint: Path, prompts: list[str]) -> None:
    ours = symlm.Generator.from_pretrained(adapters, "last")
    model = peft.PeftModel.from_pretrained(base_model(adapters), checkpoint / "adapter").eval()
    alone = base_model(adapters)
    worst, moved = 0.0, 0.0
    encoded = [ours.tokenizer.encode(prompt) for prompt in prompts]
    expected = [ours.logits(ids) for ids in encoded]
    for ids, own in zip(encoded, expected, strict=True):
        worst = max(worst, float(np.max(np.abs(logits(model, ids) - own))))
        moved = max(moved, float(np.max(np.abs(logits(alone, ids) - own))))
    merged = model.merge_and_unload()
    worst_merged = max(
        float(np.max(np.abs(logits(merged, ids) - own))) for ids, own in zip(encoded, expected, strict=True)
    )
    print(f"\nlargest logit difference to PEFT: unmerged {worst:.2e}, merged there {worst_merged:.2e}")
    print(f"what the adapters change: {moved:.2f}")
    assert worst <= MOST_LOGITS
    assert worst_merged <= MOST_LOGITS
    assert moved > 0.1


def test_weights_merged_there_are_those_of_the_checkpoint(adapters: Path, checkpoint: Path) -> None:
    model = peft.PeftModel.from_pretrained(base_model(adapters), checkpoint / "adapter").merge_and_unload()
    theirs = {name: value.numpy() for name, value in model.state_dict().items()}
    worst = 0.0
    for name, value in load_file(checkpoint / "model.safetensors").items():
        worst = max(worst, float(np.max(np.abs(theirs[name] - value))))
    print(f"\nlargest difference of a merged weight: {worst:.2e}")
    assert worst <= 1e-6


def test_the_adapter_folder_finds_its_base(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkpoint / "adapter")
    model = peft.AutoPeftModelForCausalLM.from_pretrained(".")
    kept = json.loads((checkpoint / "adapter/adapter_config.json").read_text())
    found = model.peft_config["default"]
    assert (found.r, found.lora_alpha, found.target_modules) == (8, 16, set(kept["target_modules"]))
