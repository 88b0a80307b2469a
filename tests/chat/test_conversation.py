"""Conversations from each of the forms in which people have them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from symlm.chat.conversation import ChatForm, read_conversation
from symlm.errors import DataError

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}


def read(form: ChatForm, value: Any) -> list[dict[str, Any]]:
    return read_conversation(form, json.dumps(value), "a.jsonl: line 3").messages


@pytest.mark.parametrize(
    ("form", "value"),
    [
        ("messages", {"messages": [USER, ANSWER], "id": 1}),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "text", "text": "H"}, "i"]}, ANSWER]}),
        ("messages", {"messages": [{**USER, "name": None}, ANSWER], "tools": None}),
        ("conversations", {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]}),
        ("conversations", {"conversations": [USER, ANSWER]}),
        ("alpaca", {"instruction": "Hi", "input": "", "output": "Ho"}),
        ("alpaca", {"instruction": "Hi", "output": "Ho"}),
        ("turns", {"prompt": [USER], "completion": [ANSWER]}),
        ("turns", {"prompt": "Hi", "completion": [ANSWER]}),
    ],
)
def test_the_same_conversation_in_all_forms(form: ChatForm, value: Any) -> None:
    assert read(form, value) == [USER, ANSWER]


def test_what_stands_beside_the_turns() -> None:
    rules = {"role": "system", "content": "Be brief."}
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]
    assert read("conversations", {"system": "Be brief.", "conversations": turns}) == [rules, USER, ANSWER]
    asked = {"instruction": "Add", "input": "1, 2", "output": "3", "system": "Be brief.", "history": [["Hi", "Ho"]]}
    more = [{"role": "user", "content": "Add\n\n1, 2"}, {"role": "assistant", "content": "3"}]
    assert read("alpaca", asked) == [rules, USER, ANSWER, *more]
    called = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
    given = {"messages": [USER, called, {"role": "tool", "content": "4"}], "tools": '[{"name": "f"}]'}
    found = read_conversation("messages", json.dumps(given), "here")
    assert found.tools == [{"name": "f"}]
    assert found.messages[1] == {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}
    thought = {**ANSWER, "thinking": "..", "reasoning_content": ".."}
    assert read("messages", {"messages": [USER, {**ANSWER, "reasoning": ".."}]})[1] == {**thought, "reasoning": ".."}


@pytest.mark.parametrize(
    ("form", "value", "message"),
    [
        ("messages", [], "found a list, expected an object"),
        ("messages", {"messages": "Hi"}, 'in field "messages", expected a list of turns'),
        ("messages", {"messages": []}, "found a conversation without a turn"),
        ("messages", {"messages": ["Hi"]}, "message 1: found .*, expected an object with role and content"),
        ("messages", {"messages": [USER, {"content": "a"}]}, 'message 2: found .* in "role", expected text'),
        ("messages", {"messages": [{"role": "user"}]}, 'message 1: found .* in "content", expected text'),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "image"}]}]}, '.image. in "content"'),
        ("messages", {"messages": [USER], "tools": "{"}, 'found no JSON in field "tools"'),
        ("messages", {"messages": [USER], "tools": 3}, 'in field "tools", expected a list'),
        ("conversations", {"conversations": [{"from": "me", "value": "a"}]}, 'turn 1: found .me. in "from", expected'),
        ("alpaca", {"instruction": "Hi", "output": ""}, 'found an empty text in field "output"'),
        ("alpaca", {"instruction": 1, "output": "a"}, 'in field "instruction", expected text'),
        ("alpaca", {"instruction": "a", "output": "a", "history": [1]}, 'pair 1 of "history"'),
        ("turns", {"prompt": [USER], "completion": 4}, 'in field "completion", expected a list of turns'),
    ],
)
def test_anything_else_is_an_error_that_says_where(form: ChatForm, value: Any, message: str) -> None:
    with pytest.raises(DataError, match=rf"^a\.jsonl: line 3: .*{message}"):
        read(form, value)


def test_json_that_is_nested_too_deeply_is_an_error() -> None:
    with pytest.raises(DataError, match="found JSON that cannot be read"):
        read_conversation("messages", '{"messages":' + "[" * 100_000, "here")
