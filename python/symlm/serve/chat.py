"""`/v1/chat/completions`."""

from __future__ import annotations

from typing import Any

from ..config.sampling import Sampling
from ..system.reading import kind
from .fields import Request, checked_text
from .forms import MOST_TOP, SHARED, Prompt, Wanted, check_size, read_shared, room_for
from .problems import Problem
from .prompts import Served

FIELDS = (
    *SHARED, "messages", "max_completion_tokens", "top_logprobs", "tools", "tool_choice", "functions", "function_call",
    "response_format", "modalities", "audio", "reasoning_effort",
)  # fmt: skip

MOST_MESSAGES = 4096

_NAMES = {"user": "User", "assistant": "Assistant", "system": "", "developer": ""}
_PLAIN_STOPS = ["\nUser:", "\nAssistant:"]


def read_chat(raw: dict[str, Any], served: Served, defaults: Sampling) -> Wanted:
    """The answer that a request asks for."""
    request = Request(raw, FIELDS)
    shared = read_shared(request, served, defaults)
    _refuse(request)
    messages = read_messages(request)
    if served.chat_template is None:
        text = plain_text(messages)
        prompts, ends = [Prompt(served.prompt_ids(text), text)], list(served.generator.model.eos_token_ids)
    else:
        text, ids, ends = served.template.prompt(messages)
        prompts = [Prompt(ids, text)]
    is_plain = served.chat_template is None
    asked = _asked(request)
    room = room_for(prompts, asked, served.context, served, "messages")
    top = request.whole("top_logprobs", 0, 0, MOST_TOP)
    wants_logprobs = request.flag("logprobs")
    if top and not wants_logprobs:
        raise Problem("top_logprobs: only a request with logprobs has them", parameter="top_logprobs")
    check_size(prompts, shared.n, room, top)
    return Wanted(
        prompts=prompts,
        n=shared.n,
        sampling=Sampling(**shared.sampling, max_new_tokens=room),
        ends=ends,
        stop=[*shared.stop, *(_PLAIN_STOPS if is_plain else [])],
        top=top if wants_logprobs else None,
        stream=shared.stream,
        include_usage=shared.include_usage,
        strip=is_plain,
        is_chat=True,
    )


def _refuse(request: Request) -> None:
    for name in ("tools", "functions"):
        request.refuse(name, [], why="models of this size call no functions")
    for name in ("tool_choice", "function_call"):
        request.refuse(name, "none", "auto", why="models of this size call no functions")
    request.refuse("response_format", {"type": "text"}, why="the text is free")
    request.refuse("modalities", ["text"], why="the model writes text")
    request.refuse("audio", why="the model writes text")
    request.refuse("reasoning_effort", "none", why="the model does not reason apart from its answer")


def _asked(request: Request) -> int | None:
    names = [name for name in ("max_completion_tokens", "max_tokens") if name in request]
    values = {request.whole(name, 1, 1, 10**9) for name in names}
    if len(values) > 1:
        raise Problem("max_tokens and max_completion_tokens differ: give one of them", parameter="max_tokens")
    return next(iter(values), None)


def read_messages(request: Request) -> list[dict[str, Any]]:
    """The messages of a conversation; their content is text."""
    raw = request.value("messages")
    if not isinstance(raw, list) or not raw:
        raise request.wrong("messages", "a list of messages")
    if len(raw) > MOST_MESSAGES:
        raise Problem(f"messages: found {len(raw):,}, expected at most {MOST_MESSAGES:,}", parameter="messages")
    return [_message(one, f"messages[{number}]") for number, one in enumerate(raw)]


def _message(raw: Any, where: str) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise Problem(f"{where}: found {kind(raw)}, expected an object with role and content", parameter="messages")
    role, content = raw.get("role"), raw.get("content")
    if not isinstance(role, str) or role not in _NAMES:
        known = ", ".join(_NAMES)
        raise Problem(f"{where}.role: found {kind(role)} that is not one of {known}", parameter="messages")
    if isinstance(content, list):
        content = "".join(_part(part, where) for part in content)
    if not isinstance(content, str):
        raise Problem(f"{where}.content: found {kind(content)}, expected a text", parameter="messages")
    return {"role": role, "content": checked_text(content, "messages")}


def _part(part: Any, where: str) -> str:
    text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
    if not isinstance(text, str):
        raise Problem(f"{where}.content: expected parts of the type text only", parameter="messages")
    return text


def plain_text(messages: list[dict[str, Any]]) -> str:
    """A conversation for a model without a chat template: paragraphs, those of user and assistant with their names."""
    parts = []
    for message in messages:
        name = _NAMES[message["role"]]
        parts.append(f"{name}: {message['content']}" if name else message["content"])
    return "\n".join([*parts, "Assistant:"])
