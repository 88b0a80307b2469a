"""The token that ends a turn, whatever it looks like; windows of long conversations that learn the last answer."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from symlm.chat.masks import SPECIAL
from symlm.chat.template import ChatTemplate
from symlm.text.conversations import ChatSettings, grown_tokenizer
from symlm.text.corpus import Prepared, Sources
from test_conversations import Quiet, _cache, config_of, learnt, messages_of, pairs, prepared, write

pytest.importorskip("jinja2")
__all__ = ["_cache"]

DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<｜User｜>{{ m.content }}"
    "{% else %}<｜Assistant｜>{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜>{% endif %}"
)
NAMED = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
WRITTEN = NAMED.replace("{{ eos_token }}", "[END]")
CASES: dict[str, tuple[str, dict[str, str], str]] = {
    "by name": (NAMED, {"eos_token": "[stop]"}, "[stop]"),
    "eos": (NAMED.replace("{{ eos_token }}", "<eos>"), {}, "<eos>"),
    "deepseek": (
        DEEPSEEK,
        {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>"},
        "<｜end▁of▁sentence｜>",
    ),
}


def with_template(data: Path, text: str, variables: dict[str, str], tokenizer: Path | None = None) -> Prepared:
    sources = Sources(config_of(data, vocab_size=None if tokenizer else 290), tokenizer)
    sources.chat = ChatSettings(ChatTemplate(text, "a test", variables, datetime(2026, 1, 31)))
    return sources.prepare(1, Quiet())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "chat.jsonl", [{"messages": messages_of(*pair)} for pair in pairs()])


@pytest.mark.parametrize("name", CASES)
def test_the_end_of_a_turn_is_one_token_and_stands_there_once(name: str, data: Path) -> None:
    text, variables, end = CASES[name]
    found = with_template(data, text, variables)
    assert [text.lstrip() for text in learnt(found)] == [f"{answer}{end}" for _, answer in pairs()]
    assert found.chat_tokens is not None and end in found.chat_tokens.added
    assert found.tokenizer.encode_rendered(end) == [found.chat_tokens.end]


def test_a_special_token_of_the_tokenizer_is_one_of_the_template(data: Path, tmp_path: Path) -> None:
    plain = with_template(data, CASES["eos"][0], {}).tokenizer
    path = tmp_path / "grown.json"
    grown_tokenizer(plain, ["[END]"], None).save(str(path))
    found = with_template(data, WRITTEN, {}, path)
    assert found.chat_tokens is not None and "[END]" in found.chat_tokens.special and not found.chat_tokens.added
    assert learnt(found) == [f" {answer}[END]" for _, answer in pairs()]


def test_what_is_only_text_is_no_special_token(data: Path) -> None:
    """A variable that the template does not ask for, and brackets of text."""
    found = with_template(data, WRITTEN, {"pad_token": "is", "bos_token": ""})
    assert found.chat_tokens is not None and found.chat_tokens.special == []
    assert learnt(found)[0] == " It is 0.[END]<|endoftext|>"
    assert not SPECIAL.search("<b> <|> <｜> <a|b> a<b|c>d <eos")


def test_windows_of_the_last_answer_begin_with_a_turn(tmp_path: Path) -> None:
    turns: list[Any] = [
        part for number in range(12) for part in messages_of(f"Question {number}?", f"Answer {number}.")
    ]
    data = write(tmp_path / "chat.jsonl", [{"messages": turns}] * 10)
    found = prepared(config_of(data, seq_len=99, train_on="last"))
    assert found.train.window == 100 and found.train.cut == 10
    start = found.tokenizer.encode_rendered("<|im_start|>user\n")
    for at in range(0, found.train.tokens, 100):
        assert found.train.ids(at, len(start)) == start
    assert set(learnt(found)) == {"Answer 11.<|im_end|>"}


def test_a_long_log_does_not_take_the_square_of_its_length(tmp_path: Path) -> None:
    """Within a time in which its beginnings cannot all be rendered."""
    turns = [part for number in range(3000) for part in messages_of(f"Question {number}?", f"Answer {number}.")]
    data = write(tmp_path / "log.jsonl", [{"messages": turns}] * 2)
    for train_on in ("assistant", "last"):
        found = prepared(config_of(data, seq_len=99, train_on=train_on, vocab_size=280))
        assert found.train.documents == found.train.cut == 2
