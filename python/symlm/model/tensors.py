"""The tensors of a model folder in NumPy: read from `model.safetensors`, whole or in parts, converted, written again.

The extension reads weights to compute with them; here they travel, in f32, f16 or bf16, one at a time.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeGuard

from ..errors import DataError, reason, shown
from ..layout import WEIGHTS, WEIGHTS_INDEX
from ..system.reading import open_binary, parse_json
from .foreign import read_index

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from .._symlm import Parameter

    Floats = npt.NDArray[np.float32]
    Bytes = npt.NDArray[np.uint8]

DTYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16"}
"""Names on the command line -> names in a safetensors file."""

ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
_MOST_HEADER_BYTES = 32 << 20
_MOST_DIMENSIONS = 8


@dataclass(frozen=True)
class Tensor:
    """A tensor of floats that lies in a file; nothing of it is read before `load`."""

    name: str
    dtype: str
    """F32, F16 or BF16."""
    shape: tuple[int, ...]
    path: Path
    offset: int

    @property
    def items(self) -> int:
        """Number of floats."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.items * ITEM_BYTES[self.dtype]

    def load(self) -> Bytes:
        """The bytes of the file; DataError when they cannot be read."""
        return read_bytes(self.path, self.offset, self.nbytes)

    def floats(self) -> Floats:
        """The values as float32, which holds those of all three types exactly; shape as in the file."""
        return to_floats(self.load(), self.dtype).reshape(self.shape)


def read_bytes(path: Path, offset: int, count: int) -> Bytes:
    """`count` bytes of a file of weights, from `offset` on; DataError when they cannot be read."""
    import numpy as np

    try:
        with open_binary(path) as file:
            file.seek(offset)
            raw = np.fromfile(file, dtype=np.uint8, count=count)
    except OSError as error:
        raise DataError(f"{path}: cannot read the weights: {reason(error)}") from None
    if raw.size != count:
        raise DataError(f"{path}: damaged weights: found {raw.size:,} bytes at {offset:,}, expected {count:,}")
    return raw


def to_floats(raw: Bytes, dtype: str) -> Floats:
    """Little-endian bytes of F32, F16 or BF16 as flat float32."""
    import numpy as np

    if dtype == "F32":
        return raw.view("<f4")
    if dtype == "F16":
        return raw.view("<f2").astype(np.float32)
    return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)


def from_floats(values: Floats, dtype: str, name: str) -> Bytes:
    """Float32 as flat bytes of F32, F16 or BF16, rounded to nearest, ties to even.

    DataError names the tensor when a value is finite and becomes infinite.
    """
    import numpy as np

    values = np.ascontiguousarray(values, dtype="<f4").reshape(-1)
    if dtype == "F32":
        return values.view(np.uint8)
    if dtype == "F16":
        with np.errstate(over="ignore"):
            halves = values.astype("<f2")
        _check_overflow(values, np.isinf(halves), dtype, name)
        return halves.view(np.uint8)
    bits = values.view("<u4")
    rounded = ((bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    # What is not a number stays so, whatever its lower bits are.
    rounded = np.where(np.isnan(values), ((bits >> 16) | 0x40).astype("<u2"), rounded).astype("<u2")
    _check_overflow(values, (rounded & 0x7FFF) == 0x7F80, dtype, name)
    return rounded.view(np.uint8)


def _check_overflow(values: Floats, infinite: npt.NDArray[np.bool_], dtype: str, name: str) -> None:
    import numpy as np

    lost = infinite & np.isfinite(values)
    if lost.any():
        worst = float(np.abs(values[lost]).max())
        raise DataError(
            f"{name}: {int(lost.sum()):,} of {values.size:,} values are too large for {dtype.lower()}, "
            f"the largest is {worst:.4g}",
            "choose --dtype f32" + (" or bf16" if dtype == "F16" else ""),
        )


# --- reading ----------------------------------------------------------------------------------------------------------


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Name -> tensor of all weights in a folder, in the order of the file; DataError when they are not usable.

    They are in `model.safetensors`, or in the files that `model.safetensors.index.json` names.
    """
    if (folder / WEIGHTS).is_file():
        return read_header(folder / WEIGHTS)
    index = folder / WEIGHTS_INDEX
    if not index.is_file():
        raise DataError(f"{folder / WEIGHTS}: missing", f"expected it, or {WEIGHTS_INDEX}")
    places = read_index(index)
    found: dict[str, Tensor] = {}
    for name in dict.fromkeys(places.values()):
        for tensor in read_header(folder / name).values():
            if places.get(tensor.name) == name:
                found[tensor.name] = tensor
    missing = [name for name in places if name not in found]
    if missing:
        raise DataError(f"{index}: {shown(missing[0])} is not in the file that the index names")
    return found


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of one safetensors file; everything is checked against the size of the file first."""
    damaged = f"{path}: damaged safetensors file"
    try:
        with open_binary(path) as file:
            size = file.seek(0, 2)
            file.seek(0)
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if not 2 <= length <= min(size - 8, _MOST_HEADER_BYTES):
                raise DataError(f"{damaged}: a header of {length:,} bytes in a file of {size:,}")
            raw = file.read(length)
    except OSError as error:
        raise DataError(f"{path}: cannot read the weights: {reason(error)}") from None
    try:
        header = parse_json(raw.decode("utf-8"))
    except ValueError as error:
        raise DataError(f"{damaged}: header: {error}") from None
    if not isinstance(header, dict):
        raise DataError(f"{damaged}: the header is not an object")
    begin = 8 + length
    tensors = [_tensor(path, name, entry, begin, size) for name, entry in header.items() if name != "__metadata__"]
    if sum(tensor.nbytes for tensor in tensors) > size - begin:
        raise DataError(f"{damaged}: tensors that overlap")
    return {tensor.name: tensor for tensor in tensors}


def _tensor(path: Path, name: str, entry: object, begin: int, size: int) -> Tensor:
    damaged = f"{path}: damaged safetensors file: {shown(name)}"
    if not isinstance(entry, dict):
        raise DataError(f"{damaged}: no object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not (_whole_numbers(shape) and _whole_numbers(offsets)):
        raise DataError(f"{damaged}: no shape and offsets")
    if len(shape) > _MOST_DIMENSIONS or len(offsets) != 2:
        raise DataError(f"{damaged}: {len(shape):,} dimensions and {len(offsets):,} offsets")
    if dtype not in ITEM_BYTES:
        raise DataError(f"{path}: {shown(name)} is of type {shown(dtype)}, expected F32, F16 or BF16")
    tensor = Tensor(name, dtype, tuple(shape), path, begin + offsets[0])
    if offsets[1] - offsets[0] != tensor.nbytes or begin + offsets[1] > size:
        raise DataError(
            f"{damaged}: bytes {offsets[0]:,} to {offsets[1]:,} in a file of {size:,}, the shape is {shown(shape)}"
        )
    return tensor


def _whole_numbers(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(
        isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 1 << 62 for item in value
    )


# --- writing ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outgoing:
    """A tensor to write: its bytes are made when its turn comes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    make: Callable[[], Bytes]


def outgoing(tensor: Tensor, dtype: str | None) -> Outgoing:
    """The tensor in another type; None, or its own type, passes the bytes on as they are."""
    if dtype in (None, tensor.dtype):
        return Outgoing(tensor.name, tensor.dtype, tensor.shape, tensor.load)
    return Outgoing(
        tensor.name, dtype or "", tensor.shape, lambda: from_floats(tensor.floats(), dtype or "", tensor.name)
    )


def write_tensors(file: BinaryIO, tensors: Iterable[Outgoing]) -> None:
    """Write a safetensors file as the extension writes it: the same tensors give the same bytes, in whatever order."""
    # Wider types first, so that every tensor is aligned.
    chosen = sorted(tensors, key=lambda tensor: (-ITEM_BYTES[tensor.dtype], tensor.name))
    header: dict[str, Mapping[str, Any]] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in chosen:
        begin, end = end, end + math.prod(tensor.shape) * ITEM_BYTES[tensor.dtype]
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    raw += b" " * (-len(raw) % 8)
    file.write(struct.pack("<Q", len(raw)) + raw)
    for tensor in chosen:
        file.write(tensor.make().data)


def check_tensors(folder: Path, tensors: Mapping[str, Tensor], table: Iterable[Parameter]) -> list[Tensor]:
    """Those of `tensors` that a model of `table` has, in the order of the file; DataError when one is
    missing or has another shape."""
    expected = {parameter.name: tuple(parameter.shape) for parameter in table}
    for name, shape in expected.items():
        if name not in tensors:
            raise DataError(f"{folder}: no tensor {name} in the weights, expected one of shape {list(shape)}")
        if tensors[name].shape != shape:
            raise DataError(f"{folder}: {name} has the shape {list(tensors[name].shape)}, expected {list(shape)}")
    return [tensor for name, tensor in tensors.items() if name in expected]


def decimal(value: float) -> float:
    """The shortest decimal number that is the float32 `value`: 1e-05 and not 9.999999747378752e-06."""
    import numpy as np

    return float(str(np.float32(value)))
