"""The same text in every format gives the same tokens; damaged and hostile files are clear errors."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import HANG_S, Cli
from symlm import _symlm
from symlm.errors import DataError, UserError
from symlm.text import opening
from symlm.text.opening import open_corpus, open_objects

DOCUMENTS = [
    'The quick brown fox, "jumps";\tover\r\nthe lazy dog.\n' * 3,
    "ünïcode \U0001f600 \\ and / a\u0001b",
    *(f"document {number}: " + "sleeps near rivers and looks at rain. " * (number % 5 + 1) for number in range(60)),
]
PAIRS = [(f"{n} + {n} =", f" {2 * n}") for n in range(50)]


def zstd(raw: bytes) -> bytes:
    """A frame of zstd whose blocks are stored as they are."""
    blocks = b""
    for at in range(0, len(raw), 100_000):
        block = raw[at : at + 100_000]
        last = at + len(block) == len(raw)
        blocks += struct.pack("<I", len(block) << 3 | last)[:3] + block
    return b"\x28\xb5\x2f\xfd\x00\x58" + blocks


PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes, ".gz": gzip.compress, ".zst": zstd, ".xz": lzma.compress, ".bz2": bz2.compress,
}  # fmt: skip


def table(columns: dict[str, list[Any]], delimiter: str = ",") -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return out.getvalue().encode()


def lines(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def write_all(folder: Path, columns: dict[str, list[Any]]) -> list[Path]:
    """The same records in every form."""
    records = lines(columns)
    forms = {
        "a.jsonl": "".join(json.dumps(record) + "\n" for record in records).encode(),
        "a.json": json.dumps(records, ensure_ascii=False, indent=1).encode(),
        "a.csv": table(columns),
        "semicolons.csv": table(columns, ";"),
        "a.tsv": table(columns, "\t"),
    }
    paths = []
    for name, raw in forms.items():
        for extension, pack in PACKINGS.items():
            path = folder / f"{name}{extension}"
            path.write_bytes(pack(raw))
            paths.append(path)
    whole = pa.table(columns)
    pq.write_table(whole, folder / "a.parquet", row_group_size=7)
    large = pa.table({name: pa.array(values, pa.large_string()) for name, values in columns.items() if name != "id"})
    pq.write_table(large, folder / "large.parquet", compression="zstd")
    dictionary = pa.table({n: pa.array(v).dictionary_encode() for n, v in columns.items()})
    pq.write_table(dictionary, folder / "dictionary.parquet")
    binary = pa.table({n: pa.array([t.encode() for t in v], pa.binary()) for n, v in columns.items() if n != "id"})
    pq.write_table(binary, folder / "binary.parquet")
    saved = save_to_disk(folder / "saved", whole, 3)
    paths += [folder / f"{name}.parquet" for name in ("a", "large", "dictionary", "binary")]
    (folder / "splits").mkdir()
    (folder / "splits" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    save_to_disk(folder / "splits" / "train", whole, 1)
    return [*paths, saved, folder / "splits"]


def save_to_disk(folder: Path, whole: Any, files: int) -> Path:
    """A folder as `datasets` saves it: names in any order, which the list gives."""
    folder.mkdir()
    names = [f"data-{files - number:05}.arrow" for number in range(files)]
    size = -(-whole.num_rows // files)
    for number, name in enumerate(names):
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, whole.schema) as writer:
            writer.write_table(whole.slice(number * size, size), max_chunksize=5)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> _symlm.Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "a.txt"
    path.write_text("\n".join(DOCUMENTS), encoding="utf-8")
    return open_corpus([path]).train_tokenizer(300, 1, None)


def hashes(path: Path, tokenizer: _symlm.Tokenizer, cache: Path, field: str = "text") -> tuple[str, str, int]:
    parts = open_corpus([path], field).prepare(tokenizer, cache, 0.1, 32, 2, None)
    assert parts.val is not None
    return parts.train.sha256, parts.val.sha256, parts.train.documents


def test_texts_give_the_same_tokens_whatever_they_are_packed_in(tmp_path: Path, tokenizer: _symlm.Tokenizer) -> None:
    paths = write_all(tmp_path, {"id": list(range(len(DOCUMENTS))), "text": DOCUMENTS})
    found = {str(path): hashes(path, tokenizer, tmp_path / "cache") for path in paths}
    assert len(found) == 31 and len(set(found.values())) == 1, found
    folder = tmp_path / "files"
    folder.mkdir()
    for number, document in enumerate(DOCUMENTS):
        extension, pack = list(PACKINGS.items())[number % len(PACKINGS)]
        (folder / f"{number:04}.txt{extension}").write_bytes(pack(document.encode()))
    assert hashes(folder, tokenizer, tmp_path / "cache") in found.values()


def test_examples_give_the_same_tokens_whatever_they_are_packed_in(tmp_path: Path, tokenizer: _symlm.Tokenizer) -> None:
    prompts, completions = map(list, zip(*PAIRS, strict=True))
    paths = write_all(tmp_path, {"prompt": prompts, "completion": completions})
    found = {str(path): hashes(path, tokenizer, tmp_path / "cache") for path in paths}
    assert len(set(found.values())) == 1 and next(iter(found.values()))[2] == 45, found
    objects = [[o.json for o in open_objects(path, ("prompt", "completion"), 1000)] for path in paths[:-2]]
    assert all(
        [json.loads(o) for o in some] == lines({"prompt": prompts, "completion": completions}) for some in objects
    )


def test_fields_inside_of_fields(tmp_path: Path, tokenizer: _symlm.Tokenizer) -> None:
    records = [{"meta": {"n": 1, "text": text}} for text in DOCUMENTS]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "a.parquet")
    save_to_disk(tmp_path / "saved", pa.Table.from_pylist(records), 2)
    (tmp_path / "a.csv").write_bytes(table({"meta.text": list(DOCUMENTS)}))
    names = ("a.jsonl", "a.parquet", "saved", "a.csv")
    found = {hashes(tmp_path / name, tokenizer, tmp_path / "cache", "meta.text") for name in names}
    assert len(found) == 1


def refused(path: Path, field: str = "text") -> DataError:
    with pytest.raises(DataError) as caught:
        corpus = open_corpus([path], field)
        corpus.read_through(None)
    assert str(path) in caught.value.message or path.name in caught.value.message
    assert len(caught.value.message) < 1000
    return caught.value


def test_damaged_tables_are_clear_errors(tmp_path: Path) -> None:
    whole = pa.table({"text": DOCUMENTS})
    pq.write_table(whole, tmp_path / "whole.parquet")
    raw = (tmp_path / "whole.parquet").read_bytes()
    for number, broken in enumerate([raw[: len(raw) // 2], raw[:-1], raw[:200] + b"\xff" * 300 + raw[500:], raw[:4]]):
        path = tmp_path / f"{number}.parquet"
        path.write_bytes(broken)
        assert "damaged" in refused(path).message or "promises" in refused(path).message
    saved = save_to_disk(tmp_path / "saved", whole, 1)
    arrow = next(saved.glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:3000])
    assert "damaged or unknown table" in refused(arrow).message
    (tmp_path / "text.parquet").write_text("not a table, but a text")
    assert "found no Parquet or Arrow data, which the name promises" in refused(tmp_path / "text.parquet").message
    pq.write_table(pa.table({"text": pa.array(["a", None])}), tmp_path / "null.parquet")
    assert 'row 2: found null in field "text"' in refused(tmp_path / "null.parquet").message
    pq.write_table(pa.table({"id": [1], "body": ["x"]}), tmp_path / "other.parquet")
    assert 'found fields "id", "body", expected an object with a text field "text"' in (
        refused(tmp_path / "other.parquet").message
    )
    (tmp_path / "content.txt").write_bytes(raw)
    assert open_corpus([tmp_path / "content.txt"]).files == 1


def test_a_bomb_of_parquet_stops_within_its_memory(tmp_path: Path) -> None:
    # One text of 3 GiB as a dictionary of one entry would be unpacked by the reader; here rows of the same long text.
    long = pa.DictionaryArray.from_arrays(pa.array([0] * 40, pa.int32()), pa.array(["x" * (70 << 20)]))
    pq.write_table(pa.table({"text": long}), tmp_path / "bomb.parquet", compression="zstd")
    assert (tmp_path / "bomb.parquet").stat().st_size < 1 << 20
    error = refused(tmp_path / "bomb.parquet")
    assert "longer than 64 MiB" in error.message or "of memory" in error.message, error


def test_a_dataset_of_splits_is_not_trained_on_whole(tmp_path: Path) -> None:
    whole = pa.table({"text": DOCUMENTS})
    for split in ("train", "test"):
        save_to_disk(tmp_path / split, whole, 1)
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    error = refused(tmp_path)
    assert "found a dataset of the splits train, test, expected one split" in error.message
    assert str(tmp_path / "train") in (error.hint or "")
    for names in ('{"splits": ["../x"]}', '{"splits": []}', "[", '{"splits": [1]}'):
        (tmp_path / "dataset_dict.json").write_text(names)
        with pytest.raises(DataError, match=r"dataset_dict\.json"):
            open_corpus([tmp_path])


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    command = opening.table_command()
    monkeypatch.setattr(opening, "table_command", lambda: [command[0], "-S", "-E", *command[1:]])
    with pytest.raises(UserError, match="pyarrow, which reads Parquet and Arrow, is not installed") as caught:
        open_corpus([tmp_path / "a.parquet"])
    assert caught.value.hint == "pip install 'symlm[data]'"
    monkeypatch.setattr(opening, "table_command", list)
    with pytest.raises(UserError, match="only symlm in Python reads"):
        open_corpus([tmp_path / "a.parquet"])


def test_exit_codes(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "nul.csv").write_bytes(b"text\na\0b\n")
    (tmp_path / "wide.csv").write_bytes(b"c," * 1_000_000 + b"body\n")
    (tmp_path / "page.html").write_text("<!DOCTYPE html><p>text")
    (tmp_path / "paper.pdf").write_bytes(b"%PDF-1.7\n%\xe2\xe3")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1\0\0")
    (tmp_path / "cut.txt.zst").write_bytes(zstd(b"some text")[:-3])
    for name, told in {
        "nul.csv": "found a NUL byte", "wide.csv": "found no text", "page.html": "found HTML",
        "paper.pdf": "found a PDF", "cut.parquet": "damaged or unknown table",
        "cut.txt.zst": "damaged or truncated zstd data",
    }.items():  # fmt: skip
        done = cli("train", name)
        assert done.returncode == 3 and told in done.stderr and "hint: " in done.stderr, (name, done.stderr)


@pytest.mark.parametrize("begin", [b"", b"\xff\xff\xff\xff", b"ARR"])
def test_a_stream_of_binary_data_is_not_waited_for(tmp_path: Path, environment: dict[str, str], begin: bytes) -> None:
    write = f"import sys\nout = sys.stdout.buffer\nout.write({begin!r})\nfor _ in range(256): out.write(bytes(1 << 20))"
    with subprocess.Popen([sys.executable, "-c", write], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as stream:
        words = ["train", "-", "--out-dir", "new"]
        result = subprocess.run(
            [sys.executable, "-m", "symlm", *words], stdin=stream.stdout, cwd=tmp_path, env=environment,
            capture_output=True, text=True, timeout=HANG_S, check=False,
        )  # fmt: skip
        assert stream.stdout is not None
        stream.stdout.close()
    assert (result.returncode, "found a NUL byte" in result.stderr) == (3, True), result.stderr
    assert stream.returncode != 0, "all of it was read"
