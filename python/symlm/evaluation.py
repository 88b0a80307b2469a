"""Loss, perplexity and bits per byte of a model on a text."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from . import _symlm
from .checkpoint import STATE, State, verify_weights
from .config import Progress
from .corpus import ensure_cache_dir, load_tokenizer
from .display import make_display
from .errors import DataError, NanError, UsageError, UserError
from .machine import resolve_threads
from .run import BEST, resolve_model


@dataclass(frozen=True)
class Evaluation:
    """Result over all non-overlapping windows of a text. `loss` in nats per token."""

    loss: float
    perplexity: float
    bits_per_byte: float
    tokens: int
    windows: int
    text_bytes: int
    step: int


def evaluate(
    model: str | Path,
    data: str | Path | Sequence[str | Path],
    *,
    checkpoint: str | int = BEST,
    threads: int | Literal["auto"] = "auto",
    text_field: str = "text",
    max_windows: int = 0,
    progress: Progress = "auto",
) -> Evaluation:
    """Evaluate a run folder or checkpoint on `data`; `max_windows` 0 takes all windows."""
    files = resolve_model(model, str(checkpoint))
    verify_weights(files.folder)
    state = State.read(files.folder)
    paths = [data] if isinstance(data, (str, Path)) else list(data)
    count, _ = resolve_threads(threads)
    seq_len = files.model_config().seq_len
    display = make_display(progress)
    try:
        if files.note is not None:
            display.message(files.note)
        corpus = _symlm.Corpus.open([str(path) for path in paths], text_field)
        tokenizer = load_tokenizer(files.tokenizer, files.tokenizer_sha256)
        move = display.task("encoding")
        shards, _ = corpus.prepare(tokenizer, ensure_cache_dir(), 0.0, seq_len, count, move)
        engine = _engine(files.folder, {**state.config, "threads": count, "sectors_in_flight": 0}, shards)
        try:
            engine.load(str(files.folder), json.dumps(state.engine))
            report = engine.evaluate(shards, max_windows, display.task("evaluation"))
        finally:
            engine.close()
    finally:
        display.close()
    if not math.isfinite(report.loss):
        raise NanError(
            f"{files.folder}: the loss on this text is {report.loss}", "choose another checkpoint with --checkpoint"
        )
    return Evaluation(
        loss=report.loss,
        perplexity=math.exp(report.loss) if report.loss < 700 else math.inf,
        bits_per_byte=report.bits_per_byte,
        tokens=report.tokens,
        windows=report.windows,
        text_bytes=shards.bytes,
        step=state.step,
    )


def _engine(folder: Path, settings: dict[str, Any], shards: _symlm.Shards) -> _symlm.Engine:
    """The engine that a checkpoint's state describes; what it refuses is the state's fault."""
    try:
        return _symlm.Engine(json.dumps(settings), shards)
    except (UsageError, UserError) as error:
        raise DataError(f"{folder / STATE}: {error.message}", error.hint) from None
