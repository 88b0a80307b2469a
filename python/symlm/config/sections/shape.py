"""The model that is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..options import Section, Spec, option
from ..presets import PRESET_WITH_DATA, PRESET_WITHOUT_DATA, PRESETS

_FROM_PRESET = "from the preset"


@dataclass(frozen=True, kw_only=True)
class ShapeSettings(Section):
    """The model that is trained."""

    heading: ClassVar[str] = "model"

    preset: str | None = option(
        None,
        Spec(
            "size of the model and start value of the learning rate",
            "choice",
            choices=tuple(PRESETS),
            default_text=f"{PRESET_WITH_DATA}, without a PATH {PRESET_WITHOUT_DATA}",
        ),
    )
    init_from: str | None = option(
        None,
        Spec(
            "model to begin with: a run, checkpoint or model folder or a GGUF file, whose weights, shape and tokenizer "
            "are taken over",
            "path",
            metavar="MODEL",
        ),
    )
    num_layers: int | None = option(
        None, Spec("transformer blocks", "int", core="num_layers", default_text=_FROM_PRESET)
    )
    num_heads: int | None = option(
        None, Spec("query heads; must divide the hidden size", "int", core="num_heads", default_text=_FROM_PRESET)
    )
    num_kv_heads: int | None = option(
        None,
        Spec("key/value heads; must divide the query heads", "int", core="num_kv_heads", default_text=_FROM_PRESET),
    )
    hidden_size: int | None = option(
        None, Spec("width of the residual stream", "int", core="hidden_size", default_text=_FROM_PRESET)
    )
    intermediate_size: int | None = option(
        None, Spec("width inside the SwiGLU block", "int", core="intermediate_size", default_text=_FROM_PRESET)
    )
    vocab_size: int | None = option(
        None,
        Spec(
            "tokens in the vocabulary: 256 bytes, <|endoftext|> and merges",
            "int",
            core="vocab_size",
            default_text="from the preset, or that of --tokenizer",
        ),
    )
    seq_len: int | None = option(
        None,
        Spec(
            "tokens in a window",
            "int",
            core="seq_len",
            aliases=("--block-size", "--context-length"),
            default_text=_FROM_PRESET,
        ),
    )
    tie_embeddings: bool | None = option(
        None, Spec("share one matrix between the embedding and the output", "bool", default_text=_FROM_PRESET)
    )
    architecture: str | None = option(
        None, Spec("what a model that was taken over has besides its sizes", "str", hidden=True)
    )
