"""Conversations of a corpus, written out by a chat template into a corpus that the core encodes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from .. import _symlm
from ..chat import template as templates
from ..chat.conversation import ChatForm, Conversation, read_conversation
from ..chat.masks import Marked
from ..chat.renderer import Renderer
from ..chat.template import ChatTemplate
from ..config.model_config import ModelConfig
from ..errors import DataError, UserError, reason
from ..layout import CHAT_TEMPLATE, TOKENIZER
from ..model.added_tokens import with_tokens
from ..model.companions import Companions
from ..model.files import ModelFiles
from ..model.foreign import Unpacked
from ..units import count_of

CHAT = "chat"
"""The part of `environment.json` about the chat template of a run."""

_BATCH, _BATCH_BYTES = 256, 1 << 18
"""Conversations, and about how many bytes of JSON, that go to the template at once."""

_CHARACTERS = 16
"""Of a window, for each of its ids (contract T14): more than any text has, but for long runs of one character."""

_TOKEN_NAMES = {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}


@dataclass(frozen=True)
class ChatSettings:
    """How conversations become text: the template and what of them is learnt."""

    template: ChatTemplate
    train_on: str = "assistant"
    add_tokens: bool = True
    """Whether special tokens that the tokenizer lacks are added to it."""


@dataclass(frozen=True)
class ChatTokens:
    """What a template needs of a tokenizer."""

    special: list[str]
    """Special tokens that it writes."""
    added: list[str]
    """Those that the tokenizer had not."""
    end: int | None
    """The one that ends an answer."""


@dataclass
class WrittenOut:
    """A corpus of conversations that a template wrote out. Its files are gone with this object."""

    corpus: _symlm.Corpus
    halves: int
    folder: Unpacked = field(repr=False)


def template_of(asked: str | None, files: ModelFiles | None) -> ChatTemplate:
    """The template that `asked` means for a model; None: for one that begins from random weights."""
    if files is None:
        end = "<|endoftext|>"
        return templates.choose(asked, {}, {"bos_token": end, "eos_token": end, "pad_token": end})
    companions = Companions.of(files)
    return templates.choose(asked, companions.chat_templates, _variables(companions, files))


def _variables(companions: Companions, files: ModelFiles) -> dict[str, str]:
    """The special tokens that a template may ask for by name: those of the model's files, else those of its ids."""
    shape, tokenizer = files.model_config(), files.load_tokenizer()
    ids = {"bos_token": shape.bos_token_id, "eos_token": next(iter(shape.eos_token_ids), None)}
    found = {
        name: tokenizer.decode_bytes([number]).decode("utf-8", "replace")
        for name, number in ids.items()
        if number is not None and number < tokenizer.vocab_size
    }
    named = {name: text for name, text in companions.special_tokens.items() if name in _TOKEN_NAMES}
    return {**found, **named}


def stored_template(run: Path, environment: Mapping[str, Any]) -> ChatTemplate | None:
    """The template that a run was started with; None when it has none."""
    record = environment.get(CHAT)
    if not isinstance(record, dict) or not (run / CHAT_TEMPLATE).is_file():
        return None
    return templates.of_run(run, record)


_ADD = "name a template that uses the model's tokens with --chat-template, or add rows with --add-tokens"


def tokens_of(renderer: Renderer, tokenizer: _symlm.Tokenizer | None, *, add: bool, hint: str = _ADD) -> ChatTokens:
    """The special tokens of a template, and which of them a tokenizer lacks. `end` is not known yet where it lacks
    some.

    UserError with `hint` when it lacks some and none may be added.
    """
    special = templates.special_tokens(renderer, renderer.template, tokenizer)
    if tokenizer is None:
        return ChatTokens(special, [token for token in special if token != "<|endoftext|>"], None)
    added = templates.missing(special, tokenizer)
    if added and not add:
        raise UserError(
            f"the tokenizer of the model has no special token {', '.join(added)}, which the chat template "
            f"({renderer.template.origin}) writes",
            hint,
        )
    return ChatTokens(special, added, None if added else templates.end_of_turn(renderer, tokenizer))


def grown_tokenizer(tokenizer: _symlm.Tokenizer, tokens: Sequence[str], model: ModelConfig | None) -> _symlm.Tokenizer:
    """A tokenizer with more special tokens, whose ids follow those that it has."""
    folder = Unpacked()
    path = folder.folder / TOKENIZER
    tokenizer.save(str(path))
    with_tokens(path, tokenizer.vocab_size, tokens)
    if model is None:
        grown = _symlm.Tokenizer.from_file(str(path))
    else:
        rows = max(model.vocab_size, tokenizer.vocab_size + len(tokens))
        grown = _symlm.Tokenizer.of_model(str(path), next(iter(model.eos_token_ids), None), rows, model.bos_token_id)
    for number, token in enumerate(tokens, tokenizer.vocab_size):
        if grown.encode_rendered(token) != [number]:
            raise DataError(
                f"tokenizer.json: cannot take the special token {token}: its ids are not one after the other",
                "name a template whose tokens the model has: --chat-template",
            )
    return grown


def written_out(
    corpus: _symlm.Corpus,
    renderer: Renderer,
    train_on: str,
    special: Sequence[str],
    warn: Callable[[str], None],
    progress: Callable[[int, int], None],
    seq_len: int,
) -> WrittenOut:
    """Write all conversations of a corpus out with the template, for windows of `seq_len` tokens and their targets.
    DataError for one that cannot be."""
    folder = Unpacked()
    path = folder.folder / "conversations.jsonl"
    conversations = corpus.conversations()
    form = cast(ChatForm, corpus.data_format)
    left_open: str | None = None
    total = corpus.bytes
    try:
        with path.open("w", encoding="ascii") as file:
            for batch in _batches(conversations, form):
                for found in renderer.mark(batch, train_on, special, _CHARACTERS * (seq_len + 1)):
                    left_open = left_open or found.open_end
                    file.write(_line(found, train_on))
                progress(min(conversations.bytes, total), total)
    except OSError as error:
        raise UserError(
            f"{folder.folder}: cannot write conversations: {reason(error)}",
            "make room, or set TMPDIR to another folder",
        ) from None
    progress(total, total)
    if left_open is not None:
        warn(
            f"the {{% generation %}} of the chat template leaves {left_open} out, which ends an answer: the model does "
            "not learn to stop there"
        )
    if not path.stat().st_size:
        raise DataError(f"found no conversation in {count_of(corpus.files, 'file')}, expected at least one")
    return WrittenOut(_symlm.Corpus.open([path], data_format="rendered"), conversations.halves, folder)


def _batches(conversations: _symlm.Objects, form: ChatForm) -> Iterator[list[tuple[str, Conversation]]]:
    batch: list[tuple[str, Conversation]] = []
    size = 0
    for found in conversations:
        batch.append((found.place, read_conversation(form, found.json, found.place)))
        size += len(found.json)
        if len(batch) == _BATCH or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _line(found: Marked, train_on: str) -> str:
    record = {
        "text": found.text,
        "learn": found.learn,
        "cuts": found.cuts,
        "keep_end": train_on == "last",
        "close": found.close,
    }
    return json.dumps(record) + "\n"
