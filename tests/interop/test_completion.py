"""The loss over completions is that of transformers with labels of -100 elsewhere, on windows made by the rules."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

import blanks
from elsewhere import BEGIN, END, llama3_tokenizer
from interop.test_import import opened, save
from symlm.evaluation.windows import evaluate

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.interop

IGNORED = -100
WINDOW = 257


def examples_of(seed: int) -> list[tuple[str, str]]:
    """Prompts and completions of words and white space, which also stands at the ends of both."""
    rng = np.random.default_rng(seed)
    words = ["the", "cat", "sat", "on", "mat", "12", "\n", "return", "self", " ", "th"]
    pick = [rng.choice(words, rng.integers(low, high)).tolist() for _ in range(400) for low, high in ((0, 30), (1, 20))]
    texts = [" ".join(part) for part in pick]
    ends = [" ", "", "\n", " "]
    return [(texts[i] + ends[i // 2 % 4], texts[i + 1]) for i in range(0, len(texts), 2)]


def divided(tokenizer: Tokenizer, prompt: str, completion: str) -> tuple[list[int], list[int]]:
    """Context and answer: the ids of one text, divided behind the prompt, as transformers would get them."""
    head, whole = tokenizer.encode(prompt.rstrip()).ids, tokenizer.encode(prompt + completion).ids
    assert len(whole) > len(head)
    return whole[: len(head)], whole[len(head) :]


@pytest.mark.parametrize("kind", ["llama3", *blanks.KINDS])
def test_the_loss_over_completions_is_that_of_transformers(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMLM_CACHE_DIR", str(tmp_path / "cache"))
    begin, end = (BEGIN, END) if kind == "llama3" else (blanks.BEGIN, blanks.END)
    shape = {"num_key_value_heads": 2, "max_position_embeddings": 256, "vocab_size": 344}
    save(tmp_path / "model", {**shape, "bos_token_id": begin, "eos_token_id": end})
    if kind == "llama3":
        tokenizer = Tokenizer.from_str(json.dumps(llama3_tokenizer()))
    else:
        tokenizer = blanks.write(kind, tmp_path / "model")
    examples = examples_of(5)
    lines = (json.dumps({"prompt": prompt, "completion": completion}) for prompt, completion in examples)
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    ours = evaluate(tmp_path / "model", tmp_path / "a.jsonl", progress="off")

    windows: list[tuple[list[int], list[int]]] = [([], [])]
    for prompt, completion in examples:
        context, answer = divided(tokenizer, prompt, completion)
        answer = [*answer, end]
        assert context[0] == begin
        if len(windows[-1][0]) + len(context) + len(answer) > WINDOW:
            windows.append(([], []))
        windows[-1][0].extend([*context, *answer])
        windows[-1][1].extend([*[IGNORED] * len(context), *answer])
    model = opened(tmp_path / "model", "float64")
    losses = []
    with torch.no_grad():
        for ids, labels in windows:
            rows = model(torch.tensor([ids[:-1]])).logits[0]
            wanted = torch.tensor(labels[1:])
            losses.append(torch.nn.functional.cross_entropy(rows, wanted, ignore_index=IGNORED, reduction="none"))
    counted = sum(label != IGNORED for _, labels in windows for label in labels)
    theirs = float(torch.cat(losses).sum()) / counted
    relative = abs(ours.loss / theirs - 1)
    print(f"\n{kind}: loss {ours.loss:.8f}, of transformers {theirs:.8f}, relative {relative:.1e}", end="")
    assert (ours.tokens, ours.windows) == (counted, len(windows))
    assert relative <= 1e-6
