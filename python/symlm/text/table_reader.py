"""Takes the rows of a Parquet or Arrow file out of it, as objects of JSON. Run as a script, in a separate process.

Usage: table_reader.py FILE COLUMNS SECONDS. COLUMNS is a JSON list of names; a name with dots may be that of a field
inside of a column. SECONDS of processor time are for what is read at once.

The file may be damaged, or made to do harm: the library that reads it is native code and asks for whatever memory the
file says. So this process has limits, and whoever started it takes its end for that of the file. It writes frames: a
kind (one byte), the bytes that follow (u32), how much of the file is read (u16, thousandths); then, by the kind:

R  rows, an object on each line
T  rows of text: columns and rows (u32); for each column the bytes of its name (u32), its name, the bytes of each row
   (i32), all rows
!  an error: an object with `kind`, `message`, `hint`
E  all is there
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import pyarrow as pa

MOST_MEMORY = 2 << 30
"""Bytes of memory that this process may ask for."""

MOST_ROW = 64 << 20
"""Bytes of the longest row, as an object of JSON: as of other formats."""

FRAME_BYTES = 1 << 20
TEXTS_BYTES = 16 << 20
BATCH_BYTES = 2 << 20
"""Rows are read so many bytes at a time, by what the file says they take on average."""

MOST_ROWS = 4096
FIRST_ROWS = 64
"""Rows that are read before it is known how long they are."""

UNPACKED_RATIO = 200
"""A file that gives more than so many times its size is refused, as one that is compressed is."""

UNPACKED_BYTES = 64 << 20
"""Less is never refused."""

OTHERS = 16
"""Names of other columns that are told once, for messages."""

ROWS, TEXTS, ERROR, END = b"R", b"T", b"!", b"E"


class Refused(Exception):
    """What is wrong with the file, and what helps."""

    def __init__(self, message: str, hint: str | None = None, kind: str = "data") -> None:
        super().__init__(message)
        self.message, self.hint, self.kind = message, hint, kind


def write(out: BinaryIO, kind: bytes, content: bytes, part: float) -> None:
    """Write a frame."""
    for some in (struct.pack("<cIH", kind, len(content), min(int(part * 1000), 1000)), content):
        # With PYTHONUNBUFFERED set, the output has no buffer: a write is short if the process is stopped during it.
        left = memoryview(some)
        while left:
            left = left[out.write(left) :]
    out.flush()


def batches(path: str, names: list[str]) -> tuple[pa.Schema, Iterator[tuple[pa.RecordBatch, float]]]:
    """The schema of a file, and its rows with how much of it is read then; of Parquet only the columns asked for."""
    import pyarrow as pa

    with open(path, "rb") as file:  # noqa: PTH123 - a name of any bytes
        head = file.read(6)
    if head.startswith(b"PAR1"):
        import pyarrow.parquet as pq

        file = pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 16, memory_map=False)
        return file.schema_arrow, _parquet(file, names)
    source = pa.OSFile(path)
    if head == b"ARROW1":
        opened = pa.ipc.open_file(source)
        count = opened.num_record_batches
        return opened.schema, ((opened.get_batch(i), (i + 1) / count) for i in range(count))
    stream = pa.ipc.open_stream(source)
    return stream.schema, ((batch, source.tell() / source.size()) for batch in stream)


def _parquet(file: Any, names: list[str]) -> Iterator[tuple[pa.RecordBatch, float]]:
    """The rows, so many at once as their size allows: what a file says of it is no more than a first guess."""
    data = file.metadata
    counts = [data.row_group(i).num_rows for i in range(data.num_row_groups)]
    rows, size = sum(counts), sum(data.row_group(i).total_byte_size for i in range(len(counts)))
    at_once = max(1, min(FIRST_ROWS, BATCH_BYTES * rows // max(size, 1)))
    schema = file.schema_arrow
    columns = [leaf for name in schema.names for leaf in _asked(schema.field(name), names)]
    done, group, shrunk = 0, 0, False
    while columns and group < len(counts):
        # Reading begins at a group of rows: those that have been read are passed over.
        skip = done - sum(counts[:group])
        again = False
        options = {"batch_size": at_once, "row_groups": range(group, len(counts)), "columns": columns}
        for batch in file.iter_batches(use_threads=False, **options):
            if batch.num_rows <= skip:
                skip -= batch.num_rows
                continue
            rest = batch.slice(skip)
            skip = 0
            done += rest.num_rows
            yield rest, done / max(rows, 1)
            fits = max(1, min(MOST_ROWS, 4 * at_once, BATCH_BYTES * batch.num_rows // max(batch.nbytes, 1)))
            # After the first long rows no more at once, or a file of long and short ones would be read over and over.
            again = 4 * fits < at_once or (fits >= 4 * at_once and not shrunk)
            if again:
                shrunk, at_once = shrunk or fits < at_once, fits
                break
        if not again:
            return
        while group < len(counts) and done >= sum(counts[: group + 1]):
            group += 1


def _asked(field: pa.Field, names: list[str]) -> list[str]:
    """What is read of a column: all of it, or of one with fields inside those that are asked for; nothing."""
    import pyarrow as pa

    if field.name in names:
        return [field.name]
    inside = [name for name in names if name.startswith(f"{field.name}.")]
    if not inside or not pa.types.is_struct(field.type):
        return []
    leaves = [name for name in inside if name[len(field.name) + 1 :] in {part.name for part in field.type}]
    return leaves or [field.name]


def _wanted(name: str, names: list[str]) -> bool:
    return any(asked == name or asked.startswith(f"{name}.") for asked in names)


def _values(column: pa.Array) -> list[Any]:
    """The values of a column; text may be stored as bytes, as old programs do."""
    import pyarrow as pa

    if isinstance(column, pa.DictionaryArray):
        column = column.dictionary_decode()
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        column = column.cast(pa.large_string())
    values: list[Any] = column.to_pylist()
    return values


def _encoded(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=_other)


def _other(value: Any) -> Any:
    """What JSON has no value for: bytes are text, as old programs store it; all else is none, and refused as such."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    return {type(value).__name__: str(value)}


def lines(batch: pa.RecordBatch, names: list[str]) -> Iterator[str]:
    """The rows of a batch as objects of JSON, with the columns asked for."""
    kept = [name for name in batch.schema.names if _wanted(name, names)]
    columns = [_values(batch.column(i)) for i, name in enumerate(batch.schema.names) if name in kept]
    heads = [("{" if i == 0 else ", ") + _encoded(name) + ": " for i, name in enumerate(kept)]
    if len(kept) == 1:
        return (f"{heads[0]}{_encoded(value)}}}\n" for value in columns[0])
    rows = zip(*columns, strict=True)
    return ("".join(h + _encoded(v) for h, v in zip(heads, row, strict=True)) + "}\n" for row in rows)


def _first(line: str, schema: pa.Schema, names: list[str]) -> str:
    """The first row, with the names of some other columns before it."""
    others = [name for name in schema.names if not _wanted(name, names)][:OTHERS]
    told = ", ".join(f"{_encoded(name[:40])}: null" for name in others)
    return "{" + told + (", " if told and line != "{}\n" else "") + line[1:]


def texts(batch: pa.RecordBatch, names: list[str]) -> list[bytes] | None:
    """Contents of frames for the rows of a batch, if all columns asked for are text: much quicker than JSON."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kept = [(name, batch.column(i)) for i, name in enumerate(batch.schema.names) if _wanted(name, names)]
    for _, column in kept:
        if column.null_count or not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            return None
    columns = [(name, column, pc.binary_length(column).cast(pa.int32())) for name, column in kept]
    size = sum(pc.sum(lengths).as_py() or 0 for _, _, lengths in columns)
    if size > TEXTS_BYTES:
        if batch.num_rows == 1:
            return None
        half = batch.num_rows // 2
        parts = [texts(batch.slice(0, half), names), texts(batch.slice(half), names)]
        return None if None in parts else [content for part in parts for content in part or []]
    content: list[bytes | memoryview] = [struct.pack("<II", len(columns), batch.num_rows)]
    for name, column, lengths in columns:
        label = _encoded(name).encode()
        sizes = memoryview(lengths.buffers()[1])[lengths.offset * 4 : (lengths.offset + len(lengths)) * 4]
        content += [struct.pack("<I", len(label)), label, sizes]
        offsets = column.buffers()[1]
        width, form = (8, "q") if pa.types.is_large_string(column.type) else (4, "i")
        begin = struct.unpack_from(f"<{form}", offsets, column.offset * width)[0]
        end = struct.unpack_from(f"<{form}", offsets, (column.offset + len(column)) * width)[0]
        data = column.buffers()[2]
        content.append(b"" if data is None else memoryview(data)[begin:end])
    return [b"".join(content)]


def _portions(batch: pa.RecordBatch, used: Iterator[int]) -> Iterator[pa.RecordBatch]:
    """A batch in parts, which may be all rows of a file. A dictionary says nothing of the size of its rows, so few are
    taken first; `used` tells the bytes that the part before gave."""
    hidden = any("dictionary<" in str(column.type) for column in batch.columns)
    at, count = 0, 16 if hidden else MOST_ROWS
    while at < batch.num_rows:
        part = batch.slice(at, count)
        at += part.num_rows
        yield part
        size = next(used)
        if size > BATCH_BYTES:
            count = max(1, count * BATCH_BYTES // size)
        elif size * 2 < BATCH_BYTES:
            count = min(2 * count, MOST_ROWS)


def frames(path: str, names: list[str]) -> Iterator[tuple[bytes, bytes, float]]:
    """The rows of a file in frames, each with its kind."""
    schema, parts = batches(path, names)
    row, pending, size, made = 0, [], 0, 0
    if not any(_wanted(name, names) for name in schema.names):
        # One row suffices to say so.
        yield ROWS, _first("{}\n", schema, names).encode(), 1.0
        return
    part = 0.0

    def used(before: int) -> Iterator[int]:
        while True:
            yield made - before
            before = made

    for whole, part in parts:
        for batch in _portions(whole, used(made)):
            # The first row tells more than the others.
            told = 1 if row == 0 else 0
            plain = texts(batch.slice(told), names)
            rest = batch if plain is None else batch.slice(0, told)
            for line in lines(rest, names):
                row += 1
                raw = (_first(line, schema, names) if row == 1 else line).encode("utf-8", "surrogatepass")
                if len(raw) > MOST_ROW:
                    raise Refused(f"row {row} is longer than {MOST_ROW >> 20} MiB", "divide this one")
                pending.append(raw)
                size += len(raw)
                made += len(raw)
                if size >= FRAME_BYTES:
                    yield ROWS, b"".join(pending), part
                    pending, size = [], 0
            if plain:
                yield ROWS, b"".join(pending), part
                pending, size = [], 0
                row += batch.num_rows - rest.num_rows
            for content in plain or []:
                made += len(content)
                yield TEXTS, content, part
    yield ROWS, b"".join(pending), part


def _bounded(
    frames: Iterator[tuple[bytes, bytes, float]], size: int, seconds: float
) -> Iterator[tuple[bytes, bytes, float]]:
    """The same frames, as long as they are in proportion to a file of `size` bytes and each comes in time."""
    made = 0
    _start_clock(seconds)
    for frame in frames:
        made += len(frame[1])
        if made > UNPACKED_BYTES and made // UNPACKED_RATIO > size:
            what = f"more than {UNPACKED_RATIO} times its size ({made >> 20} MiB of {size} bytes)"
            raise Refused(f"found a table that unpacks to {what}, expected text", "write it as .jsonl if it is right")
        yield frame
        _start_clock(seconds)


def _work_ahead(out: BinaryIO) -> None:
    """Let a pipe take most of a frame, so that the next rows are read while these are; only Linux has such pipes."""
    if sys.platform == "linux":
        import fcntl

        # Neither a file nor a pipe of somebody who has too many of them is a reason to stop.
        with contextlib.suppress(OSError):
            fcntl.fcntl(out.fileno(), fcntl.F_SETPIPE_SZ, FRAME_BYTES)


def _limit_memory() -> None:
    """Bound what this process may take, where the system can: Windows has no such limit without a job."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))


def _start_clock(seconds: float) -> None:
    """Bound the processor time up to the next frame: then the kernel ends this process, whatever the library is at."""
    if sys.platform != "win32":
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, seconds)


def read(path: str, names: list[str], seconds: float, out: BinaryIO) -> None:
    """Write the rows of a file as frames, or what is wrong with it."""
    # Its own allocator keeps what a batch took for the next, some 40 MB.
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"
    try:
        try:
            import pyarrow as pa
        except ImportError:
            what = "pyarrow, which reads Parquet and Arrow, is not installed"
            raise Refused(what, "pip install 'symlm[data]'", "user") from None
        # What a file asks for counts from here on, not what the library takes to load.
        _limit_memory()
        try:
            size = os.stat(path).st_size  # noqa: PTH116 - a name of any bytes
            for kind, content, part in _bounded(frames(path, names), size, seconds):
                write(out, kind, content, part)
        except MemoryError:
            what = f"reading it takes more than {MOST_MEMORY >> 30} GiB of memory at once"
            raise Refused(what, "write it again in smaller row groups") from None
        except UnicodeDecodeError:
            raise Refused("found bytes that are not UTF-8 in a column of text, expected UTF-8 text") from None
        except (pa.ArrowException, ValueError, OSError, KeyError, RecursionError, OverflowError) as error:
            what = " ".join(str(error).split())[:160] or type(error).__name__
            raise Refused(f"damaged or unknown table: {what}", "write it again, or write it as .jsonl") from None
        write(out, END, b"", 1.0)
    except Refused as refused:
        told = {"kind": refused.kind, "message": refused.message, "hint": refused.hint}
        write(out, ERROR, json.dumps(told).encode(), 1.0)


def main() -> None:
    """Read what the arguments name."""
    # Whoever reads the frames decides when to stop, and then nobody reads them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    _work_ahead(sys.stdout.buffer)
    read(sys.argv[1], json.loads(sys.argv[2]), float(sys.argv[3]), sys.stdout.buffer)
    # Threads and memory of the library need not be put in order.
    os._exit(0)


if __name__ == "__main__":
    main()
