"""JSON objects where they are not looked for, data compressed twice: messages name it and say what to do."""

from __future__ import annotations

import bz2
import gzip
import json
from pathlib import Path

import pytest

from symlm import _symlm
from symlm.config.toml import read_toml
from symlm.errors import DataError
from symlm.evaluation.choices import Questions

LINES = ['{"text": "a"}', '{"text": "b"}']
QUESTION = '{"prompt": "a", "choices": ["b", "c"], "answer": 0}'


def refused(path: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        _symlm.Corpus.open([path])
    return caught.value


@pytest.mark.parametrize(
    ("name", "place"),
    [("data", ".data"), ("my rows", '.["my rows"]'), ("1st", '.["1st"]')],
)
@pytest.mark.parametrize("field", ["text", "context"])
def test_a_list_of_objects_inside_of_an_object(tmp_path: Path, name: str, place: str, field: str) -> None:
    path = tmp_path / "squad.json"
    path.write_text(json.dumps({"version": "1.1", "names": ["x"], name: [{field: "a"}]}))
    error = refused(path)
    assert f'found an object with a list of objects in "{name}", expected an object with a text field' in error.message
    assert error.hint == f"write the elements of that list as objects by themselves: jq -c '{place}[]' FILE > NEW.jsonl"
    with pytest.raises(DataError, match="found an object with a list of objects in"):
        list(Questions(path))


@pytest.mark.parametrize("end", ["\n", "\r\n", " \n"])
def test_an_array_without_its_brackets(tmp_path: Path, end: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f",{end}".join([*LINES, ""]))
    error = refused(path)
    assert "line 1: found a comma behind the object, expected objects alone, or an array of them" in error.message
    assert "sed 's/},[[:space:]]*$/}/' FILE" in str(error.hint)
    path.write_text(f"[{end}" + f",{end}".join(LINES) + "]")
    assert _symlm.Corpus.open([path]).files == 1
    questions = tmp_path / "questions"
    questions.write_text(f"{QUESTION},{end}{QUESTION}")
    with pytest.raises(DataError, match="line 1: found a comma behind the object"):
        list(Questions(questions))


def test_what_is_compressed_twice(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(gzip.compress(b"text " * 100)))
    error = refused(path)
    assert error.message.endswith("found gzip data within gzip data, expected text: it is compressed twice")
    assert "gzip -dc FILE > NEW" in str(error.hint)
    with pytest.raises(DataError, match="compressed twice"):
        Questions(path)
    path.write_bytes(gzip.compress(bz2.compress(b"text " * 100)))
    error = refused(path)
    assert error.message.endswith("found bzip2 data within gzip data, expected text: it is compressed twice")
    assert "unpack the outer one" in str(error.hint)


def test_a_configuration_that_git_lfs_has_not_fetched(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(DataError, match="found a Git LFS pointer") as caught:
        read_toml(str(path))
    assert caught.value.hint == "git lfs pull fetches it"
