"""The same conversations in every form, format and packing give the same shard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from test_conversations import config_of, messages_of, pairs, prepared
from test_formats import PACKINGS, save_to_disk, table

pytest.importorskip("jinja2")

ASKED = [*pairs(40), ('"quotes", commas;\tand\nlines', "ünïcode \U0001f600\r\n")]
FORMS: dict[str, list[dict[str, Any]]] = {
    "messages": [{"id": n, "messages": messages_of(*asked)} for n, asked in enumerate(ASKED)],
    "conversations": [
        {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}
        for question, answer in ASKED
    ],
    "alpaca": [{"instruction": question, "input": "", "output": answer} for question, answer in ASKED],
    "turns": [
        {"prompt": messages_of(*asked)[:1], "completion": messages_of(*asked)[1:], "source": None} for asked in ASKED
    ],
}


def write_all(folder: Path, form: str) -> list[Path]:
    """The records of a form, in every format that holds it."""
    records = FORMS[form]
    texts = {
        "a.jsonl": "".join(json.dumps(record) + "\n" for record in records),
        "a.json": json.dumps(records, ensure_ascii=False, indent=1),
    }
    raws = {name: text.encode() for name, text in texts.items()}
    if form == "alpaca":
        columns = {name: [record[name] for record in records] for name in records[0]}
        raws |= {"a.csv": table(columns), "a.tsv": table(columns, "\t")}
    paths = []
    for name, raw in raws.items():
        for extension, pack in PACKINGS.items():
            # One form suffices for what is the same in all: how files are unpacked.
            if not extension or form in ("messages", "alpaca"):
                path = folder / f"{name}{extension}"
                path.write_bytes(pack(raw))
                paths.append(path)
    whole = pa.Table.from_pylist(records)
    pq.write_table(whole, folder / "a.parquet", row_group_size=7)
    return [*paths, folder / "a.parquet", save_to_disk(folder / "saved", whole, 2)]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A tokenizer, and the hash of the shard that it makes of lines of JSON."""
    folder = tmp_path_factory.mktemp("expected")
    (folder / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in FORMS["messages"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYMLM_CACHE_DIR", str(folder / "cache"))
        found = prepared(config_of(folder / "a.jsonl"))
    found.tokenizer.save(folder / "tokenizer.json")
    return folder / "tokenizer.json", found.train.sha256


@pytest.mark.parametrize("form", FORMS)
def test_a_form_in_every_format(
    form: str, expected: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, sha256 = expected
    for number, path in enumerate(write_all(tmp_path, form)):
        # Each is encoded, and none found in the cache.
        monkeypatch.setenv("SYMLM_CACHE_DIR", str(tmp_path / f"cache{number}"))
        found = prepared(config_of(path), tokenizer)
        assert (found.data_format, found.train.documents) == (form, len(ASKED)), path
        assert found.train.sha256 == sha256, path
