"""Templates in their process: what they write, and what becomes of those that mean harm."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from importlib import metadata

import pytest

from chat_templates import MARKED, TEMPLATES, VARIABLES, conversation
from symlm.chat.conversation import Conversation
from symlm.chat.renderer import Renderer
from symlm.chat.template import ChatTemplate
from symlm.errors import DataError, UserError

pytest.importorskip("jinja2")

SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<start_of_turn>", "<end_of_turn>"]


def template(text: str) -> ChatTemplate:
    return ChatTemplate(text, "a test", VARIABLES, datetime(2026, 1, 31))


def rendered(text: str, turns: int = 2, system: bool = False, prompt: bool = False) -> str:
    with Renderer(template(text)) as renderer:
        return renderer.text(conversation(turns, system), prompt=prompt)


def learnt(text: str, messages: list[dict[str, object]], train_on: str = "assistant") -> list[str]:
    """The texts that are learnt."""
    with Renderer(template(text)) as renderer:
        [found] = renderer.mark([("here", Conversation(messages))], train_on, SPECIAL)
    raw = found.text.encode()
    return [raw[start:end].decode() for start, end in found.learn]


KNOWN = {
    "chatml": "<|im_start|>system\nYou add numbers.<|im_end|>\n<|im_start|>user\nWhat is 2+3?<|im_end|>\n"
    "<|im_start|>assistant\n It is 5. <|im_end|>\n",
    "llama-2": "<s>[INST] <<SYS>>\nYou add numbers.\n<</SYS>>\n\nWhat is 2+3? [/INST] It is 5. </s>",
    "llama-3": "<s><|start_header_id|>system<|end_header_id|>\n\nYou add numbers.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nWhat is 2+3?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nIt is 5.<|eot_id|>",
    "qwen": "<|im_start|>system\nYou add numbers.<|im_end|>\n<|im_start|>user\nWhat is 2+3?<|im_end|>\n"
    "<|im_start|>assistant\n It is 5. <|im_end|>\n",
    "gemma": "<s><start_of_turn>user\nYou add numbers.\n\nWhat is 2+3?<end_of_turn>\n<start_of_turn>model\n"
    "It is 5.<end_of_turn>\n",
    "mistral": "<s>[INST] You add numbers.\n\nWhat is 2+3?[/INST]  It is 5. </s>",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_writes_what_it_says(name: str) -> None:
    assert rendered(TEMPLATES[name], system=True) == KNOWN[name]


ANSWERS = {
    "chatml": [" It is 5. <|im_end|>", "That is 6.\n\n* six<|im_end|>"],
    "llama-2": [" It is 5. </s>", " That is 6.\n\n* six </s>"],
    "llama-3": ["It is 5.<|eot_id|>", "That is 6.\n\n* six<|eot_id|>"],
    "qwen": [" It is 5. <|im_end|>", "That is 6.\n\n* six<|im_end|>"],
    "gemma": ["It is 5.<end_of_turn>", "That is 6.\n\n* six<end_of_turn>"],
    "mistral": ["  It is 5. </s>", " That is 6.\n\n* six</s>"],
}
"""Spans that were checked by hand."""


@pytest.mark.parametrize("system", [False, True])
@pytest.mark.parametrize("name", TEMPLATES)
def test_answers_and_their_ends_are_learnt(name: str, system: bool) -> None:
    messages = conversation(5, system)
    assert learnt(TEMPLATES[name], messages) == ANSWERS[name]
    assert learnt(TEMPLATES[name], messages, "last") == ANSWERS[name][1:]
    assert learnt(TEMPLATES[name], messages, "all") == [rendered(TEMPLATES[name], 5, system)]


@pytest.mark.parametrize("name", MARKED)
def test_marks_of_a_template_and_prefixes_agree(name: str) -> None:
    for turns in range(2, 7):
        messages = conversation(turns, True)
        assert learnt(MARKED[name], messages) == learnt(TEMPLATES[name], messages)


def test_a_turn_end_outside_of_the_marks_is_told() -> None:
    text = MARKED["chatml"].replace("+ '<|im_end|>' }}{% endgeneration %}", "}}{% endgeneration %}{{ '<|im_end|>' }}")
    with Renderer(template(text)) as renderer:
        [found] = renderer.mark([("here", Conversation(conversation(4, False)))], "assistant", SPECIAL)
    assert found.open_end == "<|im_end|>"
    # The conversation is still cut behind the token.
    assert found.text.encode()[: found.cuts[0]].endswith(b"<|im_end|>\n")


def test_a_template_that_rewrites_earlier_turns_is_refused() -> None:
    forgets = (
        "{% for m in messages %}{% if not loop.last and m.role == 'assistant' %}..{% else %}{{ m.content }}{% endif %}"
        "</s>{% endfor %}"
    )
    with pytest.raises(DataError, match=r"what is learnt cannot be told: .*otherwise when more follow") as caught:
        learnt(forgets, conversation(4, False))
    assert "{% generation %}" in str(caught.value.hint)
    assert learnt(forgets, conversation(4, False), "last") == ["That is 6.\n\n* six</s>"]
    asks = (
        "{% for m in messages %}{{ m.role + ':' + m.content }}{% endfor %}{% if add_generation_prompt %}bot:{% endif %}"
    )
    with pytest.raises(DataError, match="otherwise than behind what it asks the model"):
        learnt(asks, conversation(2, False))


def test_the_date_is_the_one_given() -> None:
    assert rendered("{{ strftime_now('%d %b %Y') }}") == "31 Jan 2026"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "takes more than .* sec"),
        ("{% set x = 'a' * 9999999999 %}{{ x }}", "takes too much memory"),
        ("{{ 'a' * 5000000 }}", "too long: found a text of 5,000,000 bytes, expected at most"),
        ("{{ messages.__class__.__mro__ }}", "reaches for what the sandbox does not allow"),
        ("{{ namespace.__init__.__globals__ }}", "reaches for what the sandbox does not allow|fails"),
        ("{{ messages.append(1) }}", "reaches for what the sandbox does not allow"),
        ("{% include '/etc/passwd' %}", "the chat template fails"),
        ("{{ open('/etc/passwd') }}", "the chat template fails"),
        ("{{ raise_exception('no') }}", "refuses the conversation: no"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "the chat template fails"),
    ],
)  # fmt: skip
def test_a_hostile_template_is_an_error(text: str, message: str) -> None:
    with Renderer(template(text), seconds=0.5) as renderer:
        with pytest.raises(DataError, match=f"^here: .*({message})"):
            renderer.mark([("here", Conversation(conversation(2, False)))], "all", [])
        # The next conversation finds a process.
        with pytest.raises(DataError):
            renderer.text(conversation(1, False))


@pytest.mark.parametrize("text", ["{% if %}", "{{ ", "{% generation %}", "{% unknown %}"])
def test_a_broken_template_is_found_at_once(text: str) -> None:
    with pytest.raises(DataError, match=r"the chat template \(a test\): not a chat template: line 1"):
        Renderer(template(text))


def test_the_conversation_that_hangs_is_named() -> None:
    hangs = (
        "{% if messages|length == 3 %}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
        "{% endif %}{{ messages[0].content }}"
    )
    batch = [(f"line {turns}", Conversation(conversation(turns, False))) for turns in (2, 3, 4)]
    with (
        Renderer(template(hangs), seconds=1) as renderer,
        pytest.raises(DataError, match=r"^line 3: .*takes more than"),
    ):
        renderer.mark(batch, "all", [])


@pytest.fixture
def without_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    yield


@pytest.mark.usefixtures("without_library")
def test_without_jinja2_the_extra_is_named() -> None:
    with pytest.raises(UserError, match="jinja2, which runs chat templates, is not installed") as caught:
        Renderer(template("a"))
    assert "symlm[chat]" in str(caught.value.hint)


def test_an_old_jinja2_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "3.1.5")
    with pytest.raises(UserError, match=r"found jinja2 .*3\.1\.5.*, expected 3\.1\.6"):
        Renderer(template("a"))
