"""JSON as people have it: one reader for texts, examples and questions."""

from __future__ import annotations

import dataclasses
import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import symlm
from conftest import Cli
from symlm import _symlm
from symlm.errors import DataError
from symlm.evaluation.choices import Item, Questions, evaluate_choices, read_items

QUESTIONS: list[dict[str, Any]] = [
    {"prompt": "the quick", "choices": [" brown", " rivers"], "answer": 0, "id": 10**30},
    {"note": {"deep": [[[[]]]]}, "choices": ["a", "{", "}"], "prompt": 'a "dog"', "answer": 2},
]


def forms(records: list[dict[str, Any]]) -> dict[str, str]:
    """The same records in every container."""
    return {
        "lines": "".join(json.dumps(record) + "\n" for record in records),
        "blank lines": "\ufeff\r\n" + "\r\n\r\n".join(json.dumps(record, ensure_ascii=False) for record in records),
        "array": json.dumps(records),
        "pretty array": json.dumps(records, indent=2),
        "pretty objects": "\n".join(json.dumps(record, indent=1) for record in records),
        "one behind the other": "".join(json.dumps(record) for record in records),
        "arrays": "\n".join(json.dumps([record]) for record in records),
    }


def without_place(items: Any) -> list[Item]:
    return [dataclasses.replace(item, line=0, place="") for item in items]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "a.txt").write_text("the quick brown fox jumps over a lazy dog near rivers. " * 300)
    config = symlm.TrainConfig(
        preset="tiny", vocab_size=280, seq_len=32, batch_size=4, max_steps=2, sample_every=0, progress="off",
        out_dir=str(folder / "run"),
    )  # fmt: skip
    return symlm.Trainer(config, data=[folder / "a.txt"]).fit().path


@pytest.mark.parametrize("form", forms([]))
@pytest.mark.parametrize("packed", [False, True])
def test_questions_in_every_form(tmp_path: Path, form: str, packed: bool) -> None:
    text = forms(QUESTIONS)[form].encode()
    path = tmp_path / ("q.json.gz" if packed else "q")
    path.write_bytes(gzip.compress(text) if packed else text)
    expected = [Item(0, "", q["prompt"], tuple(q["choices"]), q["answer"]) for q in QUESTIONS]
    questions = Questions(path)
    assert without_place(questions) == without_place(questions) == expected


def test_places_of_questions(tmp_path: Path) -> None:
    path = tmp_path / "q.json"
    path.write_text(json.dumps(QUESTIONS, indent=1))
    assert [(item.line, item.place) for item in read_items(path)] == [
        (1, "element 1 (line 2)"),
        (2, "element 2 (line 11)"),
    ]
    path.write_text(json.dumps([*QUESTIONS, {"prompt": "a"}]))
    with pytest.raises(DataError, match=r"q.json: element 3 \(line 1\): no choices"):
        list(read_items(path))
    path.write_text(json.dumps(QUESTIONS)[:-1])
    with pytest.raises(DataError, match=r"found the end of the file after element 2"):
        list(read_items(path))


def test_questions_with_halves_of_surrogate_pairs(run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"prompt": "half \\ud83d", "choices": ["\\ude00", "b"], "answer": 0, "other": "\\ud83d"}\n')
    assert [(item.prompt, item.choices) for item in read_items(path)] == [("half \ufffd", ("\ufffd", "b"))]
    assert evaluate_choices(run, path, progress="plain").items == 1
    assert capfd.readouterr().err.count("2 characters that are half of a surrogate pair were read as U+FFFD") == 1


def test_questions_from_standard_input_and_pipes(run: Path, cli: Cli, environment: dict[str, str]) -> None:
    done = cli("eval", run, "--choices", "-", "--json", stdin=forms(QUESTIONS)["pretty array"])
    assert done.returncode == 0 and json.loads(done.stdout)["items"] == 2, done.stderr
    done = cli("eval", run, "--choices", "-", stdin="[7]")
    assert done.returncode == 3 and "error: standard input: line 1: found a list" in done.stderr
    packed = gzip.compress(forms(QUESTIONS)["array"].encode())
    for name in ("-", "/dev/stdin"):
        piped = subprocess.run(
            [sys.executable, "-m", "symlm", "eval", str(run), "--choices", name],
            env=environment, input=packed, capture_output=True, timeout=300, check=False,
        )  # fmt: skip
        assert piped.returncode == 0, piped.stderr


def texts(path: Path, folder: Path, form: str = "auto") -> list[str]:
    """The documents of a file, through the ids of a tokenizer that knows bytes."""
    corpus = _symlm.Corpus.open([path], "text", form)
    base = folder / "t.txt"
    base.write_text("a" * 64)
    tokenizer = _symlm.Corpus.open([base]).train_tokenizer(257, 1, None)
    shards = corpus.prepare(tokenizer, str(folder / "cache"), 0.0, 1, 1, None).train
    ids = shards.ids(0, shards.tokens)
    assert tokenizer.eot_id is not None
    found = bytes(byte for token in ids for byte in (tokenizer.decode_bytes([token]) if token else b"\0"))
    return found.decode("utf-8").split("\0")


strings = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.floats() | strings, lambda inner: st.lists(inner, max_size=3), max_leaves=5
)


@settings(deadline=None, max_examples=40)
@given(
    records=st.lists(
        st.tuples(strings, st.dictionaries(strings.filter(lambda name: name != "text"), values, max_size=3)),
        min_size=2,
        max_size=5,
    )
)
def test_every_form_holds_the_same_texts(tmp_path_factory: pytest.TempPathFactory, records: list[Any]) -> None:
    folder = tmp_path_factory.getbasetemp() / "forms"
    folder.mkdir(exist_ok=True)
    objects = [{**others, "text": text} for text, others in records]
    for form in forms(objects).values():
        path = folder / "a.json"
        path.write_text(form, encoding="utf-8", newline="")
        assert texts(path, folder) == [text for text, _ in records]


@pytest.mark.parametrize(
    ("name", "content", "key"),
    [
        ("a.jsonl", b'{"text": "abc abc abc"}\n{"text": "abd"}\n', "729e45cab47f2167d576922f3704aaed"),
        ("b.txt", b"abc abc", "a0b7db87f7b15966f370a01660f30f00"),
    ],
)
def test_tokens_of_earlier_versions_are_found_in_the_cache(tmp_path: Path, name: str, content: bytes, key: str) -> None:
    """The key is that of the release in which a .jsonl was lines and nothing else."""
    (tmp_path / name).write_bytes(content)
    texts(tmp_path / name, tmp_path)
    made = [path.name for path in (tmp_path / "cache").iterdir()]
    assert made == [f"{key}-train.ids"]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ({"messages": [{"role": "user", "content": "a"}]}, 'found chat turns in "messages" (a list)'),
        ({"conversations": [{"from": "human", "value": "a"}]}, 'found chat turns in "conversations" (a list)'),
        (
            {"instruction": "a", "input": "", "output": "b"},
            'found an instruction in "instruction" (a string) and "output"',
        ),
        ({"prompt": [{"role": "user"}], "completion": [{}]}, 'found chat turns in "prompt" (a list)'),
    ],
)
def test_chat_data_taken_for_text_is_refused(run: Path, tmp_path: Path, cli: Cli, line: Any, found: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(line) + "\n")
    for words in (["finetune", run, "a.jsonl"], ["train", "a.jsonl"], ["eval", run, "a.jsonl"]):
        done = cli(*words, "--data-format", "text")
        assert done.returncode == 3 and found in done.stderr and "--data-format names it" in done.stderr
    done = cli("finetune", run, "-", "--data-format", "text", stdin=json.dumps([line]))
    assert done.returncode == 3 and found in done.stderr, done.stderr


def test_examples_in_an_array(run: Path, tmp_path: Path, cli: Cli) -> None:
    examples = [{"prompt": f"the {i}", "completion": " fox"} for i in range(40)]
    (tmp_path / "a.json").write_text(json.dumps(examples, indent=1))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(example) + "\n" for example in examples))
    words = ["--max-steps", 2, "--val-split", 0, "--sample-every", 0]
    weights = []
    for name in ("a.json", "a.jsonl"):
        done = cli("finetune", run, name, "--out-dir", f"ft-{name}", *words)
        assert done.returncode == 0 and "examples: 40 in" in done.stderr, done.stderr
        weights.append((tmp_path / f"ft-{name}/checkpoints/step-00000002/model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_halves_are_told_once(run: Path, tmp_path: Path, cli: Cli) -> None:
    lines = [{"text": "the quick \ud83d brown fox"}, {"text": "\udc00" * 2 + " jumps over a lazy dog" * 9}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = cli("eval", run, "a.jsonl")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("3 characters that are half of a surrogate pair were read as U+FFFD") == 1
