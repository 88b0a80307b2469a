"""The model's chat template, in its process: started with the first conversation, asked by one request at a time."""

from __future__ import annotations

import threading
from typing import Any

from ..chat import template as templates
from ..chat.renderer import Renderer
from ..errors import InternalError, SymlmError
from ..generate.generator import Generator
from ..text.conversations import template_of
from .problems import Problem


class Template:
    """Writes conversations out as the model has learnt them. Close it."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._turn = threading.Lock()
        self._renderer: Renderer | None = None
        self._ends: list[int] = []

    def prompt(self, messages: list[dict[str, Any]]) -> tuple[str, list[int], list[int]]:
        """A conversation up to where the model is to answer: its text, its ids, and the tokens that end an answer."""
        with self._turn:
            try:
                renderer = self._renderer or self._start()
                text = renderer.text(messages, prompt=True)
            except InternalError:
                raise
            except SymlmError as error:
                hint = "" if error.hint is None else f" ({error.hint})"
                raise Problem(error.message + hint, parameter="messages", code="chat_template") from None
        return text, self._generator.tokenizer.encode_rendered(text), self._ends

    def _start(self) -> Renderer:
        renderer = Renderer(template_of(None, self._generator.files))
        end = templates.end_of_turn(renderer, self._generator.tokenizer)
        ends = [*self._generator.model.eos_token_ids, *([] if end is None else [end])]
        self._ends, self._renderer = list(dict.fromkeys(ends)), renderer
        return renderer

    def close(self) -> None:
        """End the process."""
        if self._renderer is not None:
            self._renderer.close()
