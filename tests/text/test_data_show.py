"""`symlm data show` on conversations: what training sees, each conversation as one, whatever it was packed in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import Cli
from symlm.config.train_config import DataFormat, TrainConfig
from symlm.text import survey as surveys
from symlm.text.corpus import Sources, builtin_files
from symlm.text.opening import open_corpus, other_form
from symlm.text.survey import CONTEXT, RUN, first_pieces, survey
from test_conversations import Quiet, _cache, messages_of, pairs, write

pytest.importorskip("jinja2")
__all__ = ["_cache"]

WORDS = ("--vocab-size", 300, "--seq-len", 127, "--val-split", 0.2, "--progress", "off")


def turns(number: int, count: int) -> list[dict[str, str]]:
    return [
        part for turn in range(count) for part in messages_of(f"Question {number}.{turn}?", f"It is {number + turn}.")
    ]


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    """Conversations of one to three turns; the last but two says what the first does, and one is too long."""
    records = [{"messages": turns(number, number % 3 + 1)} for number in range(30)]
    return write(tmp_path / "chat.jsonl", [*records, {"messages": turns(90, 20)}, records[2], records[2], records[1]])


def test_a_conversation_of_several_turns_is_one(chat: Path, cli: Cli) -> None:
    done = cli("data", "show", chat, *WORDS, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    train, val = found["train"], found["val"]
    assert found["data_format"] == "messages"
    assert (train["documents"], val["documents"]) == (27, 7)
    assert (train["cut"], val["cut"]) == (0, 1)
    assert (train["duplicates"], val["duplicates"], found["shared_documents"]) == (0, 1, 3)
    shown = cli("data", "show", chat, *WORDS, "--show", 3, "--train-on", "last").stdout
    assert "data format             messages, chat template chatml, as the model has none, learnt: last" in shown
    assert "conversations " in shown and "examples" not in shown
    third = shown[shown.index("--- 3") :]
    assert third.count("<|im_start|>assistant") == 3 and third.count("«") == third.count("»") == 1
    assert "«It is 4.<|im_end|>»" in third


def test_settings_of_conversations_are_those_of_training(chat: Path, tmp_path: Path, cli: Cli) -> None:
    template = tmp_path / "plain.jinja"
    template.write_text("{% for m in messages %}{{ m.role }}={{ m.content }}<eos>{% endfor %}")
    shown = cli("data", "show", chat, *WORDS, "--chat-template", template, "--train-on", "all", "--show", 1)
    assert shown.returncode == 0, shown.stderr
    assert "user=Question 0.0?<eos>assistant=It is 0.<eos>" in shown.stdout.replace("«", "").replace("»", "")
    refused = cli("data", "show", chat, *WORDS, "--chat-template", "gone.jinja")
    assert refused.returncode == 2 and "hint: " in refused.stderr


def test_a_model_brings_its_template(chat: Path, tmp_path: Path, cli: Cli) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{a} {b}\n" for a, b in pairs(200)))
    made = cli("train", text, "--preset", "tiny", "--vocab-size", 280, "--max-steps", 1, "--batch-size", 2, "--out-dir",
               "base", "--sample-every", 0)  # fmt: skip
    assert made.returncode == 0, made.stderr
    tuned = cli("finetune", "base", chat, "--max-steps", 1, "--out-dir", "tuned", "--seq-len", 127)
    assert tuned.returncode == 0, tuned.stderr
    for model in ("base", "tuned"):
        shown = cli("data", "show", chat, "-t", model, "--seq-len", 127, "--json")
        assert shown.returncode == 0, shown.stderr
        assert json.loads(shown.stdout)["data_format"] == "messages"
    lacking = cli("data", "show", chat, "-t", "base", "--no-add-tokens")
    assert lacking.returncode != 0 and "has no special token <|im_start|>" in lacking.stderr
    assert "learnt: assistant" in cli("data", "show", chat, "-t", "tuned", "--no-add-tokens").stdout


def prepared(folder: Path, name: str, records: list[dict[str, str]], seq_len: int) -> tuple[Any, Any, Any]:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    corpus = open_corpus([path])
    text = open_corpus([write(folder / "text.jsonl", [{"text": "abc"}])])
    tokenizer = text.train_tokenizer(257, 1, None)
    shards = corpus.prepare(tokenizer, folder / "cache", 0.0, seq_len, 1, None).train
    return shards, tokenizer, surveys.split_lengths(corpus.example_lengths(tokenizer, seq_len, 1, None), 10**9)[0]


def test_what_fills_windows_is_not_held_out_text(tmp_path: Path) -> None:
    """Examples that share nothing, each in a window that is filled up with more than a run."""
    train, tokenizer, lengths = prepared(tmp_path, "a", [{"prompt": "a" * 50, "completion": "b" * 50}], 199)
    val, _, held = prepared(tmp_path, "b", [{"prompt": "c" * 50, "completion": "d" * 50}] * 2, 199)
    found = survey(train, val, tokenizer, "completion", 199, 0, 0, (lengths, held))
    assert found.shared_tokens == 0 and found.compared_tokens == sum(held) < val.tokens
    same = survey(train, train, tokenizer, "completion", 199, 0, 0, (lengths, lengths))
    assert same.shared_tokens == 1 and same.compared_tokens == sum(lengths)


def test_runs_do_not_span_windows(tmp_path: Path) -> None:
    """The end of a window and the beginning of the next are not one text."""
    size = 63
    first, second = "a" * (RUN - 8), "b" * (RUN - 8)
    one = {"prompt": "x" * (size - len(first)), "completion": first}
    two = {"prompt": second, "completion": "y" * (size - len(second))}
    train, tokenizer, lengths = prepared(tmp_path, "a", [one, two], size)
    assert train.tokens == 2 * train.window and sum(lengths) == train.tokens
    blocks = np.frombuffer(train.words(0, train.tokens), dtype="<u4")
    room = surveys._filled(blocks, train.window, tokenizer.eot_id)
    assert room.tolist() == [*range(size + 1, 0, -1)] * 2


class Held:
    """Shards of a text whose words are counted as they are read."""

    def __init__(self, words: Any) -> None:
        self.all, self.tokens, self.window, self.most, self.read = words, len(words), None, 0, 0

    def words(self, start: int, count: int) -> bytes:
        self.most, self.read = max(self.most, count), self.read + count
        return bytes(self.all[start : start + count].astype("<u4").tobytes())


def test_a_document_of_any_length_is_read_in_blocks() -> None:
    import tracemalloc

    words = np.arange(1, 8_000_001, dtype=np.uint32)
    shards: Any = Held(words)
    tracemalloc.start()
    [(size, ends)] = [(len(part), ends) for part, ends in surveys._parts(shards, 0, None) if ends]
    assert tracemalloc.get_traced_memory()[1] < 16 << 20 and (size, ends) == (0, True)
    shards.read = 0
    tokenizer: Any = type("T", (), {"eot_id": 0})
    [shown] = first_pieces(shards, tokenizer, 1, 100)
    assert shown.tolist() == list(range(1, 101)) and shards.read <= surveys._BLOCK
    tracemalloc.stop()


def test_blocks_are_spread_over_all_of_the_held_out_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surveys, "_BLOCK", 1000)
    monkeypatch.setattr(surveys, "_MOST_BLOCKS", 5)
    chance = np.random.default_rng(1)
    held, train = (chance.integers(1, 1 << 20, 100_000).astype(np.uint32) for _ in range(2))
    # The last blocks stand in the training text, the first do not.
    train[:50_000] = held[50_000:]
    share, compared = surveys._shared_tokens(Held(train), Held(held), 0)  # type: ignore[arg-type]
    assert compared == 5000 and share == pytest.approx(0.4, abs=0.02)
    places = surveys._spread(Held(held))  # type: ignore[arg-type]
    assert places == [0, 24000, 49000, 74000, 99000]


def test_lengths_are_those_of_the_words_in_the_windows(tmp_path: Path) -> None:
    records = [{"prompt": f"{number} is", "completion": " many" * (number % 9 + 1)} for number in range(50)]
    shards, tokenizer, lengths = prepared(tmp_path, "a", records, 60)
    eot = tokenizer.eot_id
    pieces = list(surveys._examples(shards, shards.window, lengths))
    assert len(pieces) == len(records)
    for piece, record in zip(pieces, records, strict=True):
        assert piece[-1] == eot
        ids = [int(word) & ~CONTEXT for word in piece[:-1]]
        assert tokenizer.decode(ids) == (record["prompt"] + record["completion"])


@pytest.mark.parametrize(
    ("record", "form"),
    [
        ({"text": "Below", "instruction": "a", "input": "", "output": "b"}, "alpaca"),
        ({"text": "Below", "prompt": "a", "completion": "b"}, "completion"),
        ({"text": "Below", "messages": messages_of("a", "b")}, "messages"),
        ({"text": "Below", "instruction": "a"}, None),
        ({"text": "Below", "messages": "none"}, None),
    ],
)
def test_a_text_beside_a_conversation_is_told(record: dict[str, Any], form: str | None, tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", [record] * 400)
    cases: tuple[tuple[DataFormat | None, bool], ...] = ((None, form is not None), ("text", False))
    for asked, told in cases:
        said = Quiet()
        config = TrainConfig(data=(str(data),), vocab_size=257, seq_len=15, val_split=0.0, data_format=asked)
        Sources(config, None).prepare(1, said)
        lines = [line for line in said.said if "--data-format" in line]
        assert len(lines) == told, said.said
        assert not told or f'takes field "text"; --data-format {form} takes' in lines[0]


def test_a_plain_text_holds_nothing_else() -> None:
    assert other_form(open_corpus([builtin_files()[0]]), "text") is None
