"""`--attend document`: it does not matter what else lies in a window, from the command line to the checkpoint."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import symlm
from conftest import Cli
from objects import WORDS, Objects, conversations, examples, texts, words, write
from symlm import _symlm
from symlm.config.engine import engine_settings, made_from, settings_of
from symlm.evaluation.scoring import log_likelihood
from symlm.run.metrics import read_lines
from symlm.system.files import file_hash

SEQ_LEN = 64
SETTINGS: dict[str, Any] = {
    "preset": "tiny", "num_layers": 2, "hidden_size": 48, "num_heads": 4, "num_kv_heads": 2, "intermediate_size": 96,
    "vocab_size": 280, "seq_len": SEQ_LEN, "batch_size": 12, "max_steps": 8, "learning_rate": 4e-3, "warmup_steps": 2,
    "sample_every": 0, "val_split": 0.0, "save_interval": 0, "eval_interval": 0, "progress": "off",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMLM_CACHE_DIR", str(tmp_path / "cache"))


def fit(data: Path, out: Path, **changes: Any) -> Path:
    config = symlm.TrainConfig(**{**SETTINGS, "out_dir": str(out), **changes})
    return symlm.Trainer(config, data=[data]).fit().path


def weights(run: Path) -> str:
    return file_hash(sorted((run / "checkpoints").glob("step-*"))[-1] / "model.safetensors")


# --- what it promises -----------------------------------------------------------------------------------------------


def of_length(tokenizer: _symlm.Tokenizer, draw: random.Random, count: int) -> str:
    """A text of exactly so many tokens."""
    while True:
        text = words(draw, 4)
        while len(tokenizer.encode(text)) < count:
            text += " " + draw.choice(WORDS)
        if len(tokenizer.encode(text)) == count:
            return text


def test_the_loss_of_documents_is_that_of_each_alone(tmp_path: Path) -> None:
    """Eight documents fill two windows. In any order they have one loss, by its bits; it is what the logits of each
    document alone give; and neither holds where tokens see what stands before their document."""
    draw = random.Random(5)
    data = write(tmp_path / "train.jsonl", texts(draw, 200))
    together = fit(data, tmp_path / "document", attend="document")
    whole = fit(data, tmp_path / "window")
    assert weights(together) != weights(whole)
    generator = symlm.Generator.from_pretrained(together, "last")
    tokenizer = generator.tokenizer
    first, *others = [of_length(tokenizer, draw, 16 if place == 0 else 15) for place in range(8)]
    found: dict[Path, set[float]] = {together: set(), whole: set()}
    for turn in range(3):
        order = [first, *draw.sample(others, len(others)), "the"]
        path = write(tmp_path / f"{turn}.jsonl", [{"text": text} for text in order])
        for run, losses in found.items():
            result = symlm.evaluate(run, path, checkpoint="last", progress="off")
            assert (result.windows, result.tokens) == (2, 2 * SEQ_LEN)
            losses.add(result.loss)
    assert len(found[together]) == 1 and len(found[whole]) == 3
    eot = tokenizer.eot_id
    assert eot is not None
    total = 0.0
    for text in (first, *others):
        ids = [*([] if text is first else [eot]), *tokenizer.encode(text), eot]
        total -= log_likelihood(generator.logits(ids[:-1], len(ids) - 1), ids[1:])
    assert found[together].pop() == pytest.approx(total / (2 * SEQ_LEN), rel=1e-6)
    # An evaluation of each document by itself gives all of that but the tokens that end them. (It predicts the first
    # token of the very first one, too, which nothing precedes.)
    each: list[symlm.DocumentLoss] = []
    symlm.evaluate_rolling(
        together, tmp_path / "0.jsonl", checkpoint="last", per_document=True, each=each.append, progress="off"
    )
    ends = -sum(log_likelihood(generator.logits([eot, *tokenizer.encode(text)], 1), [eot]) for text in others)
    first_rows = generator.logits(tokenizer.encode(first), 16)
    opening = -log_likelihood(first_rows, [*tokenizer.encode(first)[1:], eot])
    assert opening + ends + sum(one.loss * one.tokens for one in each[1:-1]) == pytest.approx(total, rel=1e-9)


@pytest.mark.parametrize("objects", [examples, conversations])
def test_the_loss_of_packed_examples_is_that_of_each_alone(objects: Objects, tmp_path: Path) -> None:
    if objects is conversations:
        pytest.importorskip("jinja2")
    draw = random.Random(7)
    data = write(tmp_path / "train.jsonl", objects(draw, 300))
    run = fit(data, tmp_path / "run", attend="document")
    asked = objects(draw, 12)
    losses = set()
    for turn in range(4):
        path = write(tmp_path / f"{turn}.jsonl", draw.sample(asked, len(asked)))
        result = symlm.evaluate(run, path, checkpoint="last", progress="off")
        assert 1 < result.windows <= 12
        losses.add((result.loss, result.tokens))
    assert len(losses) == 1
    alone = [
        symlm.evaluate(run, write(tmp_path / f"alone-{at}.jsonl", [each]), checkpoint="last", progress="off")
        for at, each in enumerate(asked)
    ]
    loss, tokens = losses.pop()
    assert sum(each.tokens for each in alone) == tokens
    assert math.fsum(each.loss * each.tokens for each in alone) == pytest.approx(loss * tokens, rel=1e-14)


# --- a run ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objects", [texts, examples, conversations])
def test_a_run_is_stopped_resumed_and_computed_again(objects: Objects, tmp_path: Path, cli: Cli) -> None:
    if objects is conversations:
        pytest.importorskip("jinja2")
    draw = random.Random(11)
    write(tmp_path / "data.jsonl", objects(draw, 300))
    write(tmp_path / "val.jsonl", objects(draw, 60))
    flags = [
        word
        for name, value in {**SETTINGS, "eval_interval": 4, "hash_interval": 2}.items()
        if name != "val_split"
        for word in (f"--{name.replace('_', '-')}", value)
    ]
    train = ["train", "data.jsonl", "--val-data", "val.jsonl", *flags, "--attend", "document"]
    done = [
        cli(*train, "--out-dir", "whole", "--threads", 1, "--sectors-in-flight", 12),
        cli(*train, "--out-dir", "parts", "--threads", 3, "--sectors-in-flight", 1, "--stop-at-step", 3),
        cli("train", "--resume", "parts", "--threads", 2, env={"SYMLM_ISA": "portable"}),
    ]
    assert [each.returncode for each in done] == [0, 0, 0], [each.stderr for each in done]
    assert weights(tmp_path / "whole") == weights(tmp_path / "parts")
    assert 'attend = "document"' in (tmp_path / "whole" / "config.toml").read_text(encoding="utf-8")
    for command in (["verify", "parts", "--steps", 8, "--from", "start"], ["replay", "whole", "--step", 5]):
        again = cli(*command, "--progress", "off")
        assert again.returncode == 0, again.stderr
    recorded = [each for each in read_lines(tmp_path / "whole" / "metrics.jsonl") if each["event"] == "eval"][-1]
    assert recorded["step"] == 8
    found = symlm.evaluate(tmp_path / "whole", tmp_path / "val.jsonl", checkpoint="last", progress="off")
    assert found.loss == recorded["val_loss"]
    other = cli("train", "--resume", "parts", "--attend", "window")
    assert other.returncode == 1 and "--attend" in other.stderr, other.stderr


def test_integers_and_adapters_go_with_it(tmp_path: Path) -> None:
    data = write(tmp_path / "train.jsonl", examples(random.Random(13), 200))
    base = fit(data, tmp_path / "base", max_steps=3)
    taken = ("preset", "vocab_size", "num_layers", "hidden_size", "num_heads", "num_kv_heads", "intermediate_size")
    of_model = {name: value for name, value in SETTINGS.items() if name not in taken}
    cases: dict[str, dict[str, Any]] = {
        "int16": {**SETTINGS, "precision": "int16"},
        "lora": {**of_model, "init_from": str(base), "lora_rank": 4},
    }
    for name, given in cases.items():
        runs = []
        for attend, threads in (("document", 1), ("document", 3), ("window", 1)):
            out = str(tmp_path / f"{name}-{attend}-{threads}")
            config = symlm.TrainConfig(**{**given, "attend": attend, "threads": threads, "out_dir": out})
            runs.append(weights(symlm.Trainer(config, data=[data]).fit().path))
        assert runs[0] == runs[1] != runs[2], name


def test_what_lacks_the_key_saw_the_window() -> None:
    config = symlm.TrainConfig(**SETTINGS).with_model()
    kept = made_from(engine_settings(config, 1))
    assert kept["train"].pop("attend") == "window"
    assert settings_of({**kept, "threads": 1}).train.attend == "window"
    assert symlm.TrainConfig().attend == "window"
    with pytest.raises(symlm.UsageError, match=r"--attend: .*sentence"):
        symlm.TrainConfig(attend="sentence")  # type: ignore[arg-type]


def test_tokens_are_told_apart_where_that_is_asked_for(tmp_path: Path) -> None:
    """Ids of texts are the same and lie in one file; windows of examples are made once for each."""
    tokenizer = _symlm.Corpus.open([str(write(tmp_path / "a.jsonl", texts(random.Random(1), 99)))]).train_tokenizer(
        280, 1, None
    )
    for name, objects in (("texts", texts), ("examples", examples)):
        corpus = _symlm.Corpus.open([str(write(tmp_path / f"{name}.jsonl", objects(random.Random(2), 50)))])
        made = [
            corpus.prepare(tokenizer, tmp_path, 0.0, SEQ_LEN, 1, None, attend).train
            for attend in ("window", "document")
        ]
        assert (made[0].path == made[1].path) == (name == "texts")
        ids = [np.array(shards.ids(0, shards.tokens, masked=True)) for shards in made]
        assert np.array_equal(ids[0], ids[1]) and made[0].targets == made[1].targets
        with pytest.raises(symlm.UsageError, match="attend: found 'all', expected window or document"):
            corpus.prepare(tokenizer, tmp_path, 0.0, SEQ_LEN, 1, None, "all")
