"""A conversation, from each of the forms in which people have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import DataError, shown
from ..system.reading import kind, parse_json

ChatForm = Literal["messages", "conversations", "alpaca", "turns"]
"""How the turns stand in an object of JSON; the extension module recognises them."""

Message = dict[str, Any]
"""At least `role`, and `content` or `tool_calls`; whatever else it holds goes to the template as it is."""

ASSISTANT = "assistant"

_ROLES = {
    "human": "user", "user": "user", "gpt": ASSISTANT, "assistant": ASSISTANT, "chatgpt": ASSISTANT, "bing": ASSISTANT,
    "bard": ASSISTANT, "model": ASSISTANT, "system": "system", "tool": "tool", "function_call": ASSISTANT,
    "function_response": "tool", "observation": "tool",
}  # fmt: skip
"""`from` of a turn -> role."""

_REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names of what an answer was thought out with; the first is the one that templates read."""


@dataclass(frozen=True)
class Conversation:
    """Messages in order, and the tools that the model may call, as the template gets them."""

    messages: list[Message]
    tools: list[Any] | None = None


class _Record:
    """An object of JSON, with errors that say where it is."""

    def __init__(self, json: str, place: str) -> None:
        self.place = place
        try:
            value = parse_json(json)
        except ValueError as error:
            raise self.error(f"found JSON that cannot be read ({error})") from None
        if not isinstance(value, dict):
            raise self.error(f"found {kind(value)}, expected an object")
        self.value: dict[str, Any] = value

    def error(self, what: str, hint: str | None = None) -> DataError:
        return DataError(f"{self.place}: {what}", hint)

    def text(self, name: str, *, empty: bool = False) -> str:
        """A field that is a text."""
        value = self.value.get(name)
        if not isinstance(value, str):
            raise self.error(f'found {kind(value)} in field "{name}", expected text')
        if not value and not empty:
            raise self.error(f'found an empty text in field "{name}", expected some')
        return value

    def optional(self, name: str) -> str:
        """A field that may be missing, null or empty."""
        return "" if self.value.get(name) is None else self.text(name, empty=True)

    def list(self, name: str) -> list[Any]:
        """A field that is a list."""
        value = self.value.get(name)
        if not isinstance(value, list):
            raise self.error(
                f'found {kind(value)} in field "{name}", expected a list of turns',
                "a prompt and a completion that are both text are --data-format completion"
                if name in ("prompt", "completion")
                else None,
            )
        return value


def read_conversation(form: ChatForm, json: str, place: str) -> Conversation:
    """The conversation in the JSON of one object; DataError that begins with `place` when it is none."""
    record = _Record(json, place)
    messages = _FORMS[form](record)
    if not messages:
        raise record.error("found a conversation without a turn, expected at least one")
    tools = record.value.get("tools")
    if isinstance(tools, str) and tools:
        try:
            tools = parse_json(tools)
        except ValueError as error:
            raise record.error(f'found no JSON in field "tools" ({error})') from None
    if tools is not None and tools != "" and not isinstance(tools, list):
        raise record.error(f'found {kind(tools)} in field "tools", expected a list')
    return Conversation(messages, tools or None)


def _messages(record: _Record) -> list[Message]:
    return [_message(record, raw, f"message {number}") for number, raw in enumerate(record.list("messages"), 1)]


def _turns(record: _Record) -> list[Message]:
    found: list[Message] = []
    for name in ("prompt", "completion"):
        # One side may be text: it is then what the user said, or the answer.
        value = record.value.get(name)
        role = "user" if name == "prompt" else ASSISTANT
        raws = [{"role": role, "content": value}] if isinstance(value, str) else record.list(name)
        found += [_message(record, raw, f"message {number} of {name}") for number, raw in enumerate(raws, 1)]
    return found


def _conversations(record: _Record) -> list[Message]:
    found = _system(record)
    for number, raw in enumerate(record.list("conversations"), 1):
        if isinstance(raw, dict) and "from" not in raw and "role" in raw:
            found.append(_message(record, raw, f"turn {number}"))
            continue
        who = raw.get("from") if isinstance(raw, dict) else None
        role = _ROLES.get(who.lower()) if isinstance(who, str) else None
        if role is None:
            known = ", ".join(_ROLES)
            raise record.error(f'turn {number}: found {shown(who)} in "from", expected one of {known}')
        found.append(_message(record, {"role": role, "content": raw.get("value")}, f"turn {number}"))
    return found


def _alpaca(record: _Record) -> list[Message]:
    found = _system(record)
    history = record.value.get("history")
    for number, pair in enumerate(history if isinstance(history, list) else [], 1):
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise record.error(f'pair {number} of "history": expected a list of two texts')
        found += [{"role": "user", "content": pair[0]}, {"role": ASSISTANT, "content": pair[1]}]
    asked, more = record.text("instruction"), record.optional("input")
    found.append({"role": "user", "content": f"{asked}\n\n{more}" if more else asked})
    found.append({"role": ASSISTANT, "content": record.text("output")})
    return found


def _system(record: _Record) -> list[Message]:
    text = record.optional("system")
    return [{"role": "system", "content": text}] if text else []


_FORMS: Mapping[str, Callable[[_Record], list[Message]]] = {
    "messages": _messages,
    "conversations": _conversations,
    "alpaca": _alpaca,
    "turns": _turns,
}


def _message(record: _Record, raw: Any, where: str) -> Message:
    """A message as the template gets it: what is null is left out, and the content is text."""
    if not isinstance(raw, dict):
        raise record.error(f"{where}: found {kind(raw)}, expected an object with role and content")
    message = {name: value for name, value in raw.items() if value is not None}
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise record.error(f'{where}: found {kind(role)} in "role", expected text', "roles are user, assistant, system")
    content = message.get("content")
    if isinstance(content, list):
        message["content"] = "".join(_part(record, part, where) for part in content)
    elif not isinstance(content, str) and not (content is None and message.get("tool_calls")):
        raise record.error(f'{where}: found {kind(content)} in "content", expected text')
    thought = next((message[name] for name in _REASONING if name in message), None)
    return message if thought is None else {"thinking": thought, **message, "reasoning_content": thought}


def _part(record: _Record, part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    text = part.get("text") if isinstance(part, dict) and part.get("type", "text") == "text" else None
    if not isinstance(text, str):
        found = shown(part.get("type")) if isinstance(part, dict) else kind(part)
        raise record.error(f'{where}: found a part of the kind {found} in "content", expected text')
    return text
