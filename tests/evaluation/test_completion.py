"""Examples of a prompt and a completion: windows, the loss over completions, no bit that depends on threads or stops.

What lines may look like is tested in Rust (`data/tests/examples.rs`), the loss and its gradient against the oracle.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import symlm
from reference import model as reference
from symlm import _symlm
from symlm.errors import DataError, UsageError, UserError
from symlm.export.write import export

COLOURS = ["red", "green", "blue", "black", "white"]
THINGS = ["grass", "snow", "coal", "sky", "blood", "ink", "leaf", "milk"]


def write_examples(path: Path, count: int = 160) -> Path:
    """Lines that ask for the colour of a thing."""
    lines = []
    for i in range(count):
        thing = THINGS[i * 7 % len(THINGS)]
        line = {"prompt": f"{i % 13} colour of {thing}:", "completion": f" {COLOURS[len(thing) % len(COLOURS)]}"}
        lines.append(json.dumps(line))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> _symlm.Tokenizer:
    """A tokenizer that was trained on the examples, prompts and completions alike."""
    path = write_examples(tmp_path_factory.mktemp("text") / "a.jsonl")
    return _symlm.Corpus.open([str(path)]).train_tokenizer(270, 1, None)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMLM_CACHE_DIR", str(tmp_path / "cache"))


def small(tmp_path: Path, name: str, **changes: object) -> symlm.TrainConfig:
    """A run of a few updates on a model of 20,000 weights."""
    values: dict[str, object] = {
        "preset": "tiny", "num_layers": 1, "hidden_size": 32, "num_heads": 2, "num_kv_heads": 1,
        "intermediate_size": 48, "vocab_size": 270, "seq_len": 48, "batch_size": 5, "max_steps": 12,
        "eval_interval": 4, "sample_every": 0, "val_split": 0.1,
        "progress": "off", "threads": 1, "out_dir": str(tmp_path / name),
    }  # fmt: skip
    return symlm.TrainConfig(**{**values, **changes})  # type: ignore[arg-type]


texts = st.text("ab cd.", max_size=12)


@given(
    examples=st.lists(st.tuples(texts, texts.filter(bool)), min_size=2, max_size=20),
    seq_len=st.integers(1, 24),
    share=st.sampled_from([0.0, 0.2]),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_token_of_a_completion_counts_once(
    tmp_path_factory: pytest.TempPathFactory,
    tokenizer: _symlm.Tokenizer,
    examples: list[tuple[str, str]],
    seq_len: int,
    share: float,
) -> None:
    """Read back from the windows, each example is there: its whole completion with the token that ends it if that fits
    behind one token of the prompt, its beginning otherwise; before it the end of its prompt; nothing else counts."""
    folder = tmp_path_factory.mktemp("examples")
    lines = (json.dumps({"prompt": prompt, "completion": completion}) for prompt, completion in examples)
    (folder / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    corpus = _symlm.Corpus.open([str(folder / "a.jsonl")])
    assert corpus.data_format == "completion"
    parts = corpus.prepare(tokenizer, str(folder), share, seq_len, 2, None)
    shards = [part for part in (parts.train, parts.val) if part is not None]
    assert sum(part.documents for part in shards) == len(examples)
    rest = list(examples)
    for part in shards:
        window = part.window
        assert window == seq_len + 1 and part.tokens % window == 0
        found = []
        for start in range(0, part.tokens, window):
            ids = part.ids(start, window, masked=True)
            assert ids[0] < 0, "the first token of a window has nothing before it"
            found += examples_in(ids)
        expected = [expected_example(tokenizer, *rest.pop(0), window) for _ in range(part.documents)]
        assert found == [(context, targets) for context, targets, _ in expected]
        assert part.targets == sum(len(targets) for _, targets in found)
        assert part.cut == sum(cut for _, _, cut in expected)
    assert not rest


def examples_in(ids: list[int]) -> list[tuple[list[int], list[int]]]:
    """The examples of a window: ids of context (as they are) and targets. Fill at the end is left out."""
    found: list[tuple[list[int], list[int]]] = []
    context: list[int] = []
    for token in ids:
        if token < 0:
            context.append(-1 - token)
        elif context:
            found.append((context, [token]))
            context = []
        else:
            found[-1][1].append(token)
    assert all(token == 0 for token in context)
    return found


def expected_example(
    tokenizer: _symlm.Tokenizer, prompt: str, completion: str, window: int
) -> tuple[list[int], list[int], bool]:
    """Context, targets and whether something was left out, by the rules T8 and T9 of the contract."""
    end = tokenizer.eot_id
    assert end is not None
    head, text = prompt.rstrip(), prompt + completion
    context, ids = tokenizer.encode(head), tokenizer.encode(text)
    # Divided where the prompt ends; apart where its end and all of the completion are one token.
    answer = ids[len(context) :] or tokenizer.encode(text[len(head) :])
    context, targets = ids[: len(context)] if len(ids) > len(context) else context, [*answer, end]
    context = context or [end]
    whole = len(context) + len(targets)
    context = context[-max(window - len(targets), 1) :]
    targets = targets[: window - len(context)]
    return context, targets, whole > window


def test_threads_and_stops_change_no_bit(tmp_path: Path) -> None:
    """Three threads, and a stop in the middle of the run, give the files of one thread without a stop."""
    data = write_examples(tmp_path / "colours.jsonl")
    straight = symlm.Trainer(small(tmp_path, "straight"), data=data).fit()
    threaded = symlm.Trainer(small(tmp_path, "threaded", threads=3), data=data).fit()
    stopped = symlm.Trainer(small(tmp_path, "stopped", stop_at_step=5), data=data).fit()
    assert stopped.step == 5 and not stopped.finished
    resumed = symlm.Trainer(small(tmp_path, "stopped", resume="auto"), data=data).fit()
    assert resumed.finished and resumed.config.data_format == "completion"
    last = "checkpoints/step-00000012"
    for name in ("model.safetensors", "optimizer.safetensors"):
        expected = (straight.path / last / name).read_bytes()
        assert (threaded.path / last / name).read_bytes() == expected
        assert (resumed.path / last / name).read_bytes() == expected
    assert straight.metrics["val_loss"] == threaded.metrics["val_loss"] == resumed.metrics["val_loss"]
    environment = json.loads((straight.path / "environment.json").read_text(encoding="utf-8"))
    assert environment["data"]["train_documents"] == 144
    assert 0 < environment["data"]["train_targets"] < environment["data"]["train_tokens"] / 2


def test_eval_is_the_mean_over_completions(tmp_path: Path) -> None:
    """`evaluate` is the mean over the same windows and targets from the logits; its bits per byte follow from it."""
    data = write_examples(tmp_path / "colours.jsonl", 60)
    run = symlm.Trainer(small(tmp_path, "run", max_steps=2), data=data).fit()
    result = symlm.evaluate(run.path, data, checkpoint="last", threads=2, progress="off")
    generator = symlm.Generator.from_pretrained(run.path, checkpoint="last")
    shards = _symlm.Corpus.open([str(data)]).prepare(generator.tokenizer, str(tmp_path), 0.0, 48, 1, None).train
    words = np.array(shards.ids(0, shards.tokens, masked=True)).reshape(-1, 49)
    assert result.windows == len(words)
    windows, counts = np.where(words < 0, -1 - words, words), words[:, 1:] >= 0
    losses = []
    for ids, counted in zip(windows, counts, strict=True):
        logits = generator.logits(ids[:-1].tolist()).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        chosen = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(48), ids[1:]]
        losses += chosen[counted].tolist()
    assert result.tokens == len(losses) == shards.targets
    assert result.loss == pytest.approx(np.mean(losses), rel=1e-5)
    completions = [json.loads(line)["completion"] for line in data.read_text(encoding="utf-8").splitlines()]
    assert result.text_bytes == sum(map(len, completions))
    assert result.bits_per_byte == pytest.approx(result.loss / math.log(2) * len(losses) / result.text_bytes, rel=1e-12)
    with pytest.raises(UsageError, match="compressors"):
        symlm.evaluate(run.path, data, against=["gzip"], progress="off")


def test_the_format_of_the_data_is_part_of_the_run(tmp_path: Path) -> None:
    """A text field counts more than the pair, as before there was one; a resume with the other format is refused."""
    both = tmp_path / "both.jsonl"
    line = json.dumps({"prompt": "colour of snow:", "completion": " white", "text": "snow is white and cold"})
    both.write_text((line + "\n") * 400, encoding="utf-8")
    run = symlm.Trainer(small(tmp_path, "run", vocab_size=262, max_steps=1), data=both).fit()
    assert run.config.data_format == "text"
    with pytest.raises(symlm.SymlmError, match="--data-format: the run has text, asked for completion"):
        symlm.Trainer(small(tmp_path, "run", vocab_size=262, resume="auto", data_format="completion"), data=both).fit()
    again = symlm.Trainer(
        small(tmp_path, "pairs", vocab_size=262, max_steps=1, data_format="completion"), data=both
    ).fit()
    assert again.config.data_format == "completion"


def test_what_is_no_example_is_an_error(tmp_path: Path) -> None:
    """Text as held-out data of examples, and one example with a part to hold out."""
    data = write_examples(tmp_path / "colours.jsonl", 40)
    text = tmp_path / "text.txt"
    text.write_text("snow is white\n" * 100, encoding="utf-8")
    with pytest.raises(DataError, match="found a file of plain text"):
        symlm.Trainer(small(tmp_path, "a", val_data=(str(text),)), data=data).fit()
    with pytest.raises(DataError, match="found a file of plain text"):
        symlm.Trainer(small(tmp_path, "b"), data=[data, text]).fit()
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()


def test_long_examples_are_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The number of examples, of windows, and of those that are longer than a window."""
    data = write_examples(tmp_path / "colours.jsonl", 40)
    symlm.Trainer(small(tmp_path, "run", seq_len=8, max_steps=1, vocab_size=262, progress="plain"), data=data).fit()
    said = capfd.readouterr().err
    assert "examples: 36 in 36 windows" in said and "4 held out" in said
    told = "40 of 40 examples are longer than a window of 9 tokens"
    assert told in said and "a larger --seq-len takes more" in said
    symlm.evaluate(tmp_path / "run", data, progress="plain")
    said = capfd.readouterr().err
    assert told in said and "--seq-len" not in said


def test_the_oracle_has_targets_that_do_not_count() -> None:
    """The oracle itself: a masked mean is the mean of what is left."""
    config = reference.ModelConfig(20, 8, 12, 1, 2, 1, 6)
    parameters = reference.random_parameters(config, 1)
    windows = np.random.default_rng(2).integers(0, 20, (1, 7))
    whole = [
        reference.loss_and_gradients(config, parameters, windows, np.arange(6)[None] == position)[0]
        for position in range(6)
    ]
    assert np.mean(whole) == pytest.approx(reference.loss(config, parameters, windows), rel=1e-12)
    some = np.array([[True, False, False, True, False, False]])
    assert reference.loss_and_gradients(config, parameters, windows, some)[0] == pytest.approx(
        (whole[0] + whole[3]) / 2
    )


def test_windows_may_be_shorter_than_the_positions_of_the_base(tmp_path: Path) -> None:
    path = write_examples(tmp_path / "a.jsonl")
    base = symlm.Trainer(small(tmp_path, "base"), data=[path]).fit().path
    export(base, "hf", tmp_path / "folder")
    config = symlm.TrainConfig(
        init_from=str(tmp_path / "folder"), seq_len=24, batch_size=5, max_steps=2, val_split=0, sample_every=0,
        progress="off", threads=1, out_dir=str(tmp_path / "tuned"),
    )  # fmt: skip
    tuned = symlm.Trainer(config, data=[path]).fit().path
    found = symlm.evaluate(tuned, path, threads=1, progress="off")
    assert math.isfinite(found.loss)
    assert found.windows > 0


def test_conversations_for_a_model_without_their_tokens_are_refused_by_a_hint_that_works(tmp_path: Path) -> None:
    run = symlm.Trainer(small(tmp_path, "run"), data=[write_examples(tmp_path / "a.jsonl")]).fit().path
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"messages": turns}), encoding="utf-8")
    with pytest.raises(UserError, match="no special token") as caught:
        symlm.evaluate(run, path, threads=1, progress="off")
    # `symlm eval` has neither --chat-template nor --add-tokens.
    assert caught.value.hint == "train the model on conversations first, with symlm finetune"
