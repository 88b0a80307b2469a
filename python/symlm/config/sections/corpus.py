"""What is trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from ...errors import UsageError
from ..options import Section, Spec, option

Attend = Literal["window", "document"]
DataFormat = Literal["auto", "text", "completion", "messages", "conversations", "alpaca", "turns"]

CHAT_FORMATS = ("messages", "conversations", "alpaca", "turns")
"""Of these, the forms of conversations."""


@dataclass(frozen=True, kw_only=True)
class CorpusSettings(Section):
    """What is trained on."""

    heading: ClassVar[str] = "data"

    data: tuple[str, ...] = option(
        (),
        Spec(
            "text to train on: files, folders, globs or - for standard input; none: the Python sources of this "
            "interpreter's standard library",
            "paths",
            free=True,
            metavar="PATH",
        ),
    )
    val_data: tuple[str, ...] = option(
        (),
        Spec(
            "held-out text; without it --val-split cuts a part off the training text",
            "paths",
            free=True,
            metavar="PATH",
        ),
    )
    val_split: float = option(
        0.05, Spec("part of the text that is held out for validation; 0: no validation", "float", low=0.0, high=0.5)
    )
    text_field: str = option(
        "text",
        Spec(
            "field of a JSON object, or column of a table, that holds the text; dots lead into fields (meta.text)",
            "str",
        ),
    )
    data_format: DataFormat | None = option(
        None,
        Spec(
            "what a JSON object or a row holds: a text; a prompt and a completion, of which only the completion is "
            "learnt; or a conversation: messages, conversations, alpaca, or prompt and completion as lists of turns",
            "choice",
            choices=get_args(DataFormat),
            default_text="auto: by the first line",
        ),
    )
    attend: Attend = option(
        "window",
        Spec(
            "what a token sees: all of its window before it, or only its own document (text, example, conversation), "
            "in which positions count from 0",
            "choice",
            choices=get_args(Attend),
            before="window",
        ),
    )
    tokenizer: str | None = option(
        None, Spec("tokenizer.json to use instead of training one", "path", free=True, metavar="PATH")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data_format == "auto":
            object.__setattr__(self, "data_format", None)
        if self.val_data and "-" in self.val_data and "-" in self.data:
            raise UsageError(
                "standard input cannot be both the training text and the held-out text", "name a file for one of them"
            )
