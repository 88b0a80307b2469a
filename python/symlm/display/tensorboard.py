"""Event files that TensorBoard reads, written without it: no thread, and a failing disk does not end training.

An event file is a sequence of records: length (u64), its checksum (u32), an `Event` as a protocol buffer, the checksum
of that (u32), all little-endian. The checksums are CRC-32C, rotated and shifted so that one over data with checksums
inside is not trivial.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from ..callbacks import Callback
from ..errors import UserError, reason
from ..run.folder import RunFolder
from ..run.history import is_number, read_history
from ..system.calls import OPEN_FLAGS
from ..system.names import as_path

TAGS = {
    "train": {
        "train/loss": "loss",
        "train/lr": "lr",
        "train/grad_norm": "grad_norm",
        "perf/tok_s": "tok_s",
        "perf/peak_frac": "peak_frac",
        "perf/worker_busy_frac": "worker_busy_frac",
    },
    "eval": {"val/loss": "val_loss", "val/bpb": "val_bpb"},
    "final": {"val_final/loss": "val_loss", "val_final/bpb": "val_bpb"},
}
"""Event -> name in TensorBoard -> field in the metrics. The last evaluation may cover more windows than the others, so
it gets a separate curve."""

_POLYNOMIAL = 0x82F63B78
_MASK = 0xA282EAD8
_VERSION = b"brain.Event:2"
_WALL_TIME, _STEP, _FILE_VERSION, _SUMMARY, _SESSION_LOG = 0x09, 0x10, 0x1A, 0x2A, 0x3A
"""Keys of the fields of an `Event`: number and wire type."""

_VALUE, _TAG, _SIMPLE_VALUE = 0x0A, 0x0A, 0x15
_START = b"\x08\x01"


def _table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _table()


def masked_crc32c(data: bytes) -> int:
    """The checksum of a part of a record."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _message(key: int, content: bytes) -> bytes:
    return bytes([key]) + _varint(len(content)) + content


class EventFile:
    """One event file in a folder, which is made if needed. OSError when it cannot be written.

    Each event is handed to the operating system at once; one that fails leaves no part of it behind.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        seconds, rest = divmod(time.time_ns(), 10**9)
        # TensorBoard reads the files of a folder in the order of their names.
        self.path = folder / f"events.out.tfevents.{seconds:010d}.{socket.gethostname()}.{rest:09d}"
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | OPEN_FLAGS, 0o666)
        self._event(time.time(), 0, _message(_FILE_VERSION, _VERSION))

    def start(self, step: int) -> None:
        """What earlier files say about `step` and later ones counts no more."""
        self._event(time.time(), step, _message(_SESSION_LOG, _START))

    def scalars(self, step: int, values: Mapping[str, float], wall_time: float | None = None) -> None:
        """Numbers of a step, by their names in TensorBoard. `wall_time` in seconds since 1970, now if not given."""
        parts = (
            _message(_VALUE, _message(_TAG, name.encode()) + bytes([_SIMPLE_VALUE]) + struct.pack("<f", value))
            for name, value in values.items()
        )
        self._event(time.time() if wall_time is None else wall_time, step, _message(_SUMMARY, b"".join(parts)))

    def _event(self, wall_time: float, step: int, content: bytes) -> None:
        data = bytes([_WALL_TIME]) + struct.pack("<d", wall_time) + bytes([_STEP]) + _varint(step) + content
        length = struct.pack("<Q", len(data))
        record = struct.pack("<QI", len(data), masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))
        before = os.fstat(self._file).st_size
        try:
            while record:
                record = record[os.write(self._file, record) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, before)
            raise

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


def scalars_of(record: Mapping[str, Any]) -> dict[str, float]:
    """What a record of the metrics is in TensorBoard: name -> number; empty for other events."""
    event = "final" if record.get("final") is True else str(record.get("event"))
    found = {name: record.get(field) for name, field in TAGS.get(event, {}).items()}
    return {name: _single(value) for name, value in found.items() if is_number(value)}


def _single(value: float) -> float:
    """The value within what a float of 32 bits holds; beyond it is infinite."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


class TensorBoard(Callback):
    """Writes losses, learning rate, gradient norm, speed and evaluations for TensorBoard into `log_dir`.

    The step is the number of updates done. A resumed run writes another file there, which
    takes the place of what the files before say about later updates. When the files cannot be written, `warn` is called
    once and training continues without them. UsageError for a `log_dir` that no folder can have.
    """

    def __init__(self, log_dir: str | Path, warn: Callable[[str], None] = warnings.warn) -> None:
        self.log_dir = as_path("log_dir", log_dir)
        self._warn = warn
        self._file: EventFile | None = None

    def on_start(self, step: int, path: Path) -> None:
        """Open another file."""
        self._close()
        with self._guarded():
            self._file = EventFile(self.log_dir)
            self._file.start(step + 1)

    def on_log(self, metrics: Mapping[str, Any]) -> None:
        """The scalars of updates."""
        with self._guarded():
            if self._file is not None:
                self._file.scalars(metrics["step"], scalars_of(metrics))

    def on_eval(self, metrics: Mapping[str, Any]) -> None:
        """The scalars of evaluations."""
        self.on_log(metrics)

    def on_end(self) -> None:
        """Close the file."""
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._close()
            self._warn(f"{self.log_dir}: no more metrics for TensorBoard: {reason(error)}")


def export_events(run: str | Path, folder: str | Path) -> Path:
    """Write the metrics of a run, finished or not, as an event file into `folder`; gives the file.

    Wall times are those of the run as far as they are known. UserError when that is not possible.
    """
    folder = as_path("folder", folder)
    started = RunFolder(run).environment().get("started")
    try:
        began = datetime.fromisoformat(started).timestamp() if isinstance(started, str) else time.time()
    except ValueError:
        began = time.time()
    records = read_history(run)
    try:
        file = EventFile(folder)
        try:
            file.start(0)
            for record in records:
                values = scalars_of(record)
                if values and isinstance(record.get("step"), int) and record["step"] >= 0:
                    file.scalars(record["step"], values, began + record["elapsed_s"])
        finally:
            file.close()
    except OSError as error:
        raise UserError(f"{folder}: cannot write: {reason(error)}") from None
    return file.path
