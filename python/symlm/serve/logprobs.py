"""Natural logarithms of probabilities: of tokens that are drawn, which the engine gives, and of those of a prompt.

They are those of the model itself, before temperature and filters, in float64 from the logits of the training's
forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .. import _symlm
from ..errors import NanError
from ..evaluation.scoring import MOST_LOGITS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_LEAST = -9999.0
"""Stands for the logarithm of zero, which JSON cannot hold."""

_ROWS = 256
"""Rows of logits that are worked on together."""


@dataclass(frozen=True)
class TokenLogprobs:
    """Of one token and its alternatives."""

    chosen: float
    top: list[tuple[int, float]]
    """The most likely tokens, the likeliest first, the lower id first among equals."""


def of_drawn(drawn: _symlm.Drawn) -> TokenLogprobs | None:
    """Of a token that was drawn; None where they were not asked for."""
    if drawn.logprob is None:
        return None
    return TokenLogprobs(_finite(drawn.logprob), [(id_, _finite(value)) for id_, value in drawn.top])


def of_rows(logits: bytes, tokens: Sequence[int], top: int) -> list[TokenLogprobs]:
    """Of tokens, one for each row of little-endian float32 logits. NanError if a row has no finite maximum."""
    import numpy as np

    rows = np.frombuffer(logits, dtype="<f4").reshape(len(tokens), -1)
    found: list[TokenLogprobs] = []
    for at in range(0, len(tokens), _ROWS):
        part = rows[at : at + _ROWS].astype(np.float64)
        peak = part.max(axis=1, keepdims=True)
        if not np.isfinite(peak).all():
            raise NanError("the logits are not finite numbers", "the weights of the model are damaged")
        part -= peak + np.log(np.exp(part - peak).sum(axis=1, keepdims=True))
        found += [_of_one(row, token, top) for row, token in zip(part, tokens[at : at + _ROWS], strict=True)]
    return found


def _of_one(row: npt.NDArray[np.float64], token: int, top: int) -> TokenLogprobs:
    import numpy as np

    best: list[int] = []
    if top:
        # Not argpartition: of equals it would keep any.
        least = np.partition(row, len(row) - min(top, len(row)))[len(row) - min(top, len(row))]
        likely = np.flatnonzero(row >= least)
        best = sorted(likely.tolist(), key=lambda id_: (-row[id_], id_))[:top]
    return TokenLogprobs(_finite(row[token]), [(id_, _finite(row[id_])) for id_ in best])


def _finite(value: float) -> float:
    return max(float(value), _LEAST)


def of_prompt(engine: _symlm.Generator, ids: Sequence[int], top: int, vocab_size: int) -> list[TokenLogprobs]:
    """Of all `ids` but the first, each given those before it."""
    most = max(MOST_LOGITS // vocab_size, 1)
    found: list[TokenLogprobs] = []
    while len(found) < len(ids) - 1:
        count = min(most, len(ids) - 1 - len(found))
        seen = len(found) + count
        found += of_rows(engine.logits(list(ids[:seen]), count), ids[seen - count + 1 : seen + 1], top)
    return found
