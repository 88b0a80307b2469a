"""`--init-from`: a run that begins with the weights of another model, and takes its shape and its tokenizer."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from .. import _symlm
from ..config.engine import model_shape
from ..config.finetune import USUAL_WINDOW
from ..config.options import flag_of
from ..config.train_config import CHAT_FORMATS, MODEL_FIELDS, TrainConfig
from ..errors import DataError, UsageError, UserError, reason
from ..layout import WEIGHTS
from ..model.added_tokens import grown_weights
from ..model.companions import Companions
from ..model.files import ModelFiles
from ..model.resolve import resolve_model
from ..model.tensors import check_tensors, read_tensors
from ..run.checkpoint import verify_weights
from ..run.folder import RunFolder
from ..system.files import file_hash
from ..system.names import storable

RECORD = "init_from"
"""The part of `environment.json` about the model that a run began with."""


class Initial:
    """The model that a run begins with. It is needed at the start, and for a rollback to there."""

    def __init__(self, path: str, files: ModelFiles | None = None, known: dict[str, str] | None = None) -> None:
        self.path = path
        self._files = files
        self._known = known
        self.rows: int | None = None
        """Rows of the embedding in the run, where they may be more than those of the model."""
        self.new: range | None = None
        """Rows of special tokens that the model lacked. Runs that do not say so have them behind all of the model's."""

    @classmethod
    def of_run(cls, config: TrainConfig, folder: RunFolder) -> Initial | None:
        """What a run that exists began with; None when these were random weights."""
        if config.init_from is None:
            return None
        record = folder.environment().get(RECORD)
        known = record.get("sha256") if isinstance(record, dict) else None
        initial = cls(config.init_from, known=known if isinstance(known, dict) else None)
        initial.rows = config.vocab_size
        new = record.get("new_rows") if isinstance(record, dict) else None
        if isinstance(new, list) and len(new) == 2 and all(isinstance(number, int) for number in new):
            initial.new = range(*new)
        return initial

    @property
    def files(self) -> ModelFiles:
        """Where the model lies."""
        if self._files is None:
            try:
                self._files = resolve_model(self.path)
            except UserError as error:
                raise UserError(
                    f"the model that the run began with is needed: {error.message}", "put it back where it was"
                ) from None
        return self._files

    def record(self) -> dict[str, Any]:
        """What `environment.json` says about it."""
        rows = {} if self.new is None else {"new_rows": [self.new.start, self.new.stop]}
        return {"path": self.path, "sha256": _hashes(self.files), **rows}

    def load(self, engine: _symlm.Engine) -> None:
        """Give an engine without updates the weights; DataError when they are not those that the run began with."""
        if self._known is not None and _hashes(self.files) != self._known:
            raise DataError(
                f"{self.path}: not the model that the run began with (its sha256 in environment.json differs)",
                "put back the files as they were",
            )
        own = self.files.model_config().vocab_size
        rows = max(self.rows or 0, own)
        new = range(own, rows) if self.new is None else self.new
        if new:
            grown = grown_weights(self.files, rows, new)
            engine.load_weights(str(grown.folder / WEIGHTS))
        else:
            engine.load_weights(str(self.files.weights))
        if self.files.source is not None:
            # The unpacked copy takes room that a long training may need; it is made again if it is asked for again.
            self._known, self._files = _hashes(self.files), None


def _hashes(files: ModelFiles) -> dict[str, str]:
    """Hash of each file that holds weights."""
    try:
        return {storable(path.name): file_hash(path) for path in files.weight_files}
    except OSError as error:
        raise DataError(f"{files.name}: cannot read the weights: {reason(error)}") from None


def take_over(config: TrainConfig) -> tuple[TrainConfig, Initial | None]:
    """The configuration with the shape of the model that it begins from, and that model.

    UsageError where the configuration asks for another shape.
    """
    if config.init_from is None:
        return config, None
    config = dataclasses.replace(config, init_from=str(Path(config.init_from).absolute()))
    files = resolve_model(config.init_from or "")
    verify_weights(files.folder)
    model = files.model_config()
    if config.tokenizer is not None:
        raise UsageError(
            f"--tokenizer {config.tokenizer} cannot go with --init-from {files.name}", "the tokenizer is the model's"
        )
    # Check that they fit the model before any long work.
    files.load_tokenizer()
    check_tensors(files.folder, read_tensors(files.folder), _symlm.parameter_table(model_shape(model)))
    Companions.of(files)
    if config.seq_len is not None and config.seq_len > model.seq_len:
        raise UsageError(
            f"--seq-len {config.seq_len} is more than the {model.seq_len:,} positions of {files.name}",
            f"use at most {model.seq_len}",
        )
    seq_len = config.seq_len or min(USUAL_WINDOW, model.seq_len)
    shape = {name: getattr(model, name) for name in MODEL_FIELDS} | {"seq_len": seq_len}
    if config.data_format in CHAT_FORMATS and (config.vocab_size or 0) > model.vocab_size:
        # A run that ended before its first checkpoint: its template had added tokens, and will again.
        config = dataclasses.replace(config, vocab_size=None)
    clashes = [
        f"{flag_of(name)}: the model has {value}, asked for {asked}"
        for name, value in shape.items()
        if (asked := getattr(config, name)) is not None and asked != value
    ]
    if clashes:
        raise UsageError(
            f"--init-from {files.name} is another shape: {'; '.join(clashes)}",
            "leave these out: the shape is the model's",
        )
    taken = dataclasses.replace(config, **shape, architecture=model.other())
    return taken, Initial(config.init_from or "", files)
