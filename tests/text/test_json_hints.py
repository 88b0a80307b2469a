"""JSON objects where they are not looked for: messages name it, and the commands in their hints mend it."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from symlm import _symlm
from symlm.errors import DataError
from symlm.evaluation.choices import Questions

TEXTS = [{"text": "a", "meta": [{"b": "},"}]}, {"text": "c, {d}"}]
QUESTION = {"prompt": "a", "choices": ["b", "c"], "answer": 0}
PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress,
}  # fmt: skip
PLAIN = "write the elements of that list as objects"


def refused(path: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        _symlm.Corpus.open([path])
    return caught.value


def documents(path: Path) -> int:
    """Checks a whole file; gives the number of documents."""
    corpus = _symlm.Corpus.open([path])
    cache = path.parent / "cache"
    cache.mkdir(exist_ok=True)
    tokenizer = corpus.train_tokenizer(257, 1, None)
    return corpus.prepare(tokenizer, str(cache), 0.0, 1, 1, None).train.documents


def command_of(error: DataError) -> str:
    """The command in a hint, without what it writes to."""
    found = re.search(r"(?:: |^)((?:\w+ -dc FILE \| )?(?:jq|sed) .*) > NEW", str(error.hint))
    assert found is not None, error.hint
    return found[1]


def typed(command: str, path: Path, new: Path) -> None:
    """Runs a command of a hint as people type it."""
    for tool in ("gzip", "xz", "bzip2", "sed", "jq"):
        if command.startswith(tool) and shutil.which(tool) is None:
            pytest.skip(f"no {tool}")
    with new.open("wb") as file:
        subprocess.run(["sh", "-c", command.replace("FILE", f"'{path}'")], stdout=file, check=True, timeout=60)


def elements(command: str, data: Any) -> list[Any]:
    """What `jq` gives for the paths that hints have."""
    found = re.fullmatch(r"(?:.*\| )?jq -c '(.*?)'(?: FILE)?", command)
    assert found is not None
    steps = re.findall(r"\.?\[\]|\.?\[(\".*?\")\]|\.([A-Za-z_]\w*)", found[1])
    values = [data]
    for quoted, word in steps:
        name = json.loads(quoted) if quoted else word
        values = [inner for value in values for inner in ([value[name]] if name else value)]
    return values


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize("outer", [False, True])
@pytest.mark.parametrize("name", ["data", "my rows", "1st", "naïve", "a.b-c"])
def test_a_list_of_objects_inside_of_an_object(tmp_path: Path, name: str, outer: bool, packed: str) -> None:
    data: Any = {"version": 1.1, "names": ["x"], name: [{"text": "a"}, {"text": "b"}]}
    data = [data] if outer else data
    path, new = tmp_path / f"squad.json{packed}", tmp_path / "new.jsonl"
    path.write_bytes(PACK[packed](json.dumps(data, ensure_ascii=False).encode()))
    error = refused(path)
    assert f'found an object with a list of objects in "{name}", expected an object with a text field' in error.message
    assert str(error.hint).startswith(PLAIN)
    command = command_of(error)
    assert elements(command, data) == [{"text": "a"}, {"text": "b"}]
    assert command.startswith({"": "jq", ".gz": "gzip -dc", ".xz": "xz -dc", ".bz2": "bzip2 -dc"}[packed])
    if shutil.which("jq") is not None:
        typed(command, path, new)
        assert documents(new) == 2


@pytest.mark.parametrize("name", ["it's", 'a"b', "$x(", "\\(1)", "x" * 41, "a\nb", ""])
def test_a_name_that_no_command_can_hold(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({name: [{"text": "a"}]}))
    assert refused(path).hint == f"{PLAIN}, one on each line"


def test_the_text_may_be_beside_a_list_of_objects(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"body": "the text", "comments": [{"text": "a"}]}))
    error = refused(path)
    assert str(error.hint).startswith(f"if that is where it is, {PLAIN}: jq -c '.comments[]' FILE > NEW.jsonl; else ")
    assert "--text-field" in str(error.hint)
    assert _symlm.Corpus.open([path], text_field="body").files == 1
    path.write_text(json.dumps({"question": "a", "options": [{"b": 1}]}))
    with pytest.raises(DataError, match="found an object with a list of objects in") as caught:
        list(Questions(path))
    assert str(caught.value.hint).endswith("; else give each object prompt, choices, answer")


def lines(objects: list[Any], between: str, end: str, indent: int | None) -> str:
    return between.join(json.dumps(value, indent=indent) for value in objects) + end


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("end", ["", ",", ",\n", "\n", ",\n\n", "\r\n"])
@pytest.mark.parametrize("between", [",\n", ",\r\n", " ,\n\n", ",", ", "])
def test_an_array_without_its_brackets(tmp_path: Path, between: str, end: str, indent: int | None, packed: str) -> None:
    path, new = tmp_path / f"rows.jsonl{packed}", tmp_path / "new.jsonl"
    path.write_bytes(PACK[packed](lines(TEXTS, between, end, indent).encode()))
    error = refused(path)
    assert "line 1: found a comma behind the object, expected objects alone, or an array of them" in error.message
    command = command_of(error)
    typed(command, path, new)
    assert documents(new) == 2
    assert command.startswith("gzip -dc FILE | sed") if packed else "FILE" in command
    questions = tmp_path / "questions"
    questions.write_text(lines([QUESTION, QUESTION], between, end, indent))
    with pytest.raises(DataError, match="found a comma behind the object"):
        list(Questions(questions))


def test_other_things_behind_an_object_are_broken(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}, and so on\n')
    assert "broken JSON" in refused(path).message
    path.write_text("\ufeff" + lines(TEXTS, ",\n", "", 2))
    new = tmp_path / "new.jsonl"
    typed(command_of(refused(path)), path, new)
    assert documents(new) == 2


@pytest.mark.parametrize(
    ("encoding", "packed"), [("latin-1", ""), ("utf-16", ".gz"), ("utf-16", ""), ("latin-1", ".xz")]
)
def test_text_that_is_not_utf_8(tmp_path: Path, encoding: str, packed: str) -> None:
    if shutil.which("iconv") is None:
        pytest.skip("no iconv")
    path, new = tmp_path / f"a.txt{packed}", tmp_path / "new.txt"
    path.write_bytes(PACK[packed]("naïve café\n".encode(encoding)))
    found = re.search(r"with (.*) > NEW$", str(refused(path).hint))
    assert found is not None
    typed(found[1], path, new)
    assert new.read_text(encoding="utf-8") == "naïve café\n"
