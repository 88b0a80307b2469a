"""`symlm eval` beyond whole windows: every token once, documents, compressors, multiple choice."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import symlm
from conftest import Cli
from symlm.errors import DataError, NanError, UsageError
from symlm.evaluation.choices import ItemResult, evaluate_choices, read_items
from symlm.evaluation.compress import compressed_sizes, parse_compressors
from symlm.evaluation.rolling import DocumentLoss, evaluate_rolling
from symlm.evaluation.scoring import Scorer, log_likelihood, rolling_windows
from symlm.evaluation.windows import evaluate

SEQ = 32
DOCUMENTS = [
    "The quick brown fox.\n",
    "x",
    "Zwölf Boxkämpfer jagen Viktor über den großen Sylter Deich. " * 9,
    "and so on",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a few updates."""
    folder = tmp_path_factory.mktemp("eval")
    text = folder / "text.txt"
    text.write_text("".join(f"{i} {DOCUMENTS[i % 4]}" for i in range(400)), encoding="utf-8")
    config = symlm.TrainConfig(
        preset="tiny", vocab_size=300, seq_len=SEQ, batch_size=4, max_steps=8, eval_interval=0, sample_every=0,
        out_dir=str(folder / "run"), progress="off", threads=2,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYMLM_CACHE_DIR", str(folder / "cache"))
        return symlm.Trainer(config, data=text).fit().path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMLM_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def generator(run: Path) -> symlm.Generator:
    return symlm.Generator.from_pretrained(run)


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    path = tmp_path / "documents.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS), encoding="utf-8")
    return path


def stream(generator: symlm.Generator) -> list[int]:
    """The documents as training sees them."""
    return [token for text in DOCUMENTS for token in (*generator.tokenizer.encode(text), 0)][:-1]


def surprise(generator: symlm.Generator, seen: list[int], token: int) -> float:
    """Nats of `token` after `seen`."""
    row = generator.logits(seen)[-1].astype(np.float64)
    return float(np.log(np.exp(row).sum()) - row[token])


@given(tokens=st.integers(0, 90), context=st.integers(1, 20), data=st.data())
def test_rolling_windows_predict_every_token_once(tokens: int, context: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, context))
    windows = list(rolling_windows(tokens, context, stride))
    assert [place for _, first, end in windows for place in range(first, end)] == list(range(1, tokens + 1))
    for begin, first, end in windows:
        assert 0 <= begin < first < end and end - 1 - begin <= context
        assert begin == 0 or first - begin == context - stride + 1


def test_windows_score_as_the_engine_does(run: Path, generator: symlm.Generator, documents: Path) -> None:
    expected = evaluate(run, documents, threads=2)
    ids = stream(generator)
    scorer = Scorer(generator, 1)
    windows = [ids[at : at + SEQ + 1] for at in range(0, len(ids) - SEQ, SEQ)]
    assert expected.windows == len(windows)
    loss = -sum(scorer.score(window, SEQ) for window in windows) / (SEQ * len(windows))
    assert loss == pytest.approx(expected.loss, rel=1e-6)
    assert expected.text_bytes == sum(len(text.encode()) for text in DOCUMENTS)


@pytest.mark.parametrize("stride", [None, 5, SEQ])
def test_each_document_alone(run: Path, generator: symlm.Generator, documents: Path, stride: int | None) -> None:
    seen: list[DocumentLoss] = []
    result = evaluate_rolling(run, documents, stride=stride, per_document=True, each=seen.append, threads=3)
    step = stride or SEQ
    total = 0.0
    for number, (text, found) in enumerate(zip(DOCUMENTS, seen, strict=True)):
        ids = [0, *generator.tokenizer.encode(text)]
        losses = [
            surprise(generator, ids[max((place - 1) // step * step + step - SEQ, 0) : place], ids[place])
            for place in range(1, len(ids))
        ]
        assert (found.document, found.tokens, found.text_bytes) == (number, len(ids) - 1, len(text.encode()))
        assert found.loss == pytest.approx(sum(losses) / len(losses), rel=1e-5)
        assert found.bits_per_byte == pytest.approx(sum(losses) / math.log(2) / len(text.encode()), rel=1e-5)
        total += sum(losses)
    assert seen[2].text == "Zwölf Boxkämpfer jagen Viktor über den g"
    assert result.documents == len(DOCUMENTS) and result.tokens == sum(found.tokens for found in seen)
    assert result.loss == pytest.approx(total / result.tokens, rel=1e-5)
    assert result.bits_per_byte == pytest.approx(total / math.log(2) / result.text_bytes, rel=1e-5)


def test_the_whole_text_in_overlapping_windows(run: Path, generator: symlm.Generator, documents: Path) -> None:
    ids = [0, *stream(generator)]
    result = evaluate_rolling(run, documents, stride=1)
    losses = [surprise(generator, ids[max(place - SEQ, 0) : place], ids[place]) for place in range(1, len(ids))]
    assert (result.tokens, result.windows, result.stride) == (len(losses), len(losses), 1)
    assert result.loss == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    again = evaluate_rolling(run, documents, stride=1, threads=4)
    assert again == result
    with pytest.raises(UsageError, match=f"expected 1 to {SEQ} tokens"):
        evaluate_rolling(run, documents, stride=SEQ + 1)


def test_the_last_logits_alone(generator: symlm.Generator) -> None:
    ids = generator.tokenizer.encode(DOCUMENTS[2])[:SEQ]
    whole = generator.logits(ids)
    for last in (1, 2, SEQ - 1, SEQ):
        found = generator.logits(ids, last)
        assert found.shape == (last, 300) and found.tobytes() == whole[-last:].tobytes()
    for last in (0, SEQ + 1, -1):
        with pytest.raises(UsageError, match=f"expected 1 to {SEQ} of {SEQ} tokens, found {last}"):
            generator.logits(ids, last)


def test_windows_of_a_large_vocabulary(
    run: Path, generator: symlm.Generator, documents: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the logits of a window have no room, it predicts fewer tokens and sees as many."""
    with monkeypatch.context() as patch:
        patch.setattr("symlm.evaluation.scoring.MOST_LOGITS", 300 * 5)
        result = evaluate_rolling(run, documents)
    assert (result.context, result.stride) == (SEQ, 5)
    assert result.loss == evaluate_rolling(run, documents, stride=5).loss
    assert Scorer(generator, 3).threads == 3


def test_logits_that_are_no_numbers() -> None:
    rows = np.zeros((2, 4), np.float32)
    assert log_likelihood(rows, [1, 2]) == pytest.approx(-2 * math.log(4))
    assert log_likelihood(rows + np.float32(3e38), [1, 2]) == pytest.approx(-2 * math.log(4))
    rows[1, 3] = np.nan
    with pytest.raises(NanError, match="log-likelihood of nan"):
        log_likelihood(rows, [1, 2])


# --- compressors ------------------------------------------------------------------------------------------------------


@settings(max_examples=10)
@given(st.lists(st.binary(max_size=200), max_size=8))
def test_sizes_are_those_of_one_stream(blocks: list[bytes]) -> None:
    text = b"".join(blocks)
    calls: list[tuple[int, int]] = []
    names = parse_compressors("xz, gz,bz2,gzip,")
    assert names == ("xz", "gzip", "bzip2")
    sizes = compressed_sizes(blocks, len(text), names, lambda done, total: calls.append((done, total)))
    assert sizes == {
        "xz": len(lzma.compress(text, preset=9)), "gzip": len(gzip.compress(text, 9)), "bzip2": len(bz2.compress(text)),
    }  # fmt: skip
    assert not blocks or calls[-1] == (len(text), len(text))


def test_compressors_on_the_bytes_of_the_text(run: Path, documents: Path) -> None:
    text = "".join(DOCUMENTS).encode()
    expected = {"gzip": len(gzip.compress(text, 9)), "xz": len(lzma.compress(text, preset=9))}
    assert evaluate(run, documents, against=["gzip", "xz"]).compressed == expected
    assert evaluate_rolling(run, documents, per_document=True, against=["gzip", "xz"]).compressed == expected
    with pytest.raises(UsageError, match='unknown compressor "gzp"') as caught:
        parse_compressors("xz,gzp")
    assert caught.value.hint == "did you mean gzip?"
    with pytest.raises(DataError, match="gives back 2 bytes of a text of 3"):
        compressed_sizes([b"ab"], 3, ["gzip"], lambda done, total: None)


# --- multiple choice --------------------------------------------------------------------------------------------------

QUESTIONS: list[dict[str, Any]] = [
    {"prompt": "The quick brown", "choices": [" fox", " Boxkämpfer"], "answer": 0},
    {"prompt": "", "choices": ["The", "x", "and so on"], "answer": 1, "source": "a field of somebody else"},
    {"prompt": "Viktor ", "choices": ["über den", " q", "é"], "answer": 2},
    {"prompt": "one token: ", "choices": ["a", "b", "c"], "answer": 0},
    {"prompt": "far too long to see: " * 9, "choices": ["quick brown fox", "x"], "answer": 0},
]


def write_questions(path: Path, questions: list[Any]) -> Path:
    path.write_text("".join(json.dumps(question) + "\n\n" for question in questions), encoding="utf-8-sig")
    return path


def test_choices_by_log_likelihood(run: Path, generator: symlm.Generator, tmp_path: Path) -> None:
    path = write_questions(tmp_path / "q.jsonl", QUESTIONS)
    seen: list[ItemResult] = []
    result = evaluate_choices(run, path, each=seen.append, threads=2)
    encode = generator.tokenizer.encode
    right: dict[str, list[bool]] = {"acc": [], "acc_norm": [], "acc_bytes": [], "acc_tokens": []}
    for number, (question, found) in enumerate(zip(QUESTIONS, seen, strict=True)):
        assert (found.line, found.answer) == (2 * number + 1, question["answer"])
        head = encode(question["prompt"].rstrip()) or [0]
        sums, sizes = [], []
        for choice in question["choices"]:
            ids = encode(question["prompt"] + choice)
            ids = ids if question["prompt"] else [0, *ids]
            sizes.append(len(ids) - len(head))
            places = range(len(head), len(ids))
            begin = max(len(ids) - 1 - SEQ, 0)
            sums.append(-sum(surprise(generator, ids[begin:place], ids[place]) for place in places))
        assert found.log_likelihoods == pytest.approx(sums, rel=1e-5)
        assert list(found.tokens) == sizes
        bare = [choice.lstrip() for choice in question["choices"]]
        scores = {
            "acc": sums,
            "acc_norm": [value / len(choice) for value, choice in zip(sums, bare, strict=True)],
            "acc_bytes": [value / len(choice.encode()) for value, choice in zip(sums, bare, strict=True)],
            "acc_tokens": [value / size for value, size in zip(sums, sizes, strict=True)],
        }
        for name, values in scores.items():
            assert found.picks[name] == int(np.argmax(values))
            right[name].append(found.picks[name] == question["answer"])
    for name, hits in right.items():
        assert getattr(result, name) == np.mean(hits)
        assert getattr(result, f"{name}_stderr") == pytest.approx(np.std(hits, ddof=1) / math.sqrt(len(hits)))
    assert (result.items, result.cut_prompts) == (5, 1) and seen[4].cut > 0
    assert result.chance == pytest.approx((1 / 2 + 1 / 3 + 1 / 3 + 1 / 3 + 1 / 2) / 5)


def test_a_choice_that_melts_into_the_prompt(generator: symlm.Generator) -> None:
    merged = next(
        pair for token in range(257, 300) if len(pair := generator.tokenizer.decode([token])) == 2 and pair.isalpha()
    )
    encoded = generator.tokenizer.encode_pair(merged[0], merged[1])
    ids, count = encoded.ids, encoded.completion
    assert count == 1 and generator.tokenizer.decode(ids) == merged


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not a JSON object"),
        ("[1]", "found a list, expected an object"),
        ('{"prompt": "a", "choices": ["b", "c"]}', "no answer"),
        ('{"prompt": 1, "choices": ["b", "c"], "answer": 0}', "prompt: found a number, expected a text"),
        ('{"prompt": "a", "choices": "bc", "answer": 0}', "choices: found a text, expected a list"),
        ('{"prompt": "a", "choices": ["b"], "answer": 0}', "choices: found 1, expected 2 to 1,000"),
        ('{"prompt": "a", "choices": ["b", ""], "answer": 0}', "choice 1: found an empty text"),
        ('{"prompt": "a", "choices": ["b", null], "answer": 0}', "choice 1: found null"),
        ('{"prompt": "a", "choices": ["b", "c"], "answer": 2}', "answer: found 2, expected 0 to 1"),
        ('{"prompt": "a", "choices": ["b", "c"], "answer": -1}', "answer: found -1"),
        ('{"prompt": "a", "choices": ["b", "c"], "answer": NaN}', "answer: found nan"),
        ('{"prompt": "a", "choices": ["b", "c"], "answer": true}', "answer: found a truth value, expected a number"),
        ("[" * 9000, "nested deeper"),
    ],
)  # fmt: skip
def test_lines_that_are_no_questions(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "q.jsonl"
    good = '{"prompt": "a", "choices": ["b", "c"], "answer": 0.0}\n\n'
    path.write_bytes((good + line + "\n").encode("utf-8", errors="surrogateescape"))
    with pytest.raises(DataError, match=message) as caught:
        list(read_items(path))
    assert caught.value.message.startswith(f"{path}: line 3: ")


@pytest.mark.parametrize(
    ("line", "message"),
    [(b"\xff", "not UTF-8 at byte 55"), (b'{"x": "' + b" " * (5 << 20) + b'"}', "line 3 is longer than 4 MiB")],
    ids=["utf8", "long"],
)
def test_lines_that_are_no_text(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(b'{"prompt": "a", "choices": ["b", "c"], "answer": 0.0}\n\n' + line + b"\n")
    with pytest.raises(DataError, match=message) as caught:
        list(read_items(path))
    assert caught.value.message.startswith(f"{path}: ")


@given(st.binary(max_size=60))
def test_any_bytes_are_questions_or_a_clear_error(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(raw)
    try:
        assert all(len(item.choices) > 1 for item in read_items(path))
    except DataError as error:
        assert error.message.startswith(f"{path}: ")


def test_a_choice_longer_than_the_window(run: Path, tmp_path: Path) -> None:
    path = write_questions(tmp_path / "q.jsonl", [{"prompt": "a", "choices": ["b", "?!" * 60], "answer": 0}])
    with pytest.raises(DataError, match=rf"line 1: choice 1 is \d+ tokens, the model's window has {SEQ}"):
        evaluate_choices(run, path)
    path.write_text("\n \n")
    with pytest.raises(DataError, match="no questions"):
        evaluate_choices(run, path)


# --- command line -----------------------------------------------------------------------------------------------------


def test_the_command(cli: Cli, run: Path, documents: Path, tmp_path: Path) -> None:
    done = cli("eval", run, documents, "--against", "xz,gzip", "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert list(record["against"]) == ["xz", "gzip"]
    assert record["against"]["gzip"]["bits_per_byte"] == 8 * record["against"]["gzip"]["bytes"] / record["text_bytes"]
    assert record["model_bytes"] == (run / "checkpoints" / "step-00000008" / "model.safetensors").stat().st_size
    done = cli("eval", run, documents, "--per-document", "--against", "gzip")
    assert done.returncode == 0, done.stderr
    table, summary, compared = done.stdout.split("\n\n")
    assert [line.split()[0] for line in table.splitlines()] == ["document", "0", "1", "2", "3"]
    assert "documents      4" in summary and "this model" in compared and "gzip -9" in compared
    done = cli("eval", run, documents, "--per-document", "--out", "documents.json", "--stride", 7)
    assert done.returncode == 0 and "bits/byte" not in done.stdout
    lines = [json.loads(line) for line in (tmp_path / "documents.json").read_text().splitlines()]
    assert [line["text"][:3] for line in lines] == ["The", "x", "Zwö", "and"]
    questions = write_questions(tmp_path / "q.jsonl", QUESTIONS)
    done = cli("eval", run, "--choices", questions, "--out", "answers.jsonl")
    assert done.returncode == 0 and "1 prompt cut from the left" in done.stderr
    assert "acc_norm" in done.stdout and "+-" in done.stdout
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == len(QUESTIONS)
    assert not list(tmp_path.glob(".tmp-*"))


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "found no PATH"),
        (["t.txt", "--choices", "q.jsonl"], 2, "PATH does not go with --choices"),
        (["--choices", "q.jsonl", "--stride", 3], 2, "--stride does not go with --choices"),
        (["t.txt", "--out", "x"], 2, "--out takes the results of documents or questions"),
        (["t.txt", "--against", "zip"], 2, 'unknown compressor "zip"'),
        (["--choices", "none.jsonl"], 3, "cannot read none.jsonl: no such file"),
        (["--choices", "q.jsonl", "--out", "q.jsonl"], 1, "this file is read"),
    ],
)
def test_what_the_command_refuses(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[object],
    code: int, message: str,
) -> None:  # fmt: skip
    from symlm.cli import main

    monkeypatch.chdir(tmp_path)
    write_questions(tmp_path / "q.jsonl", QUESTIONS)
    (tmp_path / "t.txt").write_text("text")
    assert main(["eval", str(run), *map(str, words)]) == code
    error = capsys.readouterr().err
    assert message in error and "hint: " in error
