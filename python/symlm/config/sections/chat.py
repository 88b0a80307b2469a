"""How conversations are written out and what of them is learnt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from ..options import Section, Spec, option

TrainOn = Literal["assistant", "last", "all"]


@dataclass(frozen=True, kw_only=True)
class ChatSettings(Section):
    """How conversations are written out and what of them is learnt."""

    heading: ClassVar[str] = "conversations"

    chat_template: str | None = option(
        None,
        Spec(
            "chat template: a file with Jinja, chatml, or the name of one of the model's",
            "path",
            free=True,
            metavar="FILE|chatml|NAME",
            default_text="the model's own, chatml if it has none",
        ),
    )
    train_on: TrainOn = option(
        "assistant",
        Spec(
            "what of a conversation is learnt: the assistant's answers, the last of them, or all of it",
            "choice",
            choices=get_args(TrainOn),
        ),
    )
    add_tokens: bool = option(
        True,
        Spec(
            "give the model rows for special tokens of the chat template that it lacks (the mean of the others); "
            "otherwise such a template is refused",
            "bool",
        ),
    )
