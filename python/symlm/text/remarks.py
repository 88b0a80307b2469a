"""What a user should know about a text that was prepared: examples that were cut, prompts that do not fit, texts with
two beginnings.

The two are one that is written out, `<s>` in a prompt, and one that the tokenizer puts before it. The ids are those of
the `tokenizers` library, which adds the token whatever the text says. A model has hardly seen two in a row, so users
are warned wherever a text comes in; which of them to leave out is for the user to know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import _symlm
from ..config.train_config import TrainConfig
from ..errors import UsageError
from ..units import count_of

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


def warn_of_cut(parts: Sequence[_symlm.Shards], display: Display, remedy: str = "") -> None:
    """Say how many examples are longer than a window, if any; `remedy` is what follows."""
    cut = sum(shards.cut for shards in parts)
    if cut:
        all_of_them = count_of(sum(shards.documents for shards in parts), "example")
        display.warning(
            f"{cut:,} of {all_of_them} are longer than a window of {parts[0].window} tokens: whole turns of a "
            f"conversation are left out, of a prompt the beginning, then of a completion the end{remedy}"
        )


def remark_on(
    train: _symlm.Shards,
    val: _symlm.Shards | None,
    tokenizer: _symlm.Tokenizer,
    config: TrainConfig,
    display: Display,
    *,
    chat: bool = False,
) -> None:
    """What to tell about the texts and the sample prompt of a training run; UsageError if the prompt fills a window.

    `chat` says that the examples are conversations.
    """
    what = "conversations" if chat else "examples"
    _tell_examples([shards for shards in (train, val) if shards is not None and shards.window], what, display)
    warn_of_two_begins(train, tokenizer, display)
    if config.sample_every:
        _check_prompt(config, tokenizer, display)


def _tell_examples(parts: Sequence[_symlm.Shards], what: str, display: Display) -> None:
    """How the examples fill their windows, and how many are longer than one."""
    if not parts:
        return
    train, window = parts[0], parts[0].window or 1
    held = f", {parts[1].documents:,} held out" if len(parts) > 1 else ""
    share = train.targets / train.tokens
    display.message(
        f"{what}: {train.documents:,} in {count_of(train.tokens // window, 'window')}, {share:.0%} of the tokens are "
        f"learnt{held}"
    )
    warn_of_cut(parts, display, "; a larger --seq-len takes more")


def _check_prompt(config: TrainConfig, tokenizer: _symlm.Tokenizer, display: Display) -> None:
    ids = tokenizer.encode_prompt(config.sample_prompt)
    if len(ids) >= config.model.seq_len:
        raise UsageError(
            f"--sample-prompt is {len(ids)} tokens, the window has {config.model.seq_len}", "use a shorter one"
        )
    if begins_twice(tokenizer, ids):
        display.warning(told(tokenizer, "--sample-prompt begins"))
