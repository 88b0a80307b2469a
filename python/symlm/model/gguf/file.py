"""Reading GGUF files, which may hold anything: every length is checked against the file before it is believed.

The outcome is the metadata and the table of tensors, or a DataError that names the file. Weights stay in the file
until they are asked for.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ...errors import DataError, reason, shown
from ...system.reading import Fields, open_binary
from ..tensors import read_bytes, to_floats

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ..tensors import Floats

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MOST_ENTRIES = 1 << 16
_MOST_ITEMS = 1 << 22
"""Texts and numbers in lists, together."""

_MOST_METADATA_BYTES = 256 << 20
_MOST_KEY_BYTES = 1 << 10
_MOST_DIMENSIONS = 4
_MOST_ALIGNMENT = 1 << 16
_DEFAULT_ALIGNMENT = 32

_BOOL, _STRING, _ARRAY = 7, 8, 9
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", _BOOL: "?", 10: "Q", 11: "q", 12: "d"}
"""Type of a value -> its format in `struct`."""

Q8_BLOCK, Q8_BLOCK_BYTES = 32, 34
"""A block of Q8_0: an f16 scale and 32 signed bytes."""

_TYPES = {0: ("F32", 1, 4), 1: ("F16", 1, 2), 8: ("Q8_0", Q8_BLOCK, Q8_BLOCK_BYTES), 30: ("BF16", 1, 2)}
"""Type of a tensor that can be read -> its name, elements in a block, bytes of a block."""

_OTHER_TYPES = {
    2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K",
    15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S",
    23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0",
    39: "MXFP4",
}  # fmt: skip


@dataclass(frozen=True)
class GgufTensor:
    """A tensor in a file. `shape` has the slowest dimension first, as NumPy has it."""

    name: str
    kind: str
    """F32, F16, BF16 or Q8_0."""
    shape: tuple[int, ...]
    path: Path
    offset: int
    nbytes: int

    def floats(self) -> Floats:
        """The values as float32 of `shape`; DataError when they cannot be read."""
        raw = read_bytes(self.path, self.offset, self.nbytes)
        flat = _dequantised(raw) if self.kind == "Q8_0" else to_floats(raw, self.kind)
        return flat.reshape(self.shape)


def _dequantised(raw: npt.NDArray[np.uint8]) -> Floats:
    """Flat float32 of Q8_0 blocks."""
    import numpy as np

    blocks = raw.reshape(-1, Q8_BLOCK_BYTES)
    scales = blocks[:, :2].copy().view("<f2").astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        values: Floats = (blocks[:, 2:].view(np.int8).astype(np.float32) * scales).reshape(-1)
    return values


@dataclass(frozen=True)
class GgufFile:
    """Metadata and table of tensors of a GGUF file."""

    path: Path
    values: Mapping[str, Any]
    """Key -> number, truth value, text, or list of these."""
    tensors: Mapping[str, GgufTensor]

    @property
    def fields(self) -> Fields:
        """The metadata, to be taken out by type."""
        return Fields(self.path, self.values, "GGUF metadata")

    def texts(self, key: str) -> list[str]:
        """A list of texts; DataError otherwise."""
        return self._list(key, str, "texts")

    def wholes(self, key: str) -> list[int]:
        """A list of whole numbers; DataError otherwise."""
        return self._list(key, int, "whole numbers")

    def numbers(self, key: str) -> list[float]:
        """A list of numbers; DataError otherwise."""
        return self._list(key, (int, float), "numbers")

    def _list(self, key: str, kind: Any, what: str) -> list[Any]:
        value = self.values.get(key)
        if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
            found = "nothing" if value is None else shown(value)
            raise DataError(f"{self.path}: damaged GGUF metadata: {key}: found {found}, expected a list of {what}")
        return value


def read_gguf(path: Path) -> GgufFile:
    """Read the header of a GGUF file; DataError when it is not one, damaged, or has tensors of other types."""
    try:
        with open_binary(path) as file:
            return _Reader(path, file).read()
    except OSError as error:
        raise DataError(f"{path}: cannot read the GGUF file: {reason(error)}") from None


class _Reader:
    """Reads a file from its beginning and knows how much is left of it."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._size = file.seek(0, 2)
        self._left = min(self._size, _MOST_METADATA_BYTES)
        self._items = 0
        file.seek(0)

    def _damaged(self, what: str) -> DataError:
        return DataError(f"{self._path}: damaged GGUF file: {what}")

    def _bytes(self, count: int) -> bytes:
        if count > self._left:
            raise self._damaged(f"ends where {count:,} more bytes are expected")
        self._left -= count
        raw = self._file.read(count)
        if len(raw) != count:
            raise self._damaged("became shorter while it was read")
        return raw

    def _count(self, items: int) -> None:
        self._items += items
        if self._items > _MOST_ITEMS:
            raise self._damaged(f"more than {_MOST_ITEMS:,} texts and numbers")

    def _number(self, form: str) -> Any:
        return struct.unpack("<" + form, self._bytes(struct.calcsize("<" + form)))[0]

    def _string(self, most: int = _MOST_METADATA_BYTES) -> str:
        self._count(1)
        length = self._number("Q")
        if length > most:
            raise self._damaged(f"a text of {length:,} bytes, expected at most {most:,}")
        try:
            return self._bytes(length).decode("utf-8")
        except UnicodeDecodeError:
            raise self._damaged("a text that is not UTF-8") from None

    def _value(self, kind: int, key: str) -> Any:
        if kind == _STRING:
            return self._string()
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind])
        if kind != _ARRAY:
            raise self._damaged(f"{shown(key)}: a value of type {kind}")
        inner, count = self._number("I"), self._number("Q")
        if inner == _STRING:
            if count > self._left // 8:
                raise self._damaged(f"{shown(key)}: {count:,} texts in the {self._left:,} bytes that are left")
            return [self._string() for _ in range(count)]
        if inner not in _NUMBERS:
            raise self._damaged(f"{shown(key)}: a list of values of type {inner}")
        form = _NUMBERS[inner]
        if count > self._left // struct.calcsize(form):
            raise self._damaged(f"{shown(key)}: {count:,} numbers in the {self._left:,} bytes that are left")
        self._count(count)
        return list(struct.unpack(f"<{count}{form}", self._bytes(count * struct.calcsize(form))))

    def read(self) -> GgufFile:
        """All of it."""
        if self._bytes(min(self._left, len(MAGIC))) != MAGIC:
            raise DataError(f"{self._path}: not a GGUF file", "it begins with the letters GGUF")
        version = self._number("I")
        if version not in _VERSIONS:
            swapped = struct.unpack("<I", struct.pack(">I", version))[0] in _VERSIONS
            what = "in big-endian order" if swapped else f"of version {version}"
            raise DataError(f"{self._path}: a GGUF file {what}, expected version 3 in little-endian order")
        tensor_count, value_count = self._number("Q"), self._number("Q")
        for count, what in ((tensor_count, "tensors"), (value_count, "values")):
            if count > _MOST_ENTRIES:
                raise self._damaged(f"{count:,} {what}, expected at most {_MOST_ENTRIES:,}")
        values: dict[str, Any] = {}
        for _ in range(value_count):
            key = self._string(_MOST_KEY_BYTES)
            if key in values:
                raise self._damaged(f"{shown(key)} comes twice")
            values[key] = self._value(self._number("I"), key)
        fields = Fields(self._path, values, "GGUF metadata")
        if "split.count" in values and fields.whole("split.count", 0, 1 << 16) > 1:
            raise DataError(
                f"{self._path}: part of a GGUF model in {values['split.count']} files, expected one file",
                "join them with: llama-gguf-split --merge",
            )
        key = "general.alignment"
        alignment = fields.whole(key, 1, _MOST_ALIGNMENT) if key in values else _DEFAULT_ALIGNMENT
        entries = [self._entry() for _ in range(tensor_count)]
        # The data begin at the next multiple of the alignment.
        begin = -(-self._file.tell() // alignment) * alignment
        tensors: dict[str, GgufTensor] = {}
        for name, kind, shape, offset in entries:
            if name in tensors:
                raise self._damaged(f"tensor {shown(name)} comes twice")
            tensors[name] = self._tensor(name, kind, shape, offset, begin)
        # Otherwise a small file could become a model that fills the disk.
        if sum(tensor.nbytes for tensor in tensors.values()) > self._size:
            raise self._damaged("tensors that overlap")
        return GgufFile(self._path, values, tensors)

    def _entry(self) -> tuple[str, int, tuple[int, ...], int]:
        name = self._string(_MOST_KEY_BYTES)
        count = self._number("I")
        if not 1 <= count <= _MOST_DIMENSIONS:
            raise self._damaged(f"tensor {shown(name)} has {count:,} dimensions")
        shape = tuple(reversed([self._number("Q") for _ in range(count)]))
        return name, self._number("I"), shape, self._number("Q")

    def _tensor(self, name: str, kind: int, shape: tuple[int, ...], offset: int, begin: int) -> GgufTensor:
        if kind not in _TYPES:
            found = _OTHER_TYPES.get(kind, f"of type {kind}")
            raise DataError(
                f"{self._path}: tensor {shown(name)} is {found}, expected F32, F16, BF16 or Q8_0",
                "take the model in one of these types",
            )
        label, block, block_bytes = _TYPES[kind]
        if shape[-1] % block:
            raise self._damaged(f"tensor {shown(name)} is {label} with rows of {shape[-1]:,}")
        nbytes = math.prod(shape) // block * block_bytes
        if not nbytes or begin + offset + nbytes > self._size:
            raise self._damaged(f"tensor {shown(name)} of {nbytes:,} bytes at {offset:,} is not in the file")
        return GgufTensor(name, label, shape, self._path, begin + offset, nbytes)
