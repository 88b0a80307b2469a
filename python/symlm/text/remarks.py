"""Texts with two beginnings: one that is written out, `<s>` in a prompt, and the one that the tokenizer puts before it.

The ids are those of the `tokenizers` library, which adds the token whatever the text says. A model has hardly seen two
in a row, so that is told wherever a text comes in; which of them to leave out is for the user to know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import _symlm

if TYPE_CHECKING:
    from ..display import Display

_LOOKED_AT = 1 << 16
"""How many tokens of a text are checked: whoever writes the token out does so in every document."""


def begins_twice(tokenizer: _symlm.Tokenizer, ids: Sequence[int]) -> bool:
    """Whether ids begin with what the tokenizer puts before every text, and then with the same again."""
    start = tokenizer.document_start
    return bool(start) and list(ids[: 2 * len(start)]) == start * 2


def told(tokenizer: _symlm.Tokenizer, who: str) -> str:
    """The sentence that users read; `who` says what begins with the token, verb included."""
    token = tokenizer.decode(tokenizer.document_start)
    return f'{who} with "{token}", which the tokenizer puts before every text itself: the model sees it twice'


def warn_of_two_begins(shards: _symlm.Shards, tokenizer: _symlm.Tokenizer, display: Display) -> None:
    """Say so where documents or examples begin with the token that the tokenizer begins them with."""
    start = tokenizer.document_start
    if not start:
        return
    ids = shards.ids(0, min(shards.tokens, _LOOKED_AT))
    places = range(len(ids) - 2 * len(start) + 1)
    if any(ids[at] == start[0] and begins_twice(tokenizer, ids[at : at + 2 * len(start)]) for at in places):
        display.warning(told(tokenizer, "the text has documents that begin"))
