"""What of a conversation is learnt: the answers of the assistant, with the end of each.

A template with `{% generation %}` says so itself. Of any other the beginnings of the conversation are rendered: an
answer is what the text of the messages up to it has more than the text at which the model is asked to answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .conversation import ASSISTANT, Message

Range = tuple[int, int]


class Renders(Protocol):
    """A template."""

    has_generation: bool

    def render(self, messages: Sequence[Message], tools: Sequence[Any] | None, *, prompt: bool = False) -> str:
        """The text."""
        ...

    def marks(self, messages: Sequence[Message], tools: Sequence[Any] | None) -> tuple[str, list[Range]]:
        """The text, and the ranges that the template marks."""
        ...


class Disagreement(Exception):
    """What is learnt cannot be told from the template. The message says why."""


class LostMarks(Disagreement):
    """The places of `{% generation %}` in the text are not known."""


@dataclass(frozen=True)
class Marked:
    """The text of a conversation. Places are bytes of its UTF-8 form."""

    text: str
    learn: list[Range]
    cuts: list[int]
    """Places behind an answer, but for the last one."""
    close: bool
    """Whether the last answer is learnt and no special token ends it."""
    open_end: str | None = None
    """The token that ends a turn and that the template's `{% generation %}` leaves out; None if there is none."""


def marked(template: Renders, messages: Sequence[Message], tools: Sequence[Any] | None, train_on: str,
           special: Sequence[str], most: int | None = None) -> Marked:  # fmt: skip
    """A conversation with what is learnt of it: `train_on` all, assistant (all answers) or last (the last one).

    `special` are the texts of special tokens. A window holds fewer than `most` characters (None: any number): what is
    further from the end of the text that is kept is not looked at. Disagreement when the template does not tell.
    """
    answers = [number for number, message in enumerate(messages) if message["role"] == ASSISTANT]
    if not answers and train_on != "all":
        raise Disagreement("found no answer of the assistant, expected at least one")
    open_end = None
    if template.has_generation:
        text, ranges = template.marks(messages, tools)
        learn, cuts, open_end = _by_template(text, ranges, special)
    else:
        text = template.render(messages, tools)
        learn, cuts = _Prefixes(template, messages, tools, text, special).found(answers, train_on, most)
    if train_on == "all":
        learn = [(0, len(text))]
    learn = [span for span in learn if span[0] < span[1]]
    if train_on == "last":
        learn = learn[-1:]
    if not learn:
        raise Disagreement("found nothing that is learnt: no answer has a text, or the template marks none")
    ended = text.rstrip().endswith(tuple(special))
    close = messages[-1]["role"] == ASSISTANT and not ended and learn[-1][1] >= len(text.rstrip())
    return _in_bytes(text, learn, [cut for cut in cuts if cut < len(text)], close, open_end)


def _by_template(
    text: str, ranges: Sequence[Range], special: Sequence[str]
) -> tuple[list[Range], list[int], str | None]:
    """The ranges that a template marks, the places behind the turns, and a turn end that it leaves out."""
    cuts, left_out = [], None
    for start, end in ranges:
        rest = text[end:]
        behind = rest.lstrip()
        outside = None
        if start < end and not text[start:end].rstrip().endswith(tuple(special)):
            outside = next((token for token in special if behind.startswith(token)), None)
        if outside is not None:
            left_out = outside
            behind = behind[len(outside) :]
        cuts.append(len(text) - len(behind.lstrip()))
    return list(ranges), cuts, left_out


@dataclass(frozen=True)
class _Prefixes:
    """A conversation of which beginnings are rendered, to see what its template writes for each message."""

    template: Renders
    messages: Sequence[Message]
    tools: Sequence[Any] | None
    text: str
    """Of all messages."""
    special: Sequence[str]

    def found(self, answers: Sequence[int], train_on: str, most: int | None) -> tuple[list[Range], list[int]]:
        """What is learnt, and the places behind the answers, both ascending. Those of a long conversation that no
        window holds are left out: each takes as long as all before it."""
        learn: list[Range] = []
        cuts: list[int] = []
        # Of the last answer what stands before it is kept, of all others what comes first.
        for number in reversed(answers) if train_on == "last" else answers:
            # Nothing stands before the first message: it cannot be learnt.
            is_learnt = number > 0 and (train_on == "assistant" or (train_on == "last" and number == answers[-1]))
            try:
                up_to = self._up_to(number)
                if is_learnt:
                    learn.append(self._answer(number, up_to))
            except Exception:
                if is_learnt:
                    raise
                # The template refuses this beginning or writes it otherwise: one place less to cut at.
                continue
            cuts.append(len(up_to))
            distance = len(self.text) - len(up_to) if train_on == "last" else len(up_to)
            if most is not None and distance > most and (learn or train_on == "all"):
                break
        return learn, sorted(cuts)

    def _up_to(self, number: int) -> str:
        """The text of the messages up to one."""
        if number == len(self.messages) - 1:
            return self.text
        up_to = self.template.render(self.messages[: number + 1], self.tools)
        if not self.text.startswith(up_to):
            raise Disagreement(
                f"the template writes the first {number + 1} messages otherwise when more follow: "
                f"{_difference(up_to, self.text)}"
            )
        return up_to

    def _answer(self, number: int, up_to: str) -> Range:
        """Where an answer stands at the end of the text up to it."""
        asked = self.template.render(self.messages[:number], self.tools, prompt=True)
        if not up_to.startswith(asked):
            raise Disagreement(
                f"the template writes message {number + 1} otherwise than behind what it asks the model to continue: "
                f"{_difference(asked, up_to)}"
            )
        answer = up_to[len(asked) :].rstrip()
        # White space behind the token that ends a turn is written by the template, not by the model.
        return len(asked), len(asked) + len(answer) if answer.endswith(tuple(self.special)) else len(up_to)


def _difference(first: str, second: str) -> str:
    """Where two texts part, in short."""
    at = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second)))
    return f"{first[max(at - 20, 0) : at + 20]!r} against {second[max(at - 20, 0) : at + 20]!r}"


def _in_bytes(text: str, learn: list[Range], cuts: list[int], close: bool, open_end: str | None) -> Marked:
    if not text.isascii():
        places = sorted({*(place for span in learn for place in span), *cuts})
        sizes, at, size = {}, 0, 0
        for place in places:
            size += len(text[at:place].encode("utf-8", "surrogatepass"))
            sizes[place], at = size, place
        learn = [(sizes[start], sizes[end]) for start, end in learn]
        cuts = [sizes[cut] for cut in cuts]
    return Marked(text, learn, cuts, close, open_end)


SPECIAL = re.compile(r"<([|｜])[^\s<>|｜]{1,60}\1>|</?s>|<[be]os>|<(?:start|end)_of_turn>")
"""What a template writes that is taken for a special token."""
