"""Tables: bytes that are text wherever they stand, values that are none, files that unpack to far too much."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from symlm import DataError
from symlm.text import table_reader
from symlm.text.opening import open_corpus, open_objects, table_command

TURNS = [{"role": "user", "content": "Grüße"}, {"role": "assistant", "content": "ho"}]
IN_BYTES = [{name: text.encode() for name, text in turn.items()} for turn in TURNS]
TURN = pa.struct([("role", pa.binary()), ("content", pa.binary())])
VIEW = pa.struct([("role", pa.binary_view()), ("content", pa.string_view())])
AS_VIEW = [{"role": turn["role"].encode(), "content": turn["content"]} for turn in TURNS]


def write(path: Path, columns: dict[str, Any]) -> Path:
    whole = pa.table(columns)
    if path.suffix == ".parquet":
        pq.write_table(whole, path)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, whole.schema) as writer:
            writer.write_table(whole)
    return path


def objects(path: Path, field: str) -> list[Any]:
    return [json.loads(found.json)[field] for found in open_objects(path, [field], 1 << 20)]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_bytes_are_text_wherever_they_stand(name: str, tmp_path: Path) -> None:
    texts = [part["content"] for part in TURNS]
    raws = [text.encode() for text in texts]
    inside = pa.struct([("text", pa.binary())])
    columns: dict[str, Any] = {
        "turns": pa.array([IN_BYTES, IN_BYTES], pa.list_(TURN)),
        "meta": pa.array([{"text": raw} for raw in raws], inside),
        "text": pa.array(raws, pa.binary()),
        "fixed": pa.array([b"hello", b"world"], pa.binary(5)),
        "large": pa.array(raws, pa.large_binary()),
        "dictionary": pa.array(raws, pa.binary()).dictionary_encode(),
    }
    if name.endswith(".arrow"):
        columns |= {
            "view": pa.array(raws, pa.binary_view()),
            "string": pa.array(texts, pa.string_view()),
            "views": pa.array([AS_VIEW, AS_VIEW], pa.list_(VIEW)),
        }
    path = write(tmp_path / name, columns)
    assert objects(path, "turns") == [TURNS, TURNS]
    assert objects(path, "meta") == [{"text": text} for text in texts]
    assert objects(path, "fixed") == ["hello", "world"]
    for column in ("text", "large", "dictionary", "view", "string"):
        assert column not in columns or objects(path, column) == texts, column
    assert "views" not in columns or objects(path, "views") == [TURNS, TURNS]


@pytest.mark.parametrize("values", [pa.array([datetime(2020, 1, 1)]), pa.array([[datetime(2020, 1, 1)]])])
def test_a_time_is_not_a_text(values: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"text": values})
    with pytest.raises(DataError, match=r'row 1: found (an object|a list) in field "text"'):
        open_corpus([path])


def test_bytes_that_are_no_text_are_an_error(tmp_path: Path) -> None:
    turns = [[{"role": b"user", "content": b"\xff\xfe"}]]
    path = write(tmp_path / "a.parquet", {"messages": pa.array(turns, pa.list_(TURN))})
    with pytest.raises(DataError, match="found bytes that are not UTF-8"):
        open_objects(path, ["messages"], 1 << 20)
        list(open_objects(path, ["messages"], 1 << 20))


@pytest.mark.parametrize("size", [10_000, 1_000_000])
@pytest.mark.parametrize("nested", [False, True])
def test_a_table_that_unpacks_to_far_more_is_refused(size: int, nested: bool, tmp_path: Path) -> None:
    """10 GB of rows: within seconds, and with little memory."""
    text = ("abcdefgh " * (size // 9 + 1))[:size]
    long = pa.DictionaryArray.from_arrays(pa.array([0] * (10**10 // size), pa.int32()), pa.array([text]))
    column = pa.StructArray.from_arrays([long], ["text"]) if nested else long
    path = tmp_path / "bomb.arrow"
    write(path, {"meta" if nested else "text": column})
    pq.write_table(pa.table({"text": long}), tmp_path / "bomb.parquet", compression="zstd")
    cases = [(path, "meta.text" if nested else "text")] + ([] if nested else [(tmp_path / "bomb.parquet", "text")])
    for file, field in cases:
        # The dictionary's indices of a file of Arrow are not compressed, so its rows are more of its size.
        if file.stat().st_size * table_reader.UNPACKED_RATIO > 10**10:
            continue
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        with pytest.raises(DataError, match="unpacks to more than 200 times its size"):
            open_corpus([file], field).read_through(None)
        assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 30


def peak(path: Path) -> int:
    """MiB that the process that reads a table holds at most."""
    script = (
        "import subprocess, sys, resource\n"
        "subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10)"
    )
    words = [sys.executable, "-c", script, *table_command(), str(path), '["text"]', "60"]
    return int(subprocess.run(words, capture_output=True, check=True).stdout)


def test_rows_are_read_few_at_once_where_they_are_long(tmp_path: Path) -> None:
    small, large = tmp_path / "small.parquet", tmp_path / "large.parquet"
    pq.write_table(pa.table({"text": ["x"] * 2000}), small)
    # As the file says, a few bytes for each row: one text of a megabyte stands in a dictionary, as text.
    text = "abcdefgh " * 116_000
    pq.write_table(pa.table({"text": ["y"] * 40 + [text] * 1000}), large, compression="zstd", use_dictionary=True)
    assert peak(large) < peak(small) + 150


def test_rows_of_any_length_come_once_and_in_order(tmp_path: Path) -> None:
    texts = [f"{number} " + "z" * (number * 7919 % 5 * (200_000 if number % 97 == 0 else 30)) for number in range(3000)]
    for rows in (7, 500, 5000):
        path = tmp_path / f"{rows}.parquet"
        pq.write_table(pa.table({"text": texts, "n": range(3000)}), path, row_group_size=rows, compression="zstd")
        found = [
            text for batch, _ in table_reader.batches(str(path), ["text"])[1] for text in batch["text"].to_pylist()
        ]
        assert found == texts
    for rows in (10, 5000):
        table = pa.table({"text": pa.array(texts).dictionary_encode()})
        with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=rows)
        assert objects(tmp_path / "a.arrow", "text") == texts


@pytest.mark.skipif(sys.platform == "win32", reason="no such clock")
def test_what_takes_too_long_ends(tmp_path: Path) -> None:
    """A reader that never comes to its next frame."""
    path = write(tmp_path / "a.parquet", {"text": ["a"]})
    script = (
        "from symlm.text import table_reader as t\ndef forever(*_):\n    while True: pass\nt.texts = forever\nt.main()"
    )
    words = [sys.executable, "-c", script, str(path), '["text"]', "0.2"]
    done = subprocess.run(words, check=False, capture_output=True, timeout=300)
    assert done.returncode == -signal.SIGPROF, done.stderr
