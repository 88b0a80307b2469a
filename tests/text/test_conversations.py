"""Conversations on their way into training: forms, targets, special tokens, what is cut, a run and its resumption."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from symlm import DataError, Generator, Trainer, UsageError, UserError, _symlm, evaluate, finetune_config
from symlm.config.train_config import TrainConfig
from symlm.layout import CHAT_TEMPLATE, TOKENIZER
from symlm.text.conversations import ChatSettings, template_of
from symlm.text.corpus import Prepared, Sources

pytest.importorskip("jinja2")


class Quiet:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def task(self, label: str) -> Any:
        return lambda done, total: None

    def message(self, text: str) -> None:
        self.said.append(text)

    warning = message


def pairs(count: int = 30) -> list[tuple[str, str]]:
    return [(f"What is {n}+{n % 7}?", f"It is {n + n % 7}.") for n in range(count)]


def messages_of(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def write(path: Path, records: Sequence[Any]) -> Path:
    path.write_text("\n".join(json.dumps(record) for record in records) + "\n")
    return path


def prepared(config: TrainConfig, tokenizer: Path | None = None, said: Quiet | None = None) -> Prepared:
    sources = Sources(config, tokenizer)
    template = template_of(config.chat_template, None)
    sources.chat = ChatSettings(template, config.train_on, config.add_tokens)
    return sources.prepare(1, said or Quiet())


def config_of(data: Path, **changes: Any) -> TrainConfig:
    return TrainConfig(**{"data": (str(data),), "vocab_size": 290, "seq_len": 127, "val_split": 0.0, **changes})


def learnt(found: Prepared) -> list[str]:
    """The texts of neighbouring targets."""
    texts: list[list[int]] = [[]]
    for number in found.train.ids(0, found.train.tokens, masked=True):
        if number >= 0:
            texts[-1].append(number)
        elif texts[-1]:
            texts.append([])
    return [found.tokenizer.decode(ids) for ids in texts if ids]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMLM_CACHE_DIR", str(tmp_path / "cache"))


def test_the_answers_and_their_ends_are_targets(tmp_path: Path) -> None:
    data = write(tmp_path / "chat.jsonl", [{"messages": messages_of(*pair)} for pair in pairs()])
    said = Quiet()
    found = prepared(config_of(data), said=said)
    assert learnt(found) == [f"{answer}<|im_end|>" for _, answer in pairs()]
    assert found.chat_tokens is not None
    assert found.chat_tokens.added == ["<|im_start|>", "<|im_end|>"]
    assert found.chat_tokens.end == found.tokenizer.vocab_size - 1 == 289
    assert any("conversations: messages, chat template chatml" in line for line in said.said)
    # What is learnt is counted in bytes of its text, without special tokens.
    assert found.train.bytes == sum(len(answer) for _, answer in pairs())


def test_every_form_and_packing_gives_the_same_shards(tmp_path: Path) -> None:
    made: dict[str, list[Any]] = {
        "messages": [{"messages": messages_of(*pair)} for pair in pairs()],
        "conversations": [
            {"conversations": [{"from": "human", "value": a}, {"from": "gpt", "value": b}]} for a, b in pairs()
        ],
        "alpaca": [{"instruction": a, "input": "", "output": b} for a, b in pairs()],
        "turns": [{"prompt": messages_of(a, b)[:1], "completion": messages_of(a, b)[1:]} for a, b in pairs()],
    }
    tokenizer = tmp_path / TOKENIZER
    hashes = set()
    for form, records in made.items():
        lines = write(tmp_path / f"{form}.jsonl", records)
        array = tmp_path / f"{form}-array.json"
        array.write_text(json.dumps(records, indent=1))
        packed = tmp_path / f"{form}.jsonl.gz"
        packed.write_bytes(gzip.compress(lines.read_bytes()))
        for path in (lines, array, packed):
            known = tokenizer if tokenizer.exists() else None
            for data_format in (None, form):
                found = prepared(config_of(path, data_format=data_format), known)
                found.tokenizer.save(str(tokenizer))
                assert found.data_format == form
                hashes.add(found.train.sha256)
    assert len(hashes) == 1


def test_what_is_learnt_can_be_chosen(tmp_path: Path) -> None:
    turns = [*messages_of("One?", "1"), *messages_of("Two?", "2")]
    data = write(tmp_path / "chat.jsonl", [{"messages": turns}] * 20)
    assert learnt(prepared(config_of(data, vocab_size=262)))[:2] == ["1<|im_end|>", "2<|im_end|>"]
    assert set(learnt(prepared(config_of(data, vocab_size=262, train_on="last")))) == {"2<|im_end|>"}
    whole = learnt(prepared(config_of(data, vocab_size=262, train_on="all")))
    assert whole[0].startswith("user\nOne?<|im_end|>") and whole[0].endswith("2<|im_end|>\n")


def test_long_conversations_are_cut_between_turns_and_counted(tmp_path: Path) -> None:
    turns = [message for number in range(12) for message in messages_of(f"Question {number}?", f"Answer {number}.")]
    data = write(tmp_path / "chat.jsonl", [{"messages": turns}] * 10)
    found = prepared(config_of(data, seq_len=99))
    assert found.train.cut == found.train.documents == 10
    answers = learnt(found)
    assert answers[0] == "Answer 0.<|im_end|>" and all(text.endswith("<|im_end|>") for text in answers)
    last = learnt(prepared(config_of(data, seq_len=99, train_on="last")))
    assert set(last) == {"Answer 11.<|im_end|>"}


def test_a_template_without_a_turn_end_gets_the_end_of_text(tmp_path: Path) -> None:
    template = tmp_path / "plain.jinja"
    template.write_text(
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    )
    data = write(tmp_path / "chat.jsonl", [{"messages": messages_of(*pair)} for pair in pairs()])
    found = prepared(config_of(data, chat_template=str(template)))
    assert learnt(found)[0] == " It is 0.\n<|endoftext|>"
    assert found.chat_tokens is not None and found.chat_tokens.added == [] and found.chat_tokens.end is None


@pytest.mark.parametrize(
    ("records", "message", "kind"),
    [
        ([{"messages": messages_of("a", "b")}, {"messages": "c"}], r"line 2: found a text in field", DataError),
        ([{"messages": messages_of("a", "b")}, {"text": "c"}], r'line 2: found fields "text", expected an', DataError),
        ([{"messages": messages_of("a", "b")[:1]}], "line 1: .*no answer of the assistant", DataError),
        ([{"dialogue": []}], "found chat turns in", DataError),
    ],
)
def test_bad_conversations_are_errors_that_say_where(
    records: list[Any], message: str, kind: type[Exception], tmp_path: Path
) -> None:
    data = write(tmp_path / "chat.jsonl", records)
    with pytest.raises(kind, match=message):
        prepared(config_of(data, vocab_size=259))


def test_a_corpus_of_conversations_is_not_a_text(tmp_path: Path) -> None:
    data = write(tmp_path / "chat.jsonl", [{"messages": messages_of(*pair)} for pair in pairs()])
    corpus = _symlm.Corpus.open([str(data)])
    assert (corpus.is_chat, corpus.data_format) == (True, "messages")
    with pytest.raises(UsageError, match="found a conversation, expected text"):
        corpus.train_tokenizer(280, 1, None)
    with pytest.raises(UsageError, match="found a corpus of the format text, expected conversations"):
        (tmp_path / "a.txt").write_text("a")
        _symlm.Corpus.open([str(tmp_path / "a.txt")]).conversations()


# --- runs -------------------------------------------------------------------------------------------------------------


def test_a_run_is_fine_tuned_resumed_and_evaluated(tmp_path: Path) -> None:
    """A model trained here on text has none of the tokens of a template: they are added, and training continues."""
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{a} {b}\n" for a, b in pairs(200)))
    shape: dict[str, Any] = {"preset": "tiny", "vocab_size": 280, "batch_size": 4, "sample_every": 0, "threads": 1}
    base = Trainer(TrainConfig(**shape, max_steps=2, out_dir=str(tmp_path / "base")), data=[text]).fit()
    data = write(tmp_path / "chat.jsonl", [{"messages": messages_of(*pair)} for pair in pairs(60)])
    with pytest.raises(UserError, match=r"has no special token <\|im_start\|>, <\|im_end\|>"):
        Trainer(finetune_config(base.path, add_tokens=False, out_dir=str(tmp_path / "no")), data=[data]).fit()
    settings: dict[str, Any] = {
        "batch_size": 2,
        "threads": 1,
        "sample_every": 0,
        "eval_interval": 0,
        "save_interval": 2,
    }

    def tune(out: str, **more: Any) -> Any:
        config = finetune_config(base.path, max_steps=4, out_dir=str(tmp_path / out), **settings, **more)
        return Trainer(config, data=[data]).fit()

    whole = tune("whole")
    assert tune("parts", stop_at_step=2).step == 2
    parts = tune("parts", resume="auto")
    weights = [run.path / "checkpoints" / "step-00000004" / "model.safetensors" for run in (whole, parts)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert (parts.path / CHAT_TEMPLATE).is_file()
    model = Generator.from_pretrained(parts.path, "last")
    assert model.model.vocab_size == 282 and model.model.eos_token_ids == (0, 281)
    assert model.tokenizer.encode_rendered("<|im_start|>a<|im_end|>")[::2] == [280, 281]
    assert evaluate(parts.path, data, checkpoint="last").tokens > 0


def test_new_rows_are_the_mean_of_the_others(tmp_path: Path) -> None:
    import numpy as np

    from symlm.model.added_tokens import grown_weights
    from symlm.model.resolve import resolve_model
    from symlm.model.tensors import read_tensors

    text = tmp_path / "text.txt"
    text.write_text("".join(f"{a} {b}\n" for a, b in pairs(200)))
    config = TrainConfig(preset="tiny", vocab_size=280, batch_size=4, sample_every=0, max_steps=1, val_split=0.0,
                         out_dir=str(tmp_path / "run"))  # fmt: skip
    files = resolve_model(Trainer(config, data=[text]).fit().path)
    grown = grown_weights(files, 283, range(280, 283))
    before, after = read_tensors(files.folder), read_tensors(grown.folder)
    assert grown.folder.is_dir() and before.keys() == after.keys()
    for name, tensor in before.items():
        old, new = tensor.floats(), after[name].floats()
        assert np.array_equal(new[: len(old)], old)
        if len(new) > len(old):
            assert new.shape[0] == 283
            mean = old.astype(np.float64).sum(axis=0) / len(old)
            assert np.allclose(new[len(old) :], mean, rtol=1e-6, atol=1e-9)
