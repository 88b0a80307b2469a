"""The loss over completions is that of transformers with labels of -100 elsewhere, on windows made by the rules."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from elsewhere import BEGIN, END
from interop.test_import import opened, save
from symlm.evaluation.windows import evaluate
from symlm.model.resolve import resolve_model

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.interop

IGNORED = -100


def test_the_loss_over_completions_is_that_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMLM_CACHE_DIR", str(tmp_path / "cache"))
    window = 257
    save(tmp_path / "model", {"num_key_value_heads": 2, "max_position_embeddings": 256})
    model = opened(tmp_path / "model")
    rng = np.random.default_rng(5)
    words = ["the", "cat", "sat", "on", "mat", "12", "\n"]
    examples = [
        [" ".join(rng.choice(words, rng.integers(low, high)).tolist()) for low, high in ((0, 30), (1, 20))]
        for _ in range(400)
    ]
    lines = (json.dumps({"prompt": prompt, "completion": completion}) for prompt, completion in examples)
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    ours = evaluate(tmp_path / "model", tmp_path / "a.jsonl", progress="off")

    tokenizer = resolve_model(tmp_path / "model").load_tokenizer()
    windows: list[tuple[list[int], list[int]]] = [([], [])]
    for prompt, completion in examples:
        context, answer = tokenizer.encode_prompt(prompt), [*tokenizer.encode(completion), END]
        assert context[0] == BEGIN
        if len(windows[-1][0]) + len(context) + len(answer) > window:
            windows.append(([], []))
        windows[-1][0].extend([*context, *answer])
        windows[-1][1].extend([*[IGNORED] * len(context), *answer])
    losses = []
    with torch.no_grad():
        for ids, labels in windows:
            rows = model(torch.tensor([ids[:-1]])).logits[0].double()
            wanted = torch.tensor(labels[1:])
            losses.append(torch.nn.functional.cross_entropy(rows, wanted, ignore_index=IGNORED, reduction="none"))
    counted = sum(label != IGNORED for _, labels in windows for label in labels)
    theirs = float(torch.cat(losses).sum()) / counted
    print(f"\nloss {ours.loss:.7f}, of transformers {theirs:.7f}, relative {abs(ours.loss / theirs - 1):.1e}", end="")
    assert (ours.tokens, ours.windows) == (counted, len(windows))
    assert ours.loss == pytest.approx(theirs, rel=1e-5)
