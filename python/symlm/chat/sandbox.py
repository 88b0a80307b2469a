"""The Jinja environment that a chat template runs in. It is set up as transformers sets up its own, so that a template
gives the same text: the same extensions, filters and functions, and a sandbox around them.

A sandbox bounds neither time nor memory, so this runs in a separate process.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.runtime
import jinja2.sandbox
import jinja2.utils

from .masks import LostMarks

Range = tuple[int, int]


_BEGIN, _END = "\ufdd0", "\ufdd1"
"""Noncharacters, which no text has a use for: they stand around what is marked while its places are looked for."""

_BUFFERS = (jinja2.nodes.Macro, jinja2.nodes.CallBlock, jinja2.nodes.FilterBlock, jinja2.nodes.AssignBlock)
"""What is written inside of these is kept first, and stands in the text later, elsewhere or not at all."""


class Generation(jinja2.ext.Extension):
    """The block `{% generation %}`, which says what the model writes. Its places in the text are kept."""

    tags = {"generation"}  # noqa: RUF012 - the library's name for it

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.before: int | None = None
        """Characters that have been written so far, while places are kept."""
        self.marked: list[tuple[int, str]] = []
        """Where each marked text begins, and that text."""
        self.framed = False
        """Whether to write noncharacters around what is marked."""

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """The block as a call of `_mark`."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Callable[[], str]) -> str:
        text = caller()
        if self.before is not None:
            self.marked.append((self.before, text))
        return f"{_BEGIN}{text}{_END}" if self.framed else text


def _is_mark(node: jinja2.nodes.Node) -> bool:
    return isinstance(node, jinja2.nodes.CallBlock) and getattr(node.call.node, "name", None) == "_mark"


def _is_buffer(node: jinja2.nodes.Node) -> bool:
    return isinstance(node, _BUFFERS) or (isinstance(node, jinja2.nodes.For) and node.recursive)


def _places(framed: str) -> tuple[str, list[Range]]:
    """A text without the noncharacters around what is marked, and what is outermost of that."""
    pieces: list[str] = []
    found: list[Range] = []
    size, depth, start = 0, 0, 0
    for piece in re.split(f"([{_BEGIN}{_END}])", framed):
        if piece == _BEGIN:
            start = start if depth else size
            depth += 1
        elif piece == _END:
            depth -= 1
            if depth == 0:
                found.append((start, size))
        else:
            pieces.append(piece)
            size += len(piece)
        if depth < 0:
            break
    if depth != 0:
        raise LostMarks("the template changes the text around {% generation %} behind it")
    return "".join(pieces), found


class _Namespace(jinja2.utils.Namespace):
    """A namespace that takes no name of Python's own."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, rest = args[0], args[1:]
        values = dict(*rest, **kwargs)
        for name in values:
            _check(name)
        jinja2.utils.Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check(name)
        super().__setitem__(name, value)


def _check(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a template cannot set the attribute {name!r} of a namespace")


class _Dict:
    """`dict` without its attributes."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


def _raise(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class Template:
    """A chat template, compiled. `variables` are texts that it may ask for, such as `bos_token`; `now` is what
    `strftime_now` tells. jinja2's exceptions when it cannot be compiled or rendered."""

    def __init__(self, text: str, variables: Mapping[str, str], now: datetime) -> None:
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = now.strftime
        environment.globals["dict"] = _Dict()
        environment.globals["namespace"] = _Namespace
        self._variables = dict(variables)
        self._template = environment.from_string(text)
        self._generation = next(
            extension for extension in environment.extensions.values() if isinstance(extension, Generation)
        )
        tree = environment.parse(text)
        self.has_generation = any(map(_is_mark, tree.find_all(jinja2.nodes.CallBlock)))
        """Whether the template says itself what the model writes."""
        buffers = filter(_is_buffer, tree.find_all((*_BUFFERS, jinja2.nodes.For)))
        self._elsewhere = any(_is_mark(inner) for outer in buffers for inner in outer.find_all(jinja2.nodes.CallBlock))
        """Whether it says so where the place in the text is not known yet."""

    def render(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None, *, prompt: bool = False
    ) -> str:
        """The text of a conversation; with `prompt`, up to where the model is to answer."""
        context = self._template.new_context(
            {
                **self._variables,
                "messages": messages,
                "tools": tools,
                "documents": None,
                "add_generation_prompt": prompt,
            }
        )
        written: list[str] = []
        try:
            for piece in self._template.root_render_func(context):
                written.append(piece)
                if self._generation.before is not None:
                    self._generation.before += len(piece)
        except Exception:
            self._template.environment.handle_exception()
        return "".join(written)

    def marks(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None) -> tuple[str, list[Range]]:
        """The text of a conversation, and the ranges of it that the template marks, ascending. LostMarks when their
        places cannot be told."""
        generation = self._generation
        generation.before, generation.marked = 0, []
        try:
            text = self.render(messages, tools)
        finally:
            generation.before = None
        if not self._elsewhere:
            found = [(start, start + len(part)) for start, part in generation.marked]
            if any(text[start:end] != part for (start, end), (_, part) in zip(found, generation.marked, strict=True)):
                raise LostMarks("what {% generation %} marks is not what the template writes there")
            return text, found
        if _BEGIN in text or _END in text:
            raise LostMarks("the conversation has noncharacters (U+FDD0, U+FDD1)")
        generation.framed = True
        try:
            plain, found = _places(self.render(messages, tools))
        finally:
            generation.framed = False
        if plain != text or (generation.marked and not found):
            raise LostMarks("the template changes or leaves out what {% generation %} marks inside of a block")
        return text, found
