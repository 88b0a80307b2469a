"""Loss of every token of a text, each counted exactly once: over the whole text or document by document."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple

from .. import _symlm
from ..config.options import convert
from ..config.train_config import SPECS, Progress
from ..display import make_display
from ..generate.generator import Generator
from ..layout import BEST
from ..system.machine import resolve_threads
from ..system.values import check_callable, whole
from ..text.corpus import ID_BLOCK, encode_text, text_blocks
from .compress import compressed_sizes, known_compressors
from .scoring import Scorer, rolling_windows
from .windows import perplexity_of, weights_bytes

_SHOWN_CHARACTERS = 40
_SHOWN_BYTES = 4 * _SHOWN_CHARACTERS


@dataclass(frozen=True)
class DocumentLoss:
    """One document: its number from 0, its first words, tokens, bytes of text, and loss in nats per token."""

    document: int
    text: str
    tokens: int
    text_bytes: int
    loss: float
    bits_per_byte: float


@dataclass(frozen=True)
class RollingEvaluation:
    """Result over every token of a text. `loss` in nats per token, `context` the most tokens a prediction saw."""

    loss: float
    perplexity: float
    bits_per_byte: float
    tokens: int
    windows: int
    documents: int
    text_bytes: int
    context: int
    stride: int
    model_bytes: int
    compressed: dict[str, int]


class _Window(NamedTuple):
    """`place` is the first token of the range that the window lies in; the others as `rolling_windows` gives them."""

    place: int
    begin: int
    first: int
    end: int


def evaluate_rolling(
    model: str | Path,
    data: str | Path | Iterable[str | Path],
    *,
    checkpoint: str | int = BEST,
    threads: int | Literal["auto"] = "auto",
    text_field: str = "text",
    stride: int | None = None,
    per_document: bool = False,
    each: Callable[[DocumentLoss], None] | None = None,
    against: str | Iterable[str] = (),
    progress: Progress = "auto",
) -> RollingEvaluation:
    """Evaluate a model on every token of `data`, also those that fill no whole window.

    Each window begins `stride` tokens after the one before and counts only its new tokens; without `stride` windows
    lie side by side. The first token is predicted from the start of a text. With `per_document` each document begins
    afresh, `each` is called with its result, and the tokens between documents are not counted.
    """
    against = known_compressors(against)
    check_callable("each", each)
    generator = Generator.from_pretrained(model, checkpoint)
    scorer = Scorer(generator, resolve_threads(convert("threads", SPECS["threads"], threads))[0])
    most, tokenizer = scorer.most_scored, generator.tokenizer
    step = most if stride is None else whole("--stride", stride, 1, most, " tokens (one window)")
    display = make_display(convert("progress", SPECS["progress"], progress))
    try:
        if generator.note is not None:
            display.message(generator.note)
        shards = encode_text(data, text_field, tokenizer, 1, scorer.threads, display)
        parts = _documents(shards, tokenizer) if per_document else [(0, shards.tokens)]
        move = display.task("evaluation")
        scored = _scored(generator, scorer, shards, parts, step)
        loss, tokens, count = 0.0, 0, 0
        for number, (at, of_part) in enumerate(groupby(scored, lambda one: one[0].place)):
            before, size = loss, 0
            for window, nats in of_part:
                loss, size, count = loss + nats, window.end - 1, count + 1
                move(tokens + size, shards.tokens)
            tokens += size
            if each is not None and per_document:
                each(_document(number, shards, at, size, tokenizer, loss - before))
        move(shards.tokens, shards.tokens)
        blocks = text_blocks(shards, tokenizer)
        compressed = compressed_sizes(blocks, shards.bytes, against, display.task("compressing"))
    finally:
        display.close()
    return RollingEvaluation(
        loss=loss / tokens,
        perplexity=perplexity_of(loss / tokens),
        bits_per_byte=loss / math.log(2) / shards.bytes,
        tokens=tokens,
        windows=count,
        documents=shards.documents,
        text_bytes=shards.bytes,
        context=scorer.context,
        stride=step,
        model_bytes=weights_bytes(generator.files.folder) if generator.files is not None else 0,
        compressed=compressed,
    )


def _scored(
    generator: Generator, scorer: Scorer, shards: _symlm.Shards, parts: Iterable[tuple[int, int]], step: int
) -> Iterator[tuple[_Window, float]]:
    """The windows of the parts (a place, and tokens from there), each with the loss in nats of what it counts."""
    windows = (_Window(at, *w) for at, size in parts for w in rolling_windows(size, scorer.context, step))
    start = generator.tokenizer.document_start[-1:] or generator.prompt_ids("")[-1:]

    def work(window: _Window) -> tuple[_Window, float]:
        at, begin, first, end = window
        ids = shards.ids(at + max(begin - 1, 0), end - max(begin, 1))
        return window, -scorer.score(ids if begin else start + ids, end - first)

    return scorer.ordered(work, windows)


def _documents(shards: _symlm.Shards, tokenizer: _symlm.Tokenizer) -> Iterator[tuple[int, int]]:
    """Place and number of tokens of each document, without what begins and ends it."""
    start = tokenizer.document_start
    # One token may both end a document and begin the next.
    eot, behind = tokenizer.eot_id, len(start) - (start[:1] == [tokenizer.eot_id])
    begin = len(start)
    for at in range(0, shards.tokens, ID_BLOCK):
        for place, token in enumerate(shards.ids(at, min(ID_BLOCK, shards.tokens - at)), at):
            if token == eot and place >= begin:
                yield begin, place - begin
                begin = place + 1 + behind
    yield begin, shards.tokens - begin


def _document(
    number: int, shards: _symlm.Shards, at: int, tokens: int, tokenizer: _symlm.Tokenizer, loss: float
) -> DocumentLoss:
    size, text = 0, ""
    for place in range(at, at + tokens, ID_BLOCK):
        piece = tokenizer.decode_bytes(shards.ids(place, min(ID_BLOCK, at + tokens - place)))
        text = text or " ".join(piece[:_SHOWN_BYTES].decode("utf-8", errors="ignore").split())[:_SHOWN_CHARACTERS]
        size += len(piece)
    text = "".join(character if character.isprintable() else "\ufffd" for character in text)
    return DocumentLoss(number, text, tokens, size, loss / tokens, loss / math.log(2) / max(size, 1))
