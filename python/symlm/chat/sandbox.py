"""The Jinja environment that a chat template runs in. It is set up as transformers sets up its own, so that a template
gives the same text: the same extensions, filters and functions, and a sandbox around them.

A sandbox bounds neither time nor memory, so this runs in a separate process.
"""

from __future__ import annotations

import json
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

Range = tuple[int, int]


class Generation(jinja2.ext.Extension):
    """The block `{% generation %}`, which says what the model writes. Its places in the text are kept."""

    tags = {"generation"}  # noqa: RUF012 - the library's name for it

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.before: list[str] | None = None
        """What has been written so far, while places are kept."""
        self.ranges: list[Range] = []

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """The block as a call of `_mark`."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Callable[[], str]) -> str:
        text = caller()
        if self.before is not None:
            start = sum(map(len, self.before))
            self.ranges.append((start, start + len(text)))
        return text


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
        tree = environment.parse(text)
        self._generation = next(
            extension for extension in environment.extensions.values() if isinstance(extension, Generation)
        )
        self.has_generation = any(
            getattr(call.call.node, "name", None) == "_mark" for call in tree.find_all(jinja2.nodes.CallBlock)
        )
        """Whether the template says itself what the model writes."""

    def render(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None, *, prompt: bool = False
    ) -> tuple[str, list[Range]]:
        """The text of a conversation, and the ranges of what the model writes as far as the template marks them. With
        `prompt` the text goes up to where the model is to answer."""
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
        self._generation.before, self._generation.ranges = written, []
        try:
            for piece in self._template.root_render_func(context):
                written.append(piece)
        except Exception:
            self._template.environment.handle_exception()
        finally:
            self._generation.before = None
        return "".join(written), self._generation.ranges
