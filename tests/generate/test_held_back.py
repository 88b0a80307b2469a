"""White space at the end of a prompt: the first tokens that are drawn begin with it, and only the rest is new text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import symlm
from conftest import Cli
from elsewhere import make_model
from symlm import _symlm

TEXT = "def f(self):\n    return self\n\n\ndef g(other):\n    return other\n\n\nclass C:\n    x = self.x\n\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows one text by heart."""
    folder = tmp_path_factory.mktemp("held")
    (folder / "a.py").write_text(TEXT * 60, encoding="utf-8")
    config = symlm.TrainConfig(
        preset="tiny", vocab_size=280, seq_len=32, batch_size=8, max_steps=120, val_split=0.0, sample_every=0,
        threads=1, out_dir=str(folder / "run"), progress="off",
    )  # fmt: skip
    return symlm.Trainer(config, data=[folder / "a.py"]).fit().path


@pytest.fixture(scope="module")
def generator(run: Path) -> symlm.Generator:
    """The model of that run."""
    return symlm.Generator.from_pretrained(run, checkpoint="last")


@pytest.mark.parametrize("options", [
    {"temperature": 0.0}, {"top_k": 1}, {"top_p": 0.3}, {"min_p": 0.9},
    {"temperature": 0.0, "repetition_penalty": 1.05},
])  # fmt: skip
def test_a_blank_is_not_written_twice(generator: symlm.Generator, options: dict[str, Any]) -> None:
    usual: dict[str, Any] = {"max_new_tokens": 6, "temperature": 0.5, "seed": 3, **options}
    text = generator.generate("def f(self):\n    return ", **usual)
    assert text.startswith("self"), text
    assert generator.generate("def f(self):\n    return", **usual).startswith(" self")


@pytest.mark.parametrize(("prompt", "rest"), [
    ("def f(self):\n", "    return self"),
    ("def f(self):\n  ", "  return self"),
    ("def f(self):\n    ", "return self"),
    ("def f(self):\n    return self\n", "\n\ndef g"),
    ("def f(self):\n    return self\n\n", "\ndef g"),
])  # fmt: skip
def test_any_white_space_is_gone_on_with(generator: symlm.Generator, prompt: str, rest: str) -> None:
    text = generator.generate(prompt, max_new_tokens=12, temperature=0)
    assert text.startswith(rest), text


def test_the_length_counts_what_is_new(generator: symlm.Generator) -> None:
    """Tokens that only repeat the prompt are not among the new ones; every draw has its number."""
    prompt = "def f(self):" + "\n" * 40
    first, more = (generator.generate(prompt, max_new_tokens=count, temperature=0) for count in (1, 3))
    assert first and more.startswith(first) and len(more) > len(first)
    assert generator.generate(prompt, max_new_tokens=0) == ""
    options = _symlm.SampleSettings(
        max_new_tokens=2, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0,
        seed=1, sample_index=0, stop_ids=[],
    )  # fmt: skip
    stream = generator._engine.stream_behind(generator.tokenizer, prompt, options)
    text = generator.tokenizer.decode_bytes(list(stream))
    assert stream.repeated == 40 and text.startswith(b"\n" * 40) and len(text) > 40


def test_white_space_alone(generator: symlm.Generator) -> None:
    for prompt in (" ", "\n\n", "\t \n"):
        assert generator.generate(prompt, max_new_tokens=4, temperature=0)


def test_the_seed_and_the_threads_of_a_text(generator: symlm.Generator) -> None:
    options: dict[str, Any] = {"max_new_tokens": 12, "seed": 9}
    pieces = list(generator.stream("class ", **options))
    assert "".join(pieces) == generator.generate("class ", **options)
    assert all(pieces)
    assert generator.generate("class ", **options, stop=["C"]) == "".join(pieces).partition("C")[0]


def test_the_command_line_writes_the_prompt_as_it_is(cli: Cli, run: Path) -> None:
    command = ["generate", run, "--checkpoint", "last", "--prompt", "def f(self):\n    return ", "-n", 2, "--seed", 1]
    done = cli(*command, "--temperature", 0)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("def f(self):\n    return self")
    done = cli(*command, "--temperature", 0, "--no-echo")
    assert done.stdout.startswith("self")


def test_more_white_space_than_anyone_means(generator: symlm.Generator) -> None:
    """It is read as it is, at the pace of reading."""
    prompt = "class" + "\n" * 300_000
    assert len(generator.generate(prompt, max_new_tokens=2, temperature=0)) > 0


def test_white_space_that_no_token_repeats(tmp_path: Path) -> None:
    """A vocabulary of words, which knows no blank: the prompt is read as it is written."""
    vocab = {"?": 0, "</s>": 1, "a": 2, "b": 3, "\n": 4}
    word_level = {"type": "WordLevel", "vocab": vocab, "unk_token": "?"}
    split = {"type": "Split", "pattern": {"Regex": ""}, "behavior": "Isolated", "invert": False}
    end = {"id": 1, "content": "</s>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
           "special": True}  # fmt: skip
    tokenizer = {
        "version": "1.0", "added_tokens": [end], "normalizer": None, "pre_tokenizer": split, "post_processor": None,
        "decoder": {"type": "Fuse"}, "model": word_level,
    }  # fmt: skip
    made = make_model(tmp_path / "model", tokenizer=tokenizer, vocab_size=264)
    generator = symlm.Generator.from_pretrained(made.folder)
    options = _symlm.SampleSettings(
        max_new_tokens=5, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0,
        seed=1, sample_index=0, stop_ids=[],
    )  # fmt: skip
    engine, ids = generator._engine, generator.prompt_ids("ab ")
    assert ids == [2, 3, 0]
    for prompt, repeated in (("ab ", 0), ("ab\n ", 0), ("ab\n", 1), ("ab \n", 0)):
        stream = engine.stream_behind(generator.tokenizer, prompt, options)
        assert stream.repeated == repeated
        drawn = list(stream)
        if repeated:
            assert drawn[0] == 4 and len(drawn) == 6
        else:
            assert drawn == list(engine.stream(generator.prompt_ids(prompt), options))


def test_logits_and_prompts_are_as_written(generator: symlm.Generator) -> None:
    assert generator.prompt_ids("return ") == generator.tokenizer.encode("return ")
