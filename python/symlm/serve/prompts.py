"""The model that is served: its name, its text, its ids and its special tokens."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path

from ..generate.generator import Generator
from ..model.companions import DEFAULT_TEMPLATE, Companions
from .templates import Template

_MOST_KEPT = 1 << 16


def named(raw: bytes) -> str:
    """The bytes of a token as logprobs name it: its text, or `bytes:\\xe2` where it is a part of a character."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


class Served:
    """A generator, and what requests ask about it."""

    def __init__(self, generator: Generator, given: str) -> None:
        self.generator = generator
        self.tokenizer = generator.tokenizer
        self.context = generator.model.seq_len
        """Most tokens of a sequence, prompt and text together."""
        files = generator.files
        named = Path(given) if files is None else files.run or files.name
        self.name = named.name or named.absolute().name or "model"
        self.names = {self.name, given}
        """What requests may call it."""
        self.created = int(time.time())
        self.template = Template(generator)
        """Only of a model with a chat template."""
        self.token_bytes = lru_cache(_MOST_KEPT)(self._token_bytes)

    def _token_bytes(self, id_: int) -> bytes:
        return self.tokenizer.decode_bytes([id_])

    def token_text(self, id_: int) -> str:
        """A token as logprobs name it."""
        return named(self.token_bytes(id_))

    def text(self, ids: Sequence[int]) -> str:
        """The text of some ids, special tokens written out."""
        return self.tokenizer.decode_bytes(ids).decode("utf-8", errors="replace")

    def prompt_ids(self, text: str) -> list[int]:
        """Ids of a prompt, with what begins every text."""
        return self.tokenizer.encode_prompt(text)

    def written_ids(self, text: str, begin: bool) -> list[int]:
        """Ids of a text in which special tokens may be written out; `begin` puts what begins every text before it."""
        ids: list[int] = list(self.tokenizer.document_start) if begin and self.tokenizer.marks_beginning else []
        return ids + (self.tokenizer.encode_rendered(text) if text else [])

    @cached_property
    def companions(self) -> Companions | None:
        """What stands beside the model; None of one that is in no file."""
        return None if self.generator.files is None else Companions.of(self.generator.files)

    @cached_property
    def chat_template(self) -> str | None:
        """The model's own template of conversations."""
        return None if self.companions is None else self.companions.chat_templates.get(DEFAULT_TEMPLATE)

    def special_text(self, id_: int | None) -> str | None:
        """A special token written out."""
        return None if id_ is None else self.text([id_])
