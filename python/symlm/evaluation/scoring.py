"""Log-likelihoods of given tokens, in windows of any place and length: what the engine's evaluation, which knows only
whole windows side by side, does not give.

The logits are those of the training's forward pass; sums over them are taken in float64 here and are not part of the
numeric contract.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from .. import _symlm
from ..errors import NanError
from ..generate.generator import Generator

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

T = TypeVar("T")
R = TypeVar("R")

MOST_LOGITS = 1 << 26
"""Floats in the logits of a window that is scored as a whole."""

_BYTES_PER_LOGIT = 12
"""They are there three times while they pass from the extension to numpy."""

_ROWS = 64
_AHEAD = 4


class Scorer:
    """Asks a model for log-likelihoods, on several threads; the number of threads changes no result."""

    def __init__(self, generator: Generator, threads: int) -> None:
        model = generator.model
        assert model is not None
        self.generator = generator
        self.context = model.seq_len
        """Most tokens that a prediction can see."""
        self.most_scored = max(min(model.seq_len, MOST_LOGITS // model.vocab_size), 1)
        """Predictions to ask for at once, so that their logits have room in memory."""
        available = _symlm.available_memory()
        window = _BYTES_PER_LOGIT * self.most_scored * model.vocab_size
        self.threads = threads if available is None else max(min(threads, available.bytes // 2 // window), 1)

    def rows(self, ids: Sequence[int], count: int) -> npt.NDArray[np.float32]:
        """Logits of the last `count` of the predictions after each of `ids`, float32 of shape [count, vocabulary]."""
        return self.generator.logits(ids, count)

    def score(self, ids: Sequence[int], count: int) -> float:
        """Sum of the log-likelihoods, in nats, of the last `count` of `ids`, each given those before it in `ids`."""
        return log_likelihood(self.rows(ids[:-1], count), ids[-count:])

    def ordered(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """`work` of each item, in their order, on the threads; only a few items are taken ahead."""
        pending: deque[Future[R]] = deque()
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="symlm-eval")
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) >= _AHEAD * self.threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def log_likelihood(rows: npt.NDArray[np.float32], targets: Sequence[int]) -> float:
    """Sum of the natural logarithms of the probabilities that `rows` of logits give to `targets`, one for each row."""
    import numpy as np

    total = 0.0
    for at in range(0, len(targets), _ROWS):
        part = rows[at : at + _ROWS].astype(np.float64)
        chosen = part[np.arange(len(part)), targets[at : at + _ROWS]]
        peak = part.max(axis=1)
        total += float((chosen - peak - np.log(np.exp(part - peak[:, None]).sum(axis=1))).sum())
    if not np.isfinite(total):
        raise NanError(f"the logits of the model give a log-likelihood of {total}", "choose another --checkpoint")
    return total


def rolling_windows(tokens: int, context: int, stride: int, before: int = 1) -> Iterator[tuple[int, int, int]]:
    """Windows that predict each of `tokens` tokens exactly once: (first token seen, first predicted, end).

    Tokens 0 to `before` - 1, at most `context` of them, stand before the text and are not predicted; the text follows
    them. A window sees at most `context` tokens and predicts `stride` of them, the last one the rest; the first one
    sees all that stands before the text, and predicts as many as there is room for.
    """
    first, end = before, before + tokens
    size = min(stride, context - before + 1)
    while first < end:
        yield max(first + size - 1 - context, 0), first, min(first + size, end)
        first, size = first + size, stride
