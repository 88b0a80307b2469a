"""One way to encode a prompt and what follows it: in training, in evaluation, in generation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from blanks import BEGIN, END, KINDS, write
from symlm import _symlm

pytestmark = pytest.mark.parametrize("kind", KINDS)

EXAMPLES = [
    ("What is it?", " It is the cat."),
    ("return ", "self"),
    ("return", " self"),
    ("if x == 12 :\n  ", "return\tself"),
    ("the\u3000", "cat"),
    ("th", "e"),
    ("", "the cat"),
    (" \n", "the cat"),
    ("the cat</s> ", "sat"),
]


@pytest.fixture
def both(kind: str, tmp_path: Path) -> tuple[_symlm.Tokenizer, Tokenizer]:
    """A tokenizer as symlm reads it, and the library's."""
    theirs = write(kind, tmp_path)
    path = str(tmp_path / "tokenizer.json")
    return _symlm.Tokenizer.of_model(path, END, theirs.get_vocab_size(), BEGIN), theirs


def divided(theirs: Tokenizer, prompt: str, completion: str) -> tuple[list[int], list[int]]:
    """Context and targets as the library gives them: one text, divided behind the prompt."""
    head = theirs.encode(prompt.rstrip()).ids
    whole = theirs.encode(prompt + completion).ids
    # Here no token has a part of both and nothing else.
    assert len(whole) > len(head)
    return whole[: len(head)], whole[len(head) :]


def windows_of(shards: _symlm.Shards) -> list[list[int]]:
    size = shards.window or 0
    return [shards.ids(at, size, masked=True) for at in range(0, shards.tokens, size)]


def write_lines(path: Path, examples: list[tuple[str, str]]) -> Path:
    lines = (json.dumps({"prompt": prompt, "completion": completion}) for prompt, completion in examples)
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_ids_of_examples_are_those_of_one_text(
    both: tuple[_symlm.Tokenizer, Tokenizer], kind: str, tmp_path: Path
) -> None:
    ours, theirs = both
    examples = [pair for pair in EXAMPLES if pair != ("th", "e")]
    path = write_lines(tmp_path / "a.jsonl", examples)
    shards = _symlm.Corpus.open([str(path)]).prepare(ours, str(tmp_path), 0.0, 63, 2, None).train
    found = [word for window in windows_of(shards) for word in window]
    at = 0
    for prompt, completion in examples:
        context, targets = divided(theirs, prompt, completion)
        expected = [*(-1 - id_ for id_ in context), *targets, END]
        if 64 - at % 64 < len(expected):
            at += 64 - at % 64
        assert found[at : at + len(expected)] == expected, (prompt, completion)
        at += len(expected)
    # The bytes are those of the completions and of the white space in front of them.
    texts = [(prompt + completion)[len(prompt.rstrip()) :] for prompt, completion in examples]
    assert shards.bytes == sum(len(text.encode()) for text in texts)


def test_training_divides_as_evaluation_does(
    both: tuple[_symlm.Tokenizer, Tokenizer], kind: str, tmp_path: Path
) -> None:
    ours, _ = both
    for prompt, completion in EXAMPLES:
        path = write_lines(tmp_path / "a.jsonl", [(prompt, completion)])
        shards = _symlm.Corpus.open([str(path)]).prepare(ours, str(tmp_path), 0.0, 63, 1, None).train
        pair = ours.encode_pair(prompt, completion)
        ids, count = pair.ids, pair.completion
        masked = [*(-1 - id_ for id_ in ids[:-count]), *ids[-count:], END]
        assert windows_of(shards)[0][: len(masked)] == masked
        assert ids[0] == BEGIN


def test_the_rest_gets_no_blank(both: tuple[_symlm.Tokenizer, Tokenizer], kind: str) -> None:
    """`th` and `e` are one token together: apart, the second one is what it is within a word."""
    ours, _ = both
    pair = ours.encode_pair("th", "e")
    ids, count = pair.ids, pair.completion
    assert ours.decode_bytes(ids[-count:]) == b"e"


@given(
    prompt=st.text("ab th\n\t\u3000.", max_size=12),
    completion=st.text("ab th\n\u4f60.", min_size=1, max_size=12),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_pair_is_divided_behind_its_prompt(
    both: tuple[_symlm.Tokenizer, Tokenizer], kind: str, prompt: str, completion: str
) -> None:
    ours, theirs = both
    pair = ours.encode_pair(prompt, completion)
    ids, count = pair.ids, pair.completion
    whole, head = theirs.encode(prompt + completion).ids, theirs.encode(prompt.rstrip()).ids
    if len(whole) > len(head):
        assert (ids, count) == (whole, len(whole) - len(head))
    else:
        assert ids[:-count] == head
        assert ours.decode_bytes(ids[-count:]).decode() == (prompt + completion)[len(prompt.rstrip()) :]


def test_a_document_that_is_cut_has_the_ids_of_the_whole(
    both: tuple[_symlm.Tokenizer, Tokenizer], kind: str, tmp_path: Path
) -> None:
    """Beyond 1 MiB a document is encoded in pieces: no blank at the cuts, neither before one nor before a line end."""
    ours, theirs = both
    lines = ("return self\n\n" if n % 3 else "the cat sat on\tthe mat , white\n  as snow\n" for n in range(50_000))
    text = "".join(lines)
    assert len(text) > 1 << 20
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    shards = _symlm.Corpus.open([str(tmp_path / "a.txt")]).prepare(ours, str(tmp_path), 0.0, 63, 2, None).train
    assert shards.ids(0, shards.tokens) == theirs.encode(text).ids


def test_the_held_out_end_goes_on_where_the_text_is_cut(
    both: tuple[_symlm.Tokenizer, Tokenizer], kind: str, tmp_path: Path
) -> None:
    ours, theirs = both
    text = "return self\n\nthe cat sat on the mat\n" * 40
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    parts = _symlm.Corpus.open([str(tmp_path / "a.txt")]).prepare(ours, str(tmp_path), 0.2, 15, 2, None)
    train, val = parts.train, parts.val
    assert val is not None
    begun = val.ids(0, val.tokens)
    assert begun[0] == BEGIN
    assert train.ids(0, train.tokens) + begun[1:] == theirs.encode(text).ids


def test_what_is_held_back_of_a_prompt(both: tuple[_symlm.Tokenizer, Tokenizer], kind: str, tmp_path: Path) -> None:
    """The model reads the prompt without its white space, and the first tokens repeat it, whatever the filters."""
    ours, theirs = both
    generator = _random_generator(theirs.get_vocab_size(), tmp_path)
    for prompt in ("return ", "the cat\n\n  ", "the\u3000", " ", "\n\n  ", "the </s> "):
        for change in ({}, {"temperature": 0.0}, {"top_k": 1}, {"top_p": 0.1}, {"min_p": 1.0}):
            stream = generator.stream_behind(ours, prompt, _options(**change))
            text = ours.decode_bytes(list(stream))
            space = prompt[len(prompt.rstrip()) :].encode()
            held = text[: stream.repeated]
            # At the beginning of a text, behind what the tokenizer puts there.
            assert held == space or (not prompt.strip() and held == b" " + space), (prompt, held)
    stream = generator.stream_behind(ours, "return", _options())
    assert stream.repeated == 0
    assert list(stream) == list(generator.stream(theirs.encode("return").ids, _options()))


def _options(**changes: Any) -> _symlm.SampleSettings:
    usual: dict[str, Any] = {
        "max_new_tokens": 8, "temperature": 0.9, "top_k": 40, "top_p": 0.95, "min_p": 0.01, "repetition_penalty": 1.2,
        "seed": 5, "sample_index": 0, "stop_ids": [END],
    }  # fmt: skip
    return _symlm.SampleSettings(**usual | changes)


def _random_generator(vocab_size: int, folder: Path) -> _symlm.Generator:
    from elsewhere import make_model

    made = make_model(folder / "model", vocab_size=vocab_size)
    shape = {**json.loads((made.folder / "config.json").read_text())}
    model = {
        "vocab_size": vocab_size, "hidden_size": shape["hidden_size"], "intermediate_size": shape["intermediate_size"],
        "num_layers": shape["num_hidden_layers"], "num_heads": shape["num_attention_heads"],
        "num_kv_heads": shape["num_key_value_heads"], "seq_len": shape["max_position_embeddings"],
        "tie_embeddings": False, "rope_theta": 5000.0, "rms_norm_eps": 1e-6, "rope_scaling": None,
    }  # fmt: skip
    return _symlm.Generator.from_weights(_symlm.ModelShape(**model), str(made.folder / "model.safetensors"))
