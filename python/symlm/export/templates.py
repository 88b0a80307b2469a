"""Chat templates for other programs: Jinja without the block that only training needs, and Ollama's own language."""

from __future__ import annotations

import re

from ..chat.renderer import Renderer
from ..chat.template import ChatTemplate
from ..errors import SymlmError

_GENERATION = re.compile(r"\{%(-?)\s*(end)?generation\s*(-?)%\}")
_TEXT, _OTHER = "zqx", "qzy"


def without_generation(template: str) -> str:
    """A template without `{% generation %}`, which programs other than transformers may not know. It writes the same
    text: an `if` that always holds takes its place, so that white space around it is treated as before."""
    return _GENERATION.sub(lambda tag: f"{{%{tag[1]} {'endif' if tag[2] else 'if true'} {tag[3]}%}}", template)


def for_ollama(template: ChatTemplate, bos: str | None) -> str | None:
    """The TEMPLATE of a Modelfile that writes what a template writes, where that puts the same around every message, as
    ChatML does. None for any other, and without jinja2. `bos` is the token that the tokenizer itself puts before a
    text."""
    try:
        with Renderer(template) as renderer:
            return _translated(renderer, bos)
    except SymlmError:
        # The model is exported whatever is wrong with its template.
        return None


def _translated(renderer: Renderer, bos: str | None) -> str | None:
    user, answer = {"role": "user", "content": _TEXT}, {"role": "assistant", "content": _TEXT}
    first, both = renderer.tried([user]), renderer.tried([user, answer])
    if first is None or both is None or not both.startswith(first):
        return None
    parts = re.fullmatch(f"(.*)assistant(.*){_TEXT}(.*)", both[len(first) :], re.DOTALL)
    if parts is None:
        return None
    before, between, behind = parts.groups()
    message = f"{before}user{between}{_TEXT}{behind}"
    if not first.endswith(message):
        return None
    lead, ask = first.removesuffix(message), f"{before}assistant{between}"
    other = [{"role": "system", "content": _OTHER}, user, {**answer, "content": _OTHER}, user]
    for messages in ([user], [user, answer, user], other):
        said = [f"{before}{message['role']}{between}{message['content']}{behind}" for message in messages]
        if renderer.tried(messages, prompt=True) != f"{lead}{''.join(said)}{ask}":
            return None
    if lead == bos:
        lead = ""
    if any(mark in f"{lead}{message}" for mark in ("{{", "}}", '"""')):
        return None
    return (
        f"{lead}{{{{ range .Messages }}}}{before}{{{{ .Role }}}}{between}{{{{ .Content }}}}{behind}{{{{ end }}}}{ask}"
    )
