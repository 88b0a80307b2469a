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
from .compress import compressed_sizes
from .config import DataFormat, Progress
from .corpus import encode_text, load_tokenizer, text_blocks
from .display import make_display
from .errors import DataError, NanError, UsageError, UserError
from .machine import resolve_threads
from .run import BEST, resolve_model


@dataclass(frozen=True)
class Evaluation:
    """Result over all non-overlapping windows of a text. `loss` in nats per token.

    Of examples (a prompt and a completion) tokens, bytes and means are those of the completions.
    `compressed` are the bytes that compressors need for the text, `model_bytes` those of the file of weights.
    """

    loss: float
    perplexity: float
    bits_per_byte: float
    tokens: int
    windows: int
    text_bytes: int
    step: int
    model_bytes: int
    compressed: dict[str, int]


def evaluate(
    model: str | Path,
    data: str | Path | Sequence[str | Path],
    *,
    checkpoint: str | int = BEST,
    threads: int | Literal["auto"] = "auto",
    text_field: str = "text",
    data_format: DataFormat = "auto",
    max_windows: int = 0,
    against: Sequence[str] = (),
    progress: Progress = "auto",
) -> Evaluation:
    """Evaluate a run folder or checkpoint on `data`; `max_windows` 0 takes all windows.

    `against` names compressors (gzip, bzip2, xz) for the same text. Tokens at the end that fill no window are left out;
    `evaluate_rolling` counts them too.

    Lines of .jsonl with a prompt and a completion count by their completions; `data_format` is as in `TrainConfig`.
    """
    files = resolve_model(model, str(checkpoint))
    verify_weights(files.folder)
    state = State.read(files.folder)
    count, _ = resolve_threads(threads)
    seq_len = files.model_config().seq_len
    display = make_display(progress)
    try:
        if files.note is not None:
            display.message(files.note)
        tokenizer = load_tokenizer(files.tokenizer, files.tokenizer_sha256)
        shards = encode_text(data, text_field, tokenizer, seq_len, count, display, data_format)
        if against and shards.window is not None:
            raise UsageError(
                "compressors cannot be compared on completions: they do not know the prompts", "leave --against out"
            )
        engine = _engine(files.folder, {**state.config, "threads": count, "sectors_in_flight": 0}, shards)
        try:
            engine.load(str(files.folder), json.dumps(state.engine))
            report = engine.evaluate(shards, max_windows, display.task("evaluation"))
        finally:
            engine.close()
        blocks = text_blocks(shards, tokenizer)
        compressed = compressed_sizes(blocks, shards.bytes, against, display.task("compressing"))
    finally:
        display.close()
    if not math.isfinite(report.loss):
        raise NanError(
            f"{files.folder}: the loss on this text is {report.loss}", "choose another checkpoint with --checkpoint"
        )
    return Evaluation(
        loss=report.loss,
        perplexity=perplexity_of(report.loss),
        bits_per_byte=report.bits_per_byte,
        tokens=report.tokens,
        windows=report.windows,
        text_bytes=shards.bytes,
        step=state.step,
        model_bytes=weights_bytes(files.folder),
        compressed=compressed,
    )


def weights_bytes(folder: Path) -> int:
    """Bytes of the weights in a folder."""
    return sum(path.stat().st_size for path in folder.glob("model*.safetensors"))


def perplexity_of(loss: float) -> float:
    """e to the power of a loss in nats; infinite beyond what a float holds."""
    return math.exp(loss) if loss < 700 else math.inf


def _engine(folder: Path, settings: dict[str, Any], shards: _symlm.Shards) -> _symlm.Engine:
    """The engine that a checkpoint's state describes; what it refuses is the state's fault."""
    try:
        return _symlm.Engine(json.dumps(settings), shards)
    except (UsageError, UserError) as error:
        raise DataError(f"{folder / STATE}: {error.message}", error.hint) from None
