"""New special tokens of a model that has more rows than tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from symlm import Trainer, finetune_config
from symlm.config.train_config import TrainConfig
from symlm.model.resolve import resolve_model
from symlm.model.tensors import Outgoing, from_floats, outgoing, read_tensors, write_tensors
from symlm.run.folder import RunFolder
from symlm.training.initial import Initial
from test_conversations import _cache, messages_of, pairs, write

pytest.importorskip("jinja2")
__all__ = ["_cache"]

TOKENS, PADDING = 280, 5


@pytest.fixture
def padded(tmp_path: Path) -> Path:
    """A model of 280 tokens with 285 rows, of which the last are far from all others."""
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{a} {b}\n" for a, b in pairs(200)))
    config = TrainConfig(preset="tiny", vocab_size=TOKENS, batch_size=4, sample_every=0, max_steps=1, val_split=0.0,
                         out_dir=str(tmp_path / "run"))  # fmt: skip
    files = resolve_model(Trainer(config, data=[text]).fit().path)
    folder = tmp_path / "padded"
    folder.mkdir()

    def wider(tensor: Any) -> Outgoing:
        if tensor.name not in ("model.embed_tokens.weight", "lm_head.weight"):
            return outgoing(tensor, "F32")
        whole = np.pad(tensor.floats(), ((0, PADDING), (0, 0)), constant_values=7.0)
        return Outgoing(tensor.name, "F32", whole.shape, lambda: from_floats(whole, "F32", tensor.name))

    with (folder / "model.safetensors").open("wb") as file:
        write_tensors(file, [wider(tensor) for tensor in read_tensors(files.folder).values()])
    raw = json.loads((files.folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**raw, "vocab_size": TOKENS + PADDING}))
    (folder / "tokenizer.json").write_bytes(files.tokenizer.read_bytes())
    return folder


def test_new_tokens_get_the_mean_and_not_the_padding(padded: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "chat.jsonl", [{"messages": messages_of(*pair)} for pair in pairs(60)])
    # A rate of nearly nothing: the first weights are still those of the last step.
    config = finetune_config(
        padded, max_steps=1, out_dir=str(tmp_path / "tuned"), batch_size=2, threads=1, sample_every=0,
        learning_rate=1e-9, weight_decay=0.0,
    )  # fmt: skip
    run = Trainer(config, data=[data]).fit()
    files = resolve_model(run.path, "last")
    before = read_tensors(padded)["model.embed_tokens.weight"].floats()
    after = read_tensors(files.folder)["model.embed_tokens.weight"].floats()
    assert after.shape == (TOKENS + PADDING, before.shape[1])
    mean = before[:TOKENS].astype(np.float64).mean(axis=0)
    assert np.allclose(after[TOKENS : TOKENS + 2], mean, atol=1e-5)
    assert np.allclose(after[TOKENS + 2 :], 7.0, atol=1e-5) and np.allclose(after[:TOKENS], before[:TOKENS], atol=1e-5)
    # What comes back to the beginning of the run finds the same rows.
    initial = Initial.of_run(run.config, RunFolder(run.path))
    assert initial is not None and initial.new == range(TOKENS, TOKENS + 2)
    assert run.config.vocab_size == TOKENS + PADDING
