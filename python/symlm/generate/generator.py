"""`Generator`: text and logits from a trained model."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from .. import _symlm
from ..config.engine import model_shape
from ..config.model_config import ModelConfig
from ..config.sampling import Sampling, SamplingSettings
from ..errors import DataError, UsageError, shown
from ..layout import BEST
from ..model.files import ModelFiles
from ..model.gguf.read import weights8_of
from ..model.resolve import resolve_model
from ..run.checkpoint import verify_weights
from ..system.files import file_hash
from ..system.values import texts, token_ids, whole
from ..text.remarks import begins_twice, told
from ..units import count_of
from .pickling import Origin
from .samples import MOST_TOGETHER, Samples
from .text_stream import text_pieces, without_first

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

WEIGHT_KINDS = ("f32", "q8")
"""How weights can be held."""


class Generator:
    """A model ready to generate. Make one with `Generator.from_pretrained`."""

    def __init__(self, engine: _symlm.Generator, tokenizer: _symlm.Tokenizer, model: ModelConfig) -> None:
        self._engine = engine
        self.tokenizer = tokenizer
        self.model = model
        self.weights = "f32"
        self.note: str | None = None
        self.files: ModelFiles | None = None
        """Where it was loaded from; None of a model that is in training."""
        self.origin: Origin | None = None
        """The state of these files when they were read."""

    @property
    def engine(self) -> _symlm.Generator:
        """The weights, ready to compute with."""
        return self._engine

    @classmethod
    def from_pretrained(cls, path: str | Path, checkpoint: str | int = BEST, *, weights: str = "f32") -> Generator:
        """Load a run folder (`checkpoint` = "best", "last" or a step number), a checkpoint folder, a model folder of
        transformers, an adapter folder of PEFT or a GGUF file.

        A run without any evaluation has no best checkpoint: its last one is taken and `note` says so.

        `weights` "q8" holds the matrices in 8 bits: a quarter of the memory, and faster. Those of a GGUF file of type
        Q8_0 are used as they are.
        """
        if weights not in WEIGHT_KINDS:
            raise UsageError(f"weights: found {shown(weights)}, expected {' or '.join(WEIGHT_KINDS)}")
        files = resolve_model(path, checkpoint, weights=weights == "f32")
        verify_weights(files.folder)
        model = files.model_config()
        tokenizer = files.load_tokenizer()
        generator = cls(_engine(files, model, weights), tokenizer, model)
        generator.weights = weights
        generator.note = files.note
        generator.files = files
        generator.origin = Origin.of(files)
        return generator

    def __reduce__(self) -> Any:
        """What `pickle` keeps; UsageError when it was not loaded from files, DataError when these have changed."""
        if self.files is None or self.origin is None:
            raise UsageError(
                "a generator of a model in training cannot be pickled: its weights are in no file",
                "load a checkpoint where it is needed: Generator.from_pretrained(..)",
            )
        self.origin.check(self.files)
        hashes = tuple(file_hash(path) for path, *_ in self.origin.weights)
        return restored_generator, (self.origin.path, hashes, self.model, self.tokenizer.sha256, self.weights)

    def __copy__(self) -> Generator:
        # Nothing in it changes, so that a copy may share everything, the weights above all.
        other = Generator(self._engine, self.tokenizer, self.model)
        other.note, other.files, other.origin = self.note, self.files, self.origin
        other.weights = self.weights
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> Generator:
        return self.__copy__()

    def prompt_ids(self, prompt: str) -> list[int]:
        """Token ids of a prompt as it is written. An empty one is the start of a document: what begins every text, else
        the token that ends one."""
        return self.tokenizer.encode_prompt(prompt)

    def stream(
        self, prompt: str, *, stop: str | Iterable[str] = (), **sampling: Unpack[SamplingSettings]
    ) -> Iterator[str]:
        """Text that continues `prompt`, piece by piece as it is drawn; the prompt itself is not repeated.

        White space at the end of the prompt is the beginning of the first tokens, as in the texts that were learnt: the
        model reads the prompt without it, and draws only tokens that repeat it until it is there.

        `sampling` are the fields of `Sampling`: `max_new_tokens`, `temperature`, `top_k`, `top_p`, `min_p`,
        `repetition_penalty`, `seed`, `sample_index`; UsageError for one that is out of its limits.

        Pieces are whole characters and never contain a stop string. `temperature` 0 takes the most likely token;
        `top_k` 0, `top_p` 1 and `min_p` 0 switch these filters off. The same seed and `sample_index` give the same
        text on any number of threads. It ends at `max_new_tokens`, at the end of a document, or at a stop string.

        A prompt that begins with the token that the tokenizer puts there too is a UserWarning.
        """
        settings, stops = self._settings(sampling), texts("stop", stop)
        self._warn_of(prompt)
        tokens = self._engine.stream_behind(self.tokenizer, prompt, settings)
        pieces = (self.tokenizer.decode_bytes([token]) for token in tokens)
        return text_pieces(without_first(pieces, tokens.repeated), stops)

    def samples(
        self, prompt: str, count: int, *, stop: str | Iterable[str] = (), **sampling: Unpack[SamplingSettings]
    ) -> Iterator[Iterator[str]]:
        """`count` texts behind one prompt: the pieces of each, to be taken before the next text.

        Text i is what `stream` gives with `sample_index` i more. Up to 32 are written together, several times faster
        than one after the other, and the prompt is read once.
        """
        first, stops = Sampling(**sampling), texts("stop", stop)
        count = whole("count", count, 1, 2**31 - 1)
        self._warn_of(prompt)

        def settings(index: int) -> _symlm.SampleSettings:
            return self._settings({**sampling, "sample_index": first.sample_index + index})

        settings(count - 1)
        batch = self._engine.batch(min(count, MOST_TOGETHER), self.model.seq_len, roll=True)
        together = Samples(batch, self.tokenizer, prompt, stops, settings, count)
        return (together.pieces(index) for index in range(count))

    def tokens(self, ids: Sequence[int], settings: _symlm.SampleSettings) -> Iterator[int]:
        """Tokens that continue `ids`, one by one as they are drawn."""
        return self._engine.stream(list(ids), settings)

    def _settings(self, sampling: SamplingSettings) -> _symlm.SampleSettings:
        options = dataclasses.asdict(Sampling(**sampling))
        return _symlm.SampleSettings(**options, stop_ids=list(self.model.eos_token_ids))

    def _warn_of(self, prompt: str) -> None:
        if self.files is not None and begins_twice(self.tokenizer, self.prompt_ids(prompt)):
            warnings.warn(told(self.tokenizer, "the prompt begins"), stacklevel=3)

    def generate(self, prompt: str, *, stop: str | Iterable[str] = (), **sampling: Unpack[SamplingSettings]) -> str:
        """The whole text that `stream` with the same arguments gives."""
        return "".join(self.stream(prompt, stop=stop, **sampling))

    def logits(self, ids: Iterable[int], last: int | None = None) -> npt.NDArray[np.float32]:
        """Logits after each token, or after each of the `last` ones, float32 of shape [tokens, vocabulary]; with f32
        weights the bits of the training's forward pass."""
        import numpy as np

        checked = token_ids("logits", ids, self.model.vocab_size - 1)
        if not checked:
            raise UsageError("logits need at least one token")
        if last is not None:
            last = whole("last", last, 1, len(checked), f" of {count_of(len(checked), 'token')}")
        raw = self._engine.logits(checked) if last is None else self._engine.logits(checked, last)
        return np.frombuffer(raw, dtype="<f4").reshape(last or len(checked), -1)


def _engine(files: ModelFiles, model: ModelConfig, weights: str) -> _symlm.Generator:
    if weights == "f32":
        return _symlm.Generator.from_weights(model_shape(model), str(files.weights))
    if files.source is not None and files.base is None:
        return weights8_of(files.source).finish()
    return _symlm.Generator.from_weights8(model_shape(model), str(files.weights))


def restored_generator(
    path: Path, hashes: tuple[str, ...], model: ModelConfig, tokenizer_sha256: str, weights: str = "f32"
) -> Generator:
    """The generator of the model at `path`; DataError unless it is the one that was pickled."""
    generator = Generator.from_pretrained(path, weights=weights)
    found = () if generator.files is None else tuple(file_hash(file) for file in generator.files.weight_files)
    if (found, generator.model, generator.tokenizer.sha256) != (hashes, model, tokenizer_sha256):
        raise DataError(f"{path}: not the model that was pickled", "keep its files as they were, or load it again")
    return generator
