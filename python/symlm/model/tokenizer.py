"""Reading a tokenizer."""

from __future__ import annotations

from pathlib import Path

from .. import _symlm
from ..config.model_config import ModelConfig
from ..errors import DataError, UserError
from ..system.names import as_path


def load_tokenizer(path: str | Path, sha256: str | None = None, model: ModelConfig | None = None) -> _symlm.Tokenizer:
    """Read a tokenizer.json; UserError when there is none, DataError when it is not the one with this `sha256`.

    That of a `model` may be of any kind, if the model has an embedding for every token; without a model it is one that
    `symlm tokenizer train` could have made.
    """
    path = as_path("tokenizer", path)
    if not path.is_file():
        raise UserError(f"{path}: no such tokenizer", "make one with: symlm tokenizer train TEXT --vocab-size 1024")
    if model is None:
        tokenizer = _symlm.Tokenizer.from_file(path)
    else:
        end = next(iter(model.eos_token_ids), None)
        tokenizer = _symlm.Tokenizer.of_model(path, end, model.vocab_size, model.bos_token_id)
    if sha256 is not None and tokenizer.sha256 != sha256:
        raise DataError(
            f"{path}: damaged or replaced: not the tokenizer that the run was started with",
            "restore the file; its sha256 is in environment.json",
        )
    return tokenizer
