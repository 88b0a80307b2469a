"""Loss, perplexity and bits per byte of a model on a text."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from .. import _symlm
from ..config.engine import attended, engine_settings, in_f32, made_from, settings_of, without_adapters
from ..config.model_config import ModelConfig
from ..config.options import convert
from ..config.train_config import SPECS, DataFormat, Progress, TrainConfig
from ..display import Display, make_display
from ..errors import DataError, NanError, UsageError, UserError
from ..layout import BEST, MODEL_CONFIG, STATE
from ..model.files import ModelFiles
from ..model.resolve import resolve_model
from ..run.checkpoint import State, verify_weights
from ..system.machine import resolve_threads
from ..text.conversations import template_of
from ..text.corpus import encode_text, text_blocks
from .compress import compressed_sizes, known_compressors

IMPORTED_WINDOW = 1024
IMPORTED_BATCH = 12
"""Windows of a model from elsewhere: contexts can be far longer than memory allows for whole batches of them."""


@dataclass(frozen=True)
class Evaluation:
    """Result over all non-overlapping windows of a text. `loss` in nats per token.

    `step` is the number of updates of a checkpoint, None of a model from elsewhere. Of examples (a prompt and a
    completion) tokens, bytes and means are those of the completions. `compressed` are the bytes that compressors need
    for the text, `model_bytes` those of the files of weights.
    """

    loss: float
    perplexity: float
    bits_per_byte: float
    tokens: int
    windows: int
    text_bytes: int
    step: int | None
    model_bytes: int
    compressed: dict[str, int]


def evaluate(
    model: str | Path,
    data: str | Path | Iterable[str | Path],
    *,
    checkpoint: str | int = BEST,
    threads: int | Literal["auto"] = "auto",
    text_field: str = "text",
    data_format: DataFormat = "auto",
    max_windows: int = 0,
    against: str | Iterable[str] = (),
    progress: Progress = "auto",
) -> Evaluation:
    """Evaluate any MODEL on `data`; `max_windows` 0 takes all windows. These are as long as in the training of a
    checkpoint; for a model from elsewhere as its `max_position_embeddings`, but at most `IMPORTED_WINDOW` tokens.

    `against` names compressors (gzip, bzip2, xz) for the same text. Tokens at the end that fill no window are left out;
    `evaluate_rolling` counts them too.

    Objects of JSON with a prompt and a completion count by their completions; `data_format` is as in `TrainConfig`.
    """
    against = known_compressors(against)
    files = resolve_model(model, checkpoint)
    verify_weights(files.folder)
    state = State.read(files.folder) if files.has_state else None
    count, _ = resolve_threads(convert("threads", SPECS["threads"], threads))
    shape = files.model_config()
    kept = _imported(shape) if state is None else in_f32(without_adapters(state.config))
    # Of a fine-tuned model it may be less than the positions that its config.json keeps from the base.
    seq_len = kept["model"]["seq_len"]
    display = make_display(convert("progress", SPECS["progress"], progress))
    try:
        if files.note is not None:
            display.message(files.note)
        tokenizer = files.load_tokenizer()
        template = partial(template_of, None, files)
        see = attended(kept)
        shards = encode_text(data, text_field, tokenizer, seq_len, count, display, data_format, template, see)
        if against and shards.window is not None:
            raise UsageError(
                "compressors cannot be compared on completions: they do not know the prompts", "leave --against out"
            )
        settings = {**kept, "threads": count, "sectors_in_flight": 0}
        report = _report(files, settings, shards, max_windows, display)
        blocks = text_blocks(shards, tokenizer)
        compressed = compressed_sizes(blocks, shards.bytes, against, display.task("compressing"))
    finally:
        display.close()
    if not math.isfinite(report.loss):
        raise NanError(f"{files.name}: the loss on this text is {report.loss}", "choose another one with --checkpoint")
    return Evaluation(
        loss=report.loss,
        perplexity=perplexity_of(report.loss),
        bits_per_byte=report.bits_per_byte,
        tokens=report.tokens,
        windows=report.windows,
        text_bytes=shards.bytes,
        step=None if state is None else state.step,
        model_bytes=weights_bytes(files.folder),
        compressed=compressed,
    )


def _report(
    files: ModelFiles, settings: dict[str, Any], shards: _symlm.Shards, max_windows: int, display: Display
) -> _symlm.EvalReport:
    """The losses of an engine made from `settings` with the weights of a model."""
    engine = _engine(files, settings, shards)
    try:
        engine.load_weights(str(files.weights))
        return engine.evaluate(shards, max_windows, display.task("evaluation"))
    finally:
        engine.close()


def weights_bytes(folder: Path) -> int:
    """Bytes of the weights in a folder."""
    return sum(path.stat().st_size for path in folder.glob("model*.safetensors"))


def perplexity_of(loss: float) -> float:
    """e to the power of a loss in nats; infinite beyond what a float holds."""
    return math.exp(loss) if loss < 700 else math.inf


def _imported(model: ModelConfig) -> dict[str, Any]:
    """What a checkpoint of a model without training settings would keep; an evaluation needs only the batch."""
    usual = engine_settings(TrainConfig(batch_size=IMPORTED_BATCH).with_model(), 1)
    return {**made_from(usual), "model": model.as_dict() | {"seq_len": min(model.seq_len, IMPORTED_WINDOW)}}


def _engine(files: ModelFiles, settings: dict[str, Any], shards: _symlm.Shards) -> _symlm.Engine:
    """The engine that a checkpoint's state describes; what it refuses is the state's fault."""
    # But not an instruction set that the environment asks for.
    _symlm.isa()
    try:
        return _symlm.Engine(settings_of(settings), shards)
    except (UsageError, UserError) as error:
        raise DataError(
            f"{files.folder / (STATE if files.has_state else MODEL_CONFIG)}: {error.message}", error.hint
        ) from None
