"""More special tokens for a model: in its `tokenizer.json`, and rows of its weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError, reason
from ..layout import MODEL_CONFIG, WEIGHTS
from ..system.reading import read_object
from .files import ModelFiles
from .foreign import Unpacked
from .tensors import Outgoing, Tensor, from_floats, outgoing, read_tensors, write_tensors

if TYPE_CHECKING:
    from .tensors import Floats

_MOST_BYTES = 256 << 20
_TABLES = ("model.embed_tokens.weight", "lm_head.weight")


def with_tokens(path: Path, first: int, tokens: Sequence[str]) -> None:
    """Add special tokens with the ids from `first` on to a `tokenizer.json`."""
    raw = read_object(path, "tokenizer", _MOST_BYTES)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    raw["added_tokens"] = [
        *(raw.get("added_tokens") or []),
        *({"id": number, "content": token, **flags} for number, token in enumerate(tokens, first)),
    ]
    path.write_text(json.dumps(raw, indent=2, ensure_ascii=False), encoding="utf-8")


def grown_weights(files: ModelFiles, rows: int, new: range) -> Unpacked:
    """The weights of a model in f32 with `rows` rows of the embedding and the output head, at least as many as it has.
    Each of the rows `new` is the mean of those before the first of them: their sum in float64, from the first on,
    divided by their number and rounded. Rows of a model behind its tokens, which only pad it, stay where they are not
    among the new ones."""
    unpacked = Unpacked()
    tensors = [_outgoing(tensor, rows, new) for tensor in read_tensors(files.folder).values()]
    try:
        with (unpacked.folder / WEIGHTS).open("wb") as file:
            write_tensors(file, tensors)
        shutil.copyfile(files.folder / MODEL_CONFIG, unpacked.folder / MODEL_CONFIG)
    except OSError as error:
        raise UserError(f"{unpacked.folder}: cannot write: {reason(error)}", "make room, or set TMPDIR") from None
    return unpacked


def _outgoing(tensor: Tensor, rows: int, new: range) -> Outgoing:
    if tensor.name not in _TABLES:
        return outgoing(tensor, "F32")
    return Outgoing(
        tensor.name,
        "F32",
        (rows, *tensor.shape[1:]),
        lambda: from_floats(_grown(tensor.floats(), rows, new), "F32", tensor.name),
    )


def _grown(table: Floats, rows: int, new: range) -> Floats:
    import numpy as np

    total = np.zeros(table.shape[1:], dtype=np.float64)
    for row in table[: new.start]:
        total += row
    mean = (total / new.start).astype(np.float32)
    grown: Floats = np.broadcast_to(mean, (rows, *table.shape[1:])).copy()
    grown[: len(table)] = table
    grown[new.start : new.stop] = mean
    return grown
