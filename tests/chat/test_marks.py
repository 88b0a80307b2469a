"""What is learnt and where is cut: marks inside of blocks, templates that write a turn otherwise later, long logs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest

pytest.importorskip("jinja2")

from chat_templates import CHATML, MARKED, conversation
from symlm.chat.masks import LostMarks, Marked, marked
from symlm.chat.sandbox import Template

SPECIAL = ["<|im_start|>", "<|im_end|>"]
ONE = (
    "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>"
    "{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}\n"
)
"""A message, with the answer marked."""


def template(text: str) -> Template:
    return Template(text, {}, datetime(2026, 1, 31))


def found(text: str, messages: Sequence[Any], train_on: str = "assistant", most: int | None = None) -> Marked:
    return marked(template(text), messages, None, train_on, SPECIAL, most)


def learnt(text: str, messages: Sequence[Any]) -> list[str]:
    this = found(text, messages)
    raw = this.text.encode()
    return [raw[start:end].decode() for start, end in this.learn]


@pytest.mark.parametrize(
    "text",
    [
        "{% macro show(m) %}" + ONE + "{% endmacro %}{% for m in messages %}{{ show(m) }}{% endfor %}",
        "{% for m in messages %}{% set body %}" + ONE + "{% endset %}{{ body }}{% endfor %}",
        "{% set body %}{% for m in messages %}" + ONE + "{% endfor %}{% endset %}{{ body }}",
        "{% for m in messages %}{% filter replace('nothing', '') %}" + ONE + "{% endfilter %}{% endfor %}",
        "{% macro put() %}{{ caller() }}{% endmacro %}{% for m in messages %}{% call put() %}" + ONE
        + "{% endcall %}{% endfor %}",
        "{% for m in messages recursive %}" + ONE + "{% endfor %}",
        "{% for m in messages %}" + ONE + "{% endfor %}",
    ],
)  # fmt: skip
def test_marks_inside_of_a_block_are_found_in_the_text(text: str) -> None:
    answers = [" It is 5. <|im_end|>", "That is 6.\n\n* six<|im_end|>", "😀 ok<|im_end|>"]
    assert learnt(text, conversation(6, True)) == answers


@pytest.mark.parametrize(
    "text",
    [
        # Not written at all, with other letters, or cut where it is marked.
        "{% set body %}{% generation %}hi<|im_end|>{% endgeneration %}{% endset %}x",
        "{% for m in messages %}{% set body %}" + ONE + "{% endset %}{{ body | length }}{% endfor %}",
        "{% for m in messages %}{% set body %}" + ONE + "{% endset %}{{ body[:-14] }}{% endfor %}",
    ],
)
def test_marks_that_are_lost_are_an_error(text: str) -> None:
    with pytest.raises(LostMarks):
        found(text, conversation(4, False))


def test_marks_that_are_lost_do_not_matter_where_none_are_asked_for() -> None:
    text = "{% set body %}{% generation %}hi{% endgeneration %}{% endset %}{{ body | length }}"
    assert template(text).render(conversation(2, False), None) == "2"


@pytest.mark.parametrize("text", [CHATML, MARKED["chatml"]])
def test_the_last_answer_alone_leaves_places_to_cut_at(text: str) -> None:
    messages = conversation(6, False)
    last, every = found(text, messages, "last"), found(text, messages)
    assert last.cuts == every.cuts and len(last.cuts) == 2
    assert last.learn == every.learn[-1:]
    for cut in last.cuts:
        assert last.text.encode()[cut:].startswith(b"<|im_start|>user\n")


def test_a_turn_that_is_written_otherwise_later_is_one_place_less() -> None:
    forgets = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
        "{{ '..' if loop.index == 2 and not loop.last else m.content }}{{ '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
    messages = conversation(6, False)
    this = found(forgets, messages, "last")
    assert len(this.cuts) == 1 and this.text[: this.cuts[0]].count("<|im_start|>") == 4
    # Nothing but one place to cut at depends on it.
    assert len(found(forgets, messages, "all").cuts) == 1


class Counting(Template):
    """Counts the messages that are rendered."""

    rendered = 0

    def render(self, messages: Sequence[Any], tools: Any, *, prompt: bool = False) -> str:
        self.rendered += len(messages)
        return super().render(messages, tools, prompt=prompt)


@pytest.mark.parametrize("train_on", ["assistant", "last", "all"])
def test_what_no_window_holds_is_not_rendered(train_on: str) -> None:
    messages = conversation(6, False) * 200
    counting = Counting(CHATML, {}, datetime(2026, 1, 31))
    most = 2000
    this = marked(counting, messages, None, train_on, SPECIAL, most)
    assert counting.rendered < (5 if train_on == "assistant" else 60) * len(messages) + 100_000
    if train_on == "last":
        # Only ends are kept, so their beginnings are far from the start.
        every = found(CHATML, messages, "assistant").cuts
        near = [cut for cut in every if len(this.text.encode()) - cut <= most]
        assert len(near) > 10 and this.cuts[-len(near) :] == near
        return
    every = found(CHATML, messages).cuts
    near = [cut for cut in every if cut <= most]
    assert len(near) > 10 and this.cuts[: len(near)] == near and len(this.cuts) < len(near) + 3
