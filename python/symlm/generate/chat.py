"""`Chat`: a conversation with a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator as Pieces
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Unpack

from .. import _symlm
from ..chat import template as templates
from ..chat.conversation import ASSISTANT, Message
from ..chat.renderer import Renderer
from ..config.sampling import Sampling, SamplingSettings
from ..errors import UsageError, UserError
from ..layout import BEST
from ..system.names import as_text
from ..text.conversations import template_of
from .generator import Generator
from .text_stream import text_pieces


class Chat:
    """A conversation with a model, and the process that runs its chat template. Close it, or use it as a context
    manager.

    `messages` is the conversation so far; what does not fit into the context any more is left out of what the model
    reads, whole turns at a time, and stays here.
    """

    def __init__(self, generator: Generator, template: str | None = None, system: str | None = None) -> None:
        """`template` is a file, `chatml` or the name of one of the model's; None is the model's own. UserError when it
        has none."""
        self.generator = generator
        chosen = template_of(template, generator.files)
        if template is None and chosen.is_new:
            raise UserError(
                "the model has no chat template: it was not trained on conversations",
                "name one with --chat-template, or write text with symlm generate",
            )
        self._renderer = Renderer(chosen)
        self.messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self.left_out = 0
        """Messages that the model did not read at its last answer."""
        self._first = len(self.messages)
        end = templates.end_of_turn(self._renderer, generator.tokenizer)
        self.ends = list(dict.fromkeys([*generator.model.eos_token_ids, *([] if end is None else [end])]))

    @classmethod
    def from_pretrained(
        cls, path: str | Path, checkpoint: str | int = BEST, *, template: str | None = None, system: str | None = None
    ) -> Chat:
        """A conversation with a model that `Generator.from_pretrained` opens."""
        return cls(Generator.from_pretrained(path, checkpoint), template, system)

    def __enter__(self) -> Chat:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process of the template."""
        self._renderer.close()

    def reset(self) -> None:
        """Forget the conversation, but for what the system says."""
        del self.messages[self._first :]
        self.left_out = 0

    def prompt_ids(self, room: int) -> list[int]:
        """Ids up to where the model is to answer, with room for so many more in its context: the oldest turns are left
        out as far as they must. UsageError when the last message alone does not fit."""
        most = self.generator.model.seq_len - room
        kept = self.messages[self._first :]
        while True:
            text = self._renderer.text([*self.messages[: self._first], *kept], prompt=True)
            ids = self.generator.tokenizer.encode_rendered(text)
            if len(ids) <= most:
                self.left_out = len(self.messages) - self._first - len(kept)
                return ids
            behind = next((n for n, message in enumerate(kept[1:], 1) if message["role"] == "user"), None)
            if behind is None:
                raise UsageError(
                    f"the message is {len(ids):,} tokens with what stands around it, the context of "
                    f"{self.generator.model.seq_len:,} has room for {max(most, 0):,} and an answer",
                    "write a shorter one, or ask for a shorter answer (--max-new-tokens)",
                )
            kept = kept[behind:]

    def stream(
        self, text: str, *, stop: str | Sequence[str] = (), **sampling: Unpack[SamplingSettings]
    ) -> Pieces[str, None, None]:
        """The answer to `text`, piece by piece as it is drawn. Both become part of the conversation, the answer as far
        as it was drawn.

        It ends before a `stop` text. `sampling` are the fields of `Sampling`. DataError when the template refuses the
        conversation.
        """
        options = dataclasses.asdict(Sampling(**sampling))
        self.messages.append({"role": "user", "content": text})
        try:
            room = min(options["max_new_tokens"], self.generator.model.seq_len // 2)
            ids = self.prompt_ids(room)
            options["max_new_tokens"] = min(options["max_new_tokens"], self.generator.model.seq_len - len(ids))
            settings = _symlm.SampleSettings(**options, stop_ids=self.ends)
            tokens = self.generator.tokens(ids, settings)
        except BaseException:
            self.messages.pop()
            raise
        stops = [as_text("stop", text) for text in ((stop,) if isinstance(stop, str) else stop)]
        # It is there from now on, whether or not a piece is ever asked for: after a question comes an answer.
        answer: Message = {"role": ASSISTANT, "content": ""}
        self.messages.append(answer)
        return self._answer(tokens, stops, answer)

    def _answer(self, tokens: Iterator[int], stops: Sequence[str], answer: Message) -> Pieces[str, None, None]:
        decode = self.generator.tokenizer.decode_bytes
        for piece in text_pieces((decode([token]) for token in tokens), stops):
            answer["content"] += piece
            yield piece

    def ask(self, text: str, *, stop: str | Sequence[str] = (), **sampling: Unpack[SamplingSettings]) -> str:
        """The whole answer that `stream` with the same arguments gives."""
        return "".join(self.stream(text, stop=stop, **sampling))
