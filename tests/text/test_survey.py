"""What `symlm data show` counts and compares, on texts in which it is known."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np

from conftest import Cli
from symlm.text.corpus import Prepared
from symlm.text.opening import open_corpus
from symlm.text.survey import RUN, Survey, _runs, survey


def looked_at(folder: Path, train: list[str], val: list[str], field: str = "text") -> tuple[Survey, Prepared]:
    paths = []
    for name, documents in (("train", train), ("val", val)):
        paths.append(folder / f"{name}.jsonl")
        paths[-1].write_text("".join(json.dumps({field: text}) + "\n" for text in documents))
    corpora = [open_corpus([path], field) for path in paths]
    tokenizer = corpora[0].train_tokenizer(257, 1, None)
    shards = [corpus.prepare(tokenizer, folder / "cache", 0.0, 16, 1, None).train for corpus in corpora]
    for corpus in corpora:
        corpus.read_through(None)
    empty = sum(corpus.empty for corpus in corpora)
    found = survey(shards[0], shards[1], tokenizer, "text", 16, empty, 0)
    return found, Prepared(shards[0], shards[1], tokenizer, 1, 1, "text")


def test_documents_duplicates_and_what_stands_in_both(tmp_path: Path) -> None:
    chance = random.Random(1)
    texts = ["".join(chance.choices("abcdefghij ", k=100 + n)) for n in range(30)]
    planted = texts[3][10 : 10 + 60]
    val = [texts[0], "".join(chance.choices("klmnop", k=40)) + planted + "".join(chance.choices("klmnop", k=100))]
    found, _ = looked_at(tmp_path, [*texts, texts[5], texts[5], ""], val)
    assert found.val is not None
    # A vocabulary of 257 has a token for each byte.
    assert list(found.train.lengths) == [len(text) for text in [*texts, texts[5], texts[5]]]
    assert (found.train.documents, found.train.duplicates, found.val.duplicates, found.empty) == (32, 2, 0, 1)
    assert found.shared_documents == 1
    tokens = len(val[0]) + 1 + len(val[1])
    assert found.val.tokens == tokens
    # The token behind the first document stands there in both.
    assert found.shared_tokens == (len(texts[0]) + 1 + 60) / tokens


def test_runs_are_told_apart(tmp_path: Path) -> None:
    ids = np.random.default_rng(1).integers(0, 3, 5000).astype(np.uint32)
    by_ids: dict[bytes, int] = {}
    for at, value in enumerate(_runs(ids).tolist()):
        assert by_ids.setdefault(ids[at : at + RUN].tobytes(), value) == value
    assert len(set(by_ids.values())) == len(by_ids)
    marked = ids | np.uint32(1 << 31)
    assert (_runs(marked) == _runs(ids)).all()


def test_examples_are_taken_out_of_their_windows(tmp_path: Path, cli: Cli) -> None:
    pairs = [(f"{n} plus {n}:", f" {2 * n}") for n in range(40)]
    lines = [json.dumps({"prompt": p, "completion": c}) for p, c in [*pairs, ("long " * 20, "x" * 40)]]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    words = ("data", "show", "a.jsonl", "--vocab-size", 257, "--seq-len", 32, "--val-split", 0, "--progress", "off")
    done = cli(*words, "--json", "--plot", "lengths.svg")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["data_format"] == "completion" and found["val"] is None
    # Prompt, completion and the token that ends it, behind the token that begins what has no other before it.
    longest = max(len(p + c) + 1 for p, c in pairs)
    assert found["train"]["documents"] == 41 and found["train"]["cut"] == 1
    assert found["train"]["lengths"]["max"] == 33 and found["train"]["lengths"]["p90"] == longest
    assert (tmp_path / "lengths.svg").read_text().startswith("<?xml")
    shown = cli(*words, "--show", 1)
    assert "--- 1\n0 plus 0:« 0<|endoftext|>»" in shown.stdout, shown.stdout


def test_the_command_is_refused_clearly(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "a.txt").write_text("some text")
    for words, code in ((["gone.txt"], 3), (["a.txt", "--plot", "a.jpg"], 2), (["a.txt", "--seq-len", 0], 2), ([], 2)):
        done = cli("data", "show", *words)
        assert done.returncode == code and "hint: " in done.stderr, (words, done.stderr)
