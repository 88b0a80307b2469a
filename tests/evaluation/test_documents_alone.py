"""Every token of a text, counted once, by models that see documents alone, and what stands before a document with
tokenizers of other programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import symlm
from elsewhere import BEGIN, END, STOP, llama3_tokenizer, make_model, metaspace_tokenizer
from symlm.evaluation.rolling import DocumentLoss, evaluate_rolling

DOCUMENTS = ["the cat sat on the mat", "t", "12 345 the th", "cat at the cat"]
SEQ = 64


def two_begin() -> dict[str, Any]:
    """Two tokens begin every text."""
    made = llama3_tokenizer()
    post = made["post_processor"]
    post["single"].insert(1, {"SpecialToken": {"id": "<|stop|>", "type_id": 0}})
    post["special_tokens"]["<|stop|>"] = {"id": "<|stop|>", "ids": [STOP], "tokens": ["<|stop|>"]}
    return made


TOKENIZERS: dict[str, tuple[Callable[[], dict[str, Any]], list[int]]] = {
    "begin": (llama3_tokenizer, [BEGIN]),
    "two begin": (two_begin, [BEGIN, STOP]),
    "none": (metaspace_tokenizer, []),
}
"""What they begin every text with. The model's own begin of a text is `BEGIN`, its end `END`."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMLM_CACHE_DIR", str(tmp_path / "cache"))


def texts(path: Path, documents: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents), encoding="utf-8")
    return path


def tuned(tmp_path: Path, attend: str, tokenizer: dict[str, Any]) -> Path:
    """A run of two updates on a model from elsewhere."""
    model = make_model(tmp_path / "model", tokenizer=tokenizer, seq_len=SEQ).folder
    config = symlm.TrainConfig(
        init_from=str(model), seq_len=SEQ, batch_size=2, max_steps=2, learning_rate=1e-3, val_split=0.0, threads=2,
        eval_interval=0, sample_every=0, out_dir=str(tmp_path / attend), progress="off", attend=attend,  # type: ignore[arg-type]
    )  # fmt: skip
    return symlm.Trainer(config, data=[texts(tmp_path / "train.jsonl", DOCUMENTS * 30)]).fit().path


def surprise(generator: symlm.Generator, seen: list[int], token: int) -> float:
    """Nats of `token` after `seen`."""
    row = generator.logits(seen)[-1].astype(np.float64)
    return float(np.log(np.exp(row).sum()) - row[token])


def spread(generator: symlm.Generator, start: list[int]) -> tuple[list[int], list[int]]:
    """The ids of the text, and where the document of each begins (contract W1)."""
    ids: list[int] = []
    for text in DOCUMENTS:
        ids += [*([END] if ids else []), *start, *generator.tokenizer.encode(text)]
    begins = [0]
    for place in range(1, len(ids)):
        begin = ids[place - 1] == END if start else ids[place] == END
        begins.append(place if begin else begins[-1])
    return ids, begins


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_every_token_of_a_text_sees_its_document_alone(tmp_path: Path, kind: str) -> None:
    make, start = TOKENIZERS[kind]
    run = tuned(tmp_path, "document", make())
    path = texts(tmp_path / "asked.jsonl", DOCUMENTS)
    generator = symlm.Generator.from_pretrained(run, "last")
    assert generator.tokenizer.document_start == start
    ids, begins = spread(generator, start)
    before = [] if start else [END]
    expected = []
    for place in range(len(start), len(ids)):
        begin = 0 if place == 0 else begins[place - 1]
        expected.append(surprise(generator, [*([] if begin else before), *ids[begin:place]], ids[place]))
    found = evaluate_rolling(run, path, checkpoint="last", stride=5, threads=2, progress="off")
    assert (found.tokens, found.documents) == (len(expected), len(DOCUMENTS))
    assert found.loss == pytest.approx(np.mean(expected), rel=1e-5)


@pytest.mark.parametrize("attend", ["document", "window"])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_document_alone_begins_as_in_training(tmp_path: Path, kind: str, attend: str) -> None:
    make, start = TOKENIZERS[kind]
    run = tuned(tmp_path, attend, make())
    path = texts(tmp_path / "asked.jsonl", DOCUMENTS)
    generator = symlm.Generator.from_pretrained(run, "last")
    # Where nothing begins every text, a model that saw documents alone saw them behind the end of the one before.
    before = start or [END if attend == "document" else BEGIN]
    each: list[DocumentLoss] = []
    evaluate_rolling(run, path, checkpoint="last", per_document=True, each=each.append, threads=2, progress="off")
    for text, found in zip(DOCUMENTS, each, strict=True):
        ids = generator.tokenizer.encode(text)
        losses = [surprise(generator, [*before, *ids[:place]], ids[place]) for place in range(len(ids))]
        assert found.tokens == len(ids)
        assert found.loss == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_text_as_a_whole_begins_once(tmp_path: Path, kind: str) -> None:
    """What begins the first document is its beginning, not a prediction behind a second one."""
    make, start = TOKENIZERS[kind]
    run = tuned(tmp_path, "window", make())
    path = texts(tmp_path / "asked.jsonl", DOCUMENTS)
    generator = symlm.Generator.from_pretrained(run, "last")
    ids, _ = spread(generator, start)
    seen = ids if start else [BEGIN, *ids]
    first = max(len(start), 1)
    expected = [
        surprise(generator, seen[max(place - SEQ, 0) : place], seen[place]) for place in range(first, len(seen))
    ]
    found = evaluate_rolling(run, path, checkpoint="last", stride=1, threads=2, progress="off")
    assert found.tokens == len(expected)
    assert found.loss == pytest.approx(np.mean(expected), rel=1e-5)
