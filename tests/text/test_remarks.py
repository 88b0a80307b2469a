"""Texts that write out the token which the tokenizer puts before every text: told once, wherever a text comes in."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from conftest import Cli
from elsewhere import BEGIN, Elsewhere, make_model
from symlm.generate.generator import Generator
from symlm.text.remarks import begins_twice

WARNING = 'with "<|begin|>", which the tokenizer puts before every text itself: the model sees it twice'


@pytest.fixture
def made(tmp_path: Path) -> Elsewhere:
    """A model whose tokenizer puts `<|begin|>` before every text."""
    return make_model(tmp_path / "model")


def test_two_begins_are_found(made: Elsewhere) -> None:
    tokenizer = Generator.from_pretrained(made.folder).tokenizer
    for prompt, twice in (("<|begin|>the cat", True), ("the <|begin|>cat", False), ("the cat", False), ("", False),
                          (" <|begin|>", False), ("<|begin|>", True)):  # fmt: skip
        ids = tokenizer.encode_prompt(prompt)
        assert ids[:1] == [BEGIN]
        assert begins_twice(tokenizer, ids) == twice, prompt


def test_generate_says_so_once(made: Elsewhere, cli: Cli) -> None:
    options = ("--max-new-tokens", 1, "--num-samples", 3, "--seed", 1)
    told = cli("generate", made.folder, "--prompt", "<|begin|>the", *options)
    assert told.returncode == 0, told.stderr
    assert told.stderr.count(f"warning: the prompt begins {WARNING}") == 1
    assert "warning" not in told.stdout + cli("generate", made.folder, "--prompt", "the", *options).stderr
    generator = Generator.from_pretrained(made.folder)
    with pytest.warns(UserWarning, match="the prompt begins with"):
        generator.generate("<|begin|>the", max_new_tokens=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        generator.generate("the", max_new_tokens=0)


def test_choices_and_texts(made: Elsewhere, tmp_path: Path, cli: Cli) -> None:
    questions = [
        {"prompt": f"{begin}the", "choices": [" cat", " mat"], "answer": 0} for begin in ("<|begin|>", "", "a")
    ]
    lines = [{"prompt": "<|begin|>the", "completion": " cat"}] * 20
    for name, records in (("questions.jsonl", questions), ("examples.jsonl", lines)):
        (tmp_path / name).write_text("\n".join(map(json.dumps, records)))
    for name, begin in (("twice.txt", "<|begin|>"), ("once.txt", "")):
        (tmp_path / name).write_text(f"{begin}the cat sat on the mat. 12 345\n" * 50)
    train = ("train", "--init-from", made.folder, "--max-steps", 1, "--batch-size", 2, "--seq-len", 16,
             "--sample-every", 0, "--progress", "plain")  # fmt: skip
    for words, found in (
        (("eval", made.folder, "--choices", "questions.jsonl"), f"1 of 3 prompts begin {WARNING}"),
        (("eval", made.folder, "twice.txt"), f"the text has documents that begin {WARNING}"),
        (("eval", made.folder, "twice.txt", "--per-document"), f"the text has documents that begin {WARNING}"),
        (("eval", made.folder, "examples.jsonl"), f"the text has documents that begin {WARNING}"),
        ((*train, "twice.txt", "--out-dir", "a"), f"the text has documents that begin {WARNING}"),
        ((*train, "examples.jsonl", "--out-dir", "b"), f"the text has documents that begin {WARNING}"),
        ((*train, "once.txt", "--out-dir", "c", "--sample-every", 1, "--sample-prompt", "<|begin|>a"),
         f"--sample-prompt begins {WARNING}"),
        (("eval", made.folder, "once.txt"), None),
        ((*train, "once.txt", "--out-dir", "d"), None),
    ):  # fmt: skip
        done = cli(*words)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("which the tokenizer puts") == (found is not None), (words, done.stderr)
        assert found is None or f"warning: {found}" in done.stderr
