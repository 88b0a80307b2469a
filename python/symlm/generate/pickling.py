"""Tokenizers and generators for other processes: `pickle`, and with it `multiprocessing`.

A tokenizer takes the content of its file along. A generator takes along where its model lies, and is loaded again from
there; the files must be what they were.
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .._symlm import MAX_VOCAB, Tokenizer
from ..errors import DataError, UsageError, UserError, reason
from ..system.files import TMPDIR_HINT, temporary, temporary_folder

if TYPE_CHECKING:
    from ..model.files import ModelFiles

__all__ = ["Origin", "Tokenizer", "restored_tokenizer"]

_State = tuple[bytes, int | None, int]


def _tokenizer_state(tokenizer: Tokenizer) -> tuple[Callable[..., Tokenizer], _State]:
    try:
        with temporary() as folder:
            path = folder / "tokenizer.json"
            tokenizer.save(path)
            return restored_tokenizer, (path.read_bytes(), tokenizer.eot_id, _embedded(tokenizer))
    except OSError as error:
        raise _no_room(error) from None


def restored_tokenizer(content: bytes, eos_id: int | None, embedded: int) -> Tokenizer:
    """The tokenizer of a `tokenizer.json` with this content, for a model with `embedded` rows in its embedding."""
    try:
        with temporary() as folder:
            path = folder / "tokenizer.json"
            path.write_bytes(content)
            return Tokenizer.of_model(path, eos_id, embedded)
    except OSError as error:
        raise _no_room(error) from None


def _no_room(error: OSError) -> UserError:
    return UserError(f"cannot write a temporary file in {temporary_folder()}: {reason(error)}", TMPDIR_HINT)


def _embedded(tokenizer: Tokenizer) -> int:
    """Ids that have a text, if only an empty one: some of them may belong to rows of an embedding without a token."""
    low, high = tokenizer.vocab_size, MAX_VOCAB + 1
    while high - low > 1:
        middle = (low + high) // 2
        try:
            tokenizer.decode_bytes([middle - 1])
            low = middle
        except (UsageError, DataError):
            high = middle
    return low


copyreg.pickle(Tokenizer, _tokenizer_state)


@dataclass(frozen=True)
class Origin:
    """Where a generator was loaded from, and the state of its files at that time."""

    path: Path
    weights: tuple[tuple[Path, int, int], ...]
    """File, size, and time of the last change in nanoseconds."""

    @classmethod
    def of(cls, files: ModelFiles) -> Origin:
        """The origin of a model that is being loaded."""
        return cls(files.name.absolute(), _seen(files))

    def check(self, files: ModelFiles) -> None:
        """DataError when the files are no longer those that were loaded."""
        if _seen(files) != self.weights:
            raise DataError(f"{self.path}: cannot be pickled: changed since it was loaded", "load it again")


def _seen(files: ModelFiles) -> tuple[tuple[Path, int, int], ...]:
    found = []
    for path in files.weight_files:
        try:
            state = path.stat()
        except OSError as error:
            raise DataError(f"{path}: cannot read the weights: {reason(error)}") from None
        found.append((path.absolute(), state.st_size, state.st_mtime_ns))
    return tuple(found)
