"""Loss of every token of a text, each counted exactly once: over the whole text or document by document."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple

from .. import _symlm
from ..config.engine import attended
from ..config.options import convert
from ..config.train_config import SPECS, Progress
from ..display import make_display
from ..generate.generator import Generator
from ..layout import BEST
from ..run.checkpoint import State
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


class _Part(NamedTuple):
    """Tokens that are predicted: their place in the shards, their number, and the ids that stand before them."""

    place: int
    tokens: int
    before: list[int]


class _Window(NamedTuple):
    """A window of a part; numbers as `rolling_windows` gives them."""

    part: _Part
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
    afresh, `each` is called with its result, and the tokens between documents are not counted. A checkpoint of a run
    with `attend` "document" sees its document alone in any case; without `per_document` the tokens between count too.
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
        parts = _parts(generator, shards, scorer.context, per_document)
        move = display.task("evaluation")
        loss, tokens, count = 0.0, 0, 0
        scored = groupby(_scored(scorer, shards, parts, step), lambda one: one[0].part)
        for number, (part, of_part) in enumerate(scored):
            before, size = loss, 0
            for window, nats in of_part:
                loss, size, count = loss + nats, window.end - len(part.before), count + 1
                move(tokens + size, shards.tokens)
            tokens += size
            if each is not None and per_document:
                each(_document(number, shards, part.place, size, tokenizer, loss - before))
        move(shards.tokens, shards.tokens)
        bar = display.task("compressing")
        compressed = compressed_sizes(text_blocks(shards, tokenizer), shards.bytes, against, bar)
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
    scorer: Scorer, shards: _symlm.Shards, parts: Iterable[_Part], step: int
) -> Iterator[tuple[_Window, float]]:
    """The windows of the parts, each with the loss in nats of what it counts."""
    windows = (
        _Window(part, *window)
        for part in parts
        for window in rolling_windows(part.tokens, scorer.context, step, len(part.before))
    )

    def work(window: _Window) -> tuple[_Window, float]:
        part, begin, first, end = window
        place = max(begin, len(part.before))
        ids = shards.ids(part.place + place - len(part.before), end - place)
        return window, -scorer.score(part.before[begin:] + ids, end - first)

    return scorer.ordered(work, windows)


def _parts(generator: Generator, shards: _symlm.Shards, context: int, per_document: bool) -> Iterator[_Part]:
    """What is predicted from its own beginning: each document, or the whole text.

    A model that sees documents alone predicts each from what began them in training (contract W1). In a text that is
    taken as a whole, the end of a document is one of its predictions, as in training."""
    tokenizer, alone = generator.tokenizer, _sees_documents(generator)
    start, end = tokenizer.document_start, tokenizer.eot_id
    before = start or ([end] if alone and end is not None else generator.prompt_ids(""))
    before = before[-context:]
    if per_document:
        for place, tokens in _documents(shards, tokenizer):
            yield _Part(place, tokens, before)
    elif not alone:
        yield _Part(len(start), shards.tokens - len(start), before)
    else:
        # What a document begins with is one token, which is the last prediction of the document before it.
        behind = bool(start) and start[0] != end
        place = len(start)
        for at in _ends(shards, end):
            begin = at + behind
            if place <= begin < shards.tokens:
                yield _Part(place, begin + 1 - place, before)
                place, before = begin + 1, shards.ids(begin, 1)
        yield _Part(place, shards.tokens - place, before)


def _sees_documents(generator: Generator) -> bool:
    """Whether a model was trained to see its document alone, which only a checkpoint tells."""
    files = generator.files
    return files is not None and files.has_state and attended(State.read(files.folder).config) == "document"


def _ends(shards: _symlm.Shards, end: int | None) -> Iterator[int]:
    """Places of the tokens that end a text, ascending."""
    for at in range(0, shards.tokens, ID_BLOCK):
        for place, token in enumerate(shards.ids(at, min(ID_BLOCK, shards.tokens - at)), at):
            if token == end:
                yield place


def _documents(shards: _symlm.Shards, tokenizer: _symlm.Tokenizer) -> Iterator[tuple[int, int]]:
    """Place and number of tokens of each document, without what begins and ends it."""
    start = tokenizer.document_start
    # One token may both end a document and begin the next.
    behind, begin = len(start) - (start[:1] == [tokenizer.eot_id]), len(start)
    for place in _ends(shards, tokenizer.eot_id):
        if place >= begin:
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
