"""Which chat template is taken, and the special tokens that it writes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from ..errors import UsageError, shown
from ..layout import CHAT_TEMPLATE
from ..model.companions import DEFAULT_TEMPLATE, named_templates
from ..system.reading import read_object, read_text
from .masks import SPECIAL

CHATML = "chatml"
"""The name of the template that is built in, and taken for models without one."""

_CHATML_TEXT = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
    "'\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

_MOST_BYTES = 16 << 20
_USER, _ANSWER, _RULES = ({"role": role, "content": "zqx"} for role in ("user", "assistant", "system"))
_PROBES = ([_RULES, _USER, _ANSWER, _USER, _ANSWER], [_USER, _ANSWER, _USER, _ANSWER], [_USER, _ANSWER])
"""Conversations that show what a template writes around messages; their content is found again by its letters."""


class Renders(Protocol):
    """What runs a template."""

    def tried(self, messages: Sequence[dict[str, Any]], *, prompt: bool = False) -> str | None:
        """The text of a conversation; None where the template refuses it."""
        ...


class Tokens(Protocol):
    """A tokenizer."""

    @property
    def special_ids(self) -> list[int]:
        """Tokens that are never part of a text."""
        ...

    def encode_rendered(self, text: str) -> list[int]:
        """Ids of a text that a template wrote."""
        ...

    def decode_bytes(self, ids: list[int]) -> bytes:
        """The text of ids."""
        ...


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template, and what it may ask for."""

    text: str
    origin: str
    """Where it comes from, for messages."""
    variables: Mapping[str, str]
    """Texts such as `bos_token`."""
    now: datetime
    """What `strftime_now` tells; fixed when a run begins, so that its ids stay what they are."""

    @property
    def is_new(self) -> bool:
        """Whether the model did not bring it."""
        return self.origin not in (_OF_MODEL, _OF_RUN)

    def record(self) -> dict[str, Any]:
        """What a run keeps of it beside its text."""
        return {"template": self.origin, "variables": dict(self.variables), "now": self.now.isoformat()}

    @classmethod
    def of_record(cls, text: str, origin: str, record: Mapping[str, Any]) -> ChatTemplate:
        """From its text, and what `record` has kept beside it."""
        variables = {str(name): str(value) for name, value in dict(record.get("variables") or {}).items()}
        try:
            now = datetime.fromisoformat(str(record.get("now")))
        except ValueError:
            now = datetime.now()
        return cls(text, origin, variables, now)


_OF_MODEL = "the model's own"
_OF_RUN = "that of the run"


def choose(asked: str | None, own: Mapping[str, str], variables: Mapping[str, str]) -> ChatTemplate:
    """The template that `--chat-template` means: a file, `chatml`, or the name of one of the model's `own`; None is the
    model's default, and `chatml` for a model without any. UsageError when there is none such, DataError when a file
    cannot be read."""
    now = datetime.now()

    def of(text: str, origin: str) -> ChatTemplate:
        return ChatTemplate(text, origin, variables, now)

    if asked is None and own:
        name = DEFAULT_TEMPLATE if DEFAULT_TEMPLATE in own else next(iter(own))
        if name != DEFAULT_TEMPLATE and len(own) > 1:
            raise UsageError(
                f"the model has the chat templates {', '.join(map(shown, own))}, and none is the default",
                f"choose one: --chat-template {name}",
            )
        return of(own[name], _OF_MODEL)
    if asked is None:
        return of(_CHATML_TEXT, f"{CHATML}, as the model has none")
    if asked == CHATML:
        return of(_CHATML_TEXT, CHATML)
    if asked in own:
        return of(own[asked], f"the model's {shown(asked)}")
    path = Path(asked)
    if not path.is_file():
        names = f", or one of the model's: {', '.join(map(shown, own))}" if own else ""
        raise UsageError(
            f"--chat-template {asked}: found no such file", f"give a file with a Jinja template, {CHATML}{names}"
        )
    if path.suffix != ".json":
        return of(_lines(read_text(path, "chat template", _MOST_BYTES)), asked)
    named = named_templates(read_object(path, "chat template", _MOST_BYTES).get("chat_template"), path)
    return of(named.get(DEFAULT_TEMPLATE) or next(iter(named.values()), ""), asked)


def of_run(run: Path, record: Mapping[str, Any]) -> ChatTemplate:
    """The template that a run was started with; `record` is what it kept beside the text."""
    return ChatTemplate.of_record(read_text(run / CHAT_TEMPLATE, "chat template", _MOST_BYTES), _OF_RUN, record)


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def special_tokens(renderer: Renders, template: ChatTemplate, tokenizer: Tokens | None) -> list[str]:
    """The special tokens that a template writes around messages, in the order in which it does: what looks like one,
    the texts that it asks for by name, such as `eos_token`, and the special tokens of the tokenizer."""
    tried = [renderer.tried(messages, prompt=prompt) or "" for messages in _PROBES for prompt in (False, True)]
    named = [value for name, value in template.variables.items() if name in template.text]
    known = dict.fromkeys([*named, *(() if tokenizer is None else _special_within(tried, tokenizer))])
    exact = [re.escape(text) for text in sorted(known, key=len, reverse=True) if text.strip()]
    pattern = re.compile("|".join([*exact, SPECIAL.pattern]))
    return list(dict.fromkeys(found.group() for text in tried for found in pattern.finditer(text)))


def _special_within(texts: Sequence[str], tokenizer: Tokens) -> list[str]:
    """The special tokens of a tokenizer that stand in texts."""
    special = set(tokenizer.special_ids)
    ids = dict.fromkeys(number for text in texts for number in tokenizer.encode_rendered(text) if number in special)
    found = [tokenizer.decode_bytes([number]).decode("utf-8", "replace") for number in ids]
    return [token for token in found if any(token in text for text in texts)]


def end_of_turn(renderer: Renders, tokenizer: Tokens) -> int | None:
    """The special token behind an answer; None when the template writes none there."""
    for messages in _PROBES:
        text = renderer.tried(messages)
        if text is None or _ANSWER["content"] not in text:
            continue
        rest = text[text.rindex(_ANSWER["content"]) + len(_ANSWER["content"]) :].lstrip()
        ids = tokenizer.encode_rendered(rest) if rest else []
        return ids[0] if ids and ids[0] in tokenizer.special_ids else None
    return None


def missing(special: Sequence[str], tokenizer: Tokens) -> list[str]:
    """The special tokens of a template that are none of the tokenizer."""
    known = set(tokenizer.special_ids)

    def is_known(token: str) -> bool:
        ids = tokenizer.encode_rendered(token)
        return len(ids) == 1 and ids[0] in known

    return [token for token in special if not is_known(token)]
