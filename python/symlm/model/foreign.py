"""Models that were made elsewhere: folders of transformers, and GGUF files, which become such a folder while in use."""

from __future__ import annotations

import shutil
import weakref
from pathlib import Path

from ..errors import DataError, UserError, shown
from ..layout import MODEL_CONFIG, WEIGHTS, WEIGHTS_INDEX
from ..system.files import make_temporary
from ..system.reading import open_binary, read_object

_GGUF_MAGIC = b"GGUF"
_MOST_INDEX_BYTES = 16 << 20
_MOST_FILES = 1024
_OTHER_WEIGHTS = ("pytorch_model*.bin", "*.pth", "*.pt", "*.ckpt", "tf_model.h5", "flax_model.msgpack")
_OTHER_TOKENIZERS = ("tokenizer.model", "vocab.json", "vocab.txt")


class Unpacked:
    """A temporary folder, removed when nothing holds this object any more, at the latest when the process ends."""

    def __init__(self) -> None:
        self.folder = make_temporary()
        weakref.finalize(self, shutil.rmtree, self.folder, True)


def weights_of(folder: Path) -> Path | None:
    """The file of weights in a folder, or the index of several; None when there is none."""
    for name in (WEIGHTS, WEIGHTS_INDEX):
        if (folder / name).is_file():
            return folder / name
    return None


def weight_files(weights: Path) -> list[Path]:
    """A file of weights; an index of several, and these."""
    if weights.name == WEIGHTS:
        return [weights]
    return [weights, *(weights.with_name(name) for name in sorted(set(read_index(weights).values())))]


def read_index(index: Path) -> dict[str, str]:
    """Tensor -> name of its file, of a `model.safetensors.index.json`; DataError when it is not usable."""
    places = read_object(index, "index of weights", _MOST_INDEX_BYTES).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise DataError(f"{index}: damaged index of weights: found no weight_map")
    files = dict.fromkeys(map(str, places.values()))
    if len(files) > _MOST_FILES:
        raise DataError(f"{index}: found {len(files):,} files, expected at most {_MOST_FILES:,}")
    for name in files:
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise DataError(f"{index}: damaged index of weights: {shown(name)} is not the name of a file in its folder")
    return {tensor: str(name) for tensor, name in places.items()}


def check_weights(folder: Path) -> None:
    """UserError for a folder of a model whose weights are in a format that is not read here."""
    if not (folder / MODEL_CONFIG).is_file():
        return
    other = [path.name for pattern in _OTHER_WEIGHTS for path in sorted(folder.glob(pattern))]
    found = f"found {other[0]}, expected" if other else "expected"
    raise UserError(
        f"{folder}: {found} {WEIGHTS} or {WEIGHTS_INDEX}",
        "transformers writes one: AutoModelForCausalLM.from_pretrained(..).save_pretrained(..)",
    )


def no_tokenizer(folder: Path, expected: str) -> DataError:
    """The error for a model folder without a tokenizer that can be read."""
    other = [name for name in _OTHER_TOKENIZERS if (folder / name).is_file()]
    if other:
        return DataError(
            f"{folder}: found {other[0]}, expected {expected}",
            "transformers converts it: AutoTokenizer.from_pretrained(..).save_pretrained(..)",
        )
    return DataError(f"{folder}: no {expected} beside the weights", "it belongs to the model: put it there")


def is_gguf(path: Path) -> bool:
    """Whether a file is a GGUF model, by its first bytes or, where it cannot be read, by its name."""
    try:
        with open_binary(path) as file:
            return file.read(len(_GGUF_MAGIC)) == _GGUF_MAGIC
    except OSError:
        return path.suffix.lower() == ".gguf"
