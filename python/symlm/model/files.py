"""The files of one model, wherever it lies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .. import _symlm
from ..config.model_config import ModelConfig
from ..layout import ADAPTER_CONFIG, FACTORS, MODEL_CONFIG, STATE, WEIGHTS
from .foreign import Unpacked, weight_files, weights_of
from .tokenizer import load_tokenizer


@dataclass(frozen=True)
class ModelFiles:
    """Where a model lies: its folder, tokenizer, and run folder if it belongs to one."""

    folder: Path
    tokenizer: Path
    run: Path | None
    note: str | None = None
    tokenizer_sha256: str | None = None
    """Of the file that the run was started with, where the run says so."""
    source: Path | None = None
    """The GGUF file or adapter folder that the folder was made from; the folder goes with this object."""
    base: ModelFiles | None = None
    """What the adapters of `source` were added to."""
    unpacked: Unpacked | None = None

    @property
    def weights(self) -> Path:
        """The file of weights, or the index of several."""
        return weights_of(self.folder) or self.folder / WEIGHTS

    @property
    def weight_files(self) -> list[Path]:
        """Every file that the weights come from."""
        if self.source is None:
            return weight_files(self.weights)
        if self.base is None:
            return [self.source]
        return [self.source / ADAPTER_CONFIG, self.source / FACTORS, *self.base.weight_files]

    @property
    def has_state(self) -> bool:
        """Whether it is a checkpoint of a run, which also knows how far that has come."""
        return (self.folder / STATE).is_file()

    @property
    def name(self) -> Path:
        """What the user knows it by."""
        return self.source or self.folder

    def companion(self, name: str) -> Path | None:
        """A file of `COMPANIONS` beside the weights, or in the run that began from a model with it."""
        places = [self.folder] if self.run is None else [self.folder, self.run]
        return next((place / name for place in places if (place / name).is_file()), None)

    def load_tokenizer(self) -> _symlm.Tokenizer:
        """The tokenizer of the model; DataError when it is damaged or that of another one."""
        return load_tokenizer(self.tokenizer, self.tokenizer_sha256, self.model_config())

    def model_config(self) -> ModelConfig:
        """The shape, from `config.json` beside the weights."""
        return ModelConfig.from_hf(self.folder / MODEL_CONFIG)
