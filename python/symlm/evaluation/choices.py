"""Multiple choice by log-likelihood: which of several continuations a model finds the likeliest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .. import _symlm
from ..config.options import convert
from ..config.train_config import SPECS, Progress
from ..display import make_display
from ..errors import DataError, shown
from ..generate.generator import Generator
from ..layout import BEST
from ..system.machine import resolve_threads
from ..system.names import as_location
from ..system.reading import kind, parse_json
from ..system.values import check_callable
from ..text.corpus import tell_halves
from ..text.opening import open_objects
from ..text.remarks import begins_twice, told
from ..units import count_of
from .scoring import Scorer, log_likelihood

MOST_ITEM_BYTES = 4 << 20
MOST_CHOICES = 1000

SCORES = ("acc", "acc_norm", "acc_bytes", "acc_tokens")
"""Ways to choose: by the log-likelihood itself, or by it over the characters, bytes or tokens of the choice."""


@dataclass(frozen=True)
class Item:
    """A question: `answer` is the number of the right choice, from 0; `line` that of its line, or of its element in an
    array, from 1, and `place` the same in words."""

    line: int
    place: str
    prompt: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class ItemResult:
    """Log-likelihood in nats and number of tokens of each choice; what each of `SCORES` picks; how many tokens of the
    prompt did not fit before the longest choice."""

    line: int
    answer: int
    log_likelihoods: tuple[float, ...]
    tokens: tuple[int, ...]
    picks: dict[str, int]
    cut: int


@dataclass(frozen=True)
class ChoicesEvaluation:
    """Accuracies and their standard errors (None for a single item), as parts of 1. `chance` is that of guessing."""

    items: int
    acc: float
    acc_stderr: float | None
    acc_norm: float
    acc_norm_stderr: float | None
    acc_bytes: float
    acc_bytes_stderr: float | None
    acc_tokens: float
    acc_tokens_stderr: float | None
    chance: float
    cut_prompts: int


class Questions:
    """The questions of a file of JSON objects: `prompt`, `choices`, `answer`; other fields are passed over.

    The objects stand on lines or in an array, as in training texts. `-` is the standard input. Every pass
    reads them again; DataError names the place of an object that is not a question. `halves` counts the characters of
    all questions that are half of a surrogate pair, as far as the last pass came.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path = as_location("questions", path)
        self.halves = 0
        self._file = open_objects(path, ("prompt", "choices", "answer"), MOST_ITEM_BYTES)

    def __iter__(self) -> Iterator[Item]:
        objects = iter(self._file)
        for found in objects:
            self.halves = objects.halves
            yield _item(self.path, found)


def read_items(path: str | Path) -> Iterator[Item]:
    """The questions of a file, as `Questions` gives them."""
    return iter(Questions(path))


_FORM = 'a question is {"prompt": "2 + 2 =", "choices": [" 3", " 4"], "answer": 1}'


def _item(path: str | Path, found: _symlm.JsonObject) -> Item:
    place = found.place

    def wrong(what: str) -> DataError:
        return DataError(f"{_name(path)}: {place}: {what}", _FORM)

    try:
        record = parse_json(found.json)
    except ValueError as error:
        raise wrong(f"not a JSON object: {error}") from None
    if not isinstance(record, dict):
        raise wrong(f"found {kind(record)}, expected an object")
    for name, expected in (("prompt", "a text"), ("choices", "a list"), ("answer", "a number")):
        if name not in record:
            raise wrong(f"no {name}")
        if kind(record[name]) != expected:
            raise wrong(f"{name}: found {kind(record[name])}, expected {expected}")
    prompt, choices, answer = record["prompt"], record["choices"], record["answer"]
    if not 2 <= len(choices) <= MOST_CHOICES:
        raise wrong(f"choices: found {len(choices)}, expected 2 to {MOST_CHOICES:,}")
    for index, choice in enumerate(choices):
        if not isinstance(choice, str) or not choice:
            what = "an empty text" if choice == "" else kind(choice)
            raise wrong(f"choice {index}: found {what}, expected a text")
    if answer not in range(len(choices)):
        raise wrong(f"answer: found {shown(answer)}, expected 0 to {len(choices) - 1}")
    return Item(found.number, place, prompt, tuple(choices), int(answer))


def _name(path: str | Path) -> str:
    """What messages call the file."""
    return "standard input" if str(path) == "-" else str(path)


def evaluate_choices(
    model: str | Path,
    path: str | Path,
    *,
    checkpoint: str | int = BEST,
    threads: int | Literal["auto"] = "auto",
    each: Callable[[ItemResult], None] | None = None,
    progress: Progress = "auto",
) -> ChoicesEvaluation:
    """Ask a model the questions of a file; `each` is called with the result of every one, in order.

    The accuracies `acc` and `acc_norm` are those of lm-evaluation-harness. The whole file is checked first.
    """
    check_callable("each", each)
    questions = Questions(path)
    path = questions.path
    total = sum(1 for _ in questions)
    if not total:
        raise DataError(f"{_name(path)}: no questions", _FORM)
    generator = Generator.from_pretrained(model, checkpoint)
    scorer = Scorer(generator, resolve_threads(convert("threads", SPECS["threads"], threads))[0])
    right = dict.fromkeys(SCORES, 0)
    guessed, cut, done, twice = 0.0, 0, 0, 0
    display = make_display(convert("progress", SPECS["progress"], progress))
    try:
        if generator.note is not None:
            display.message(generator.note)
        tell_halves(questions.halves, display)
        move = display.task("evaluation")
        asked = ((item, _encode(path, item, scorer)) for item in questions)
        for item, result in scorer.ordered(lambda pair: (pair[0], _ask(*pair, scorer)), asked):
            for name in SCORES:
                right[name] += result.picks[name] == item.answer
            guessed += 1 / len(item.choices)
            cut += result.cut > 0
            twice += begins_twice(generator.tokenizer, generator.prompt_ids(item.prompt))
            done += 1
            if each is not None:
                each(result)
            move(done, total)
        if twice:
            display.warning(told(generator.tokenizer, f"{twice:,} of {count_of(done, 'prompt')} begin"))
        if cut:
            display.warning(
                f"{count_of(cut, 'prompt')} cut from the left to the {scorer.context:,} tokens of the model's window"
            )
    finally:
        display.close()
    values: dict[str, Any] = {}
    for name in SCORES:
        part = right[name] / done
        values[name] = part
        values[f"{name}_stderr"] = math.sqrt(part * (1 - part) / (done - 1)) if done > 1 else None
    return ChoicesEvaluation(items=done, chance=guessed / done, cut_prompts=cut, **values)


def _encode(path: str | Path, item: Item, scorer: Scorer) -> list[tuple[list[int], int]]:
    pairs = []
    for place, choice in enumerate(item.choices):
        pair = scorer.generator.tokenizer.encode_pair(item.prompt, choice)
        if pair.completion > scorer.context:
            raise DataError(
                f"{_name(path)}: {item.place}: choice {place} is {pair.completion:,} tokens, the model's window has "
                f"{scorer.context:,}",
                "take the question out, or a model with longer windows",
            )
        pairs.append((pair.ids, pair.completion))
    return pairs


def _ask(item: Item, pairs: Sequence[tuple[list[int], int]], scorer: Scorer) -> ItemResult:
    known: dict[tuple[int, ...], Any] = {}
    sums: list[float] = []
    for ids, count in pairs:
        seen = tuple(ids[:-1][-scorer.context :])
        if count > 1:
            rows = scorer.rows(seen, count)
        else:
            # Choices of one token differ only after all that the model sees.
            if seen not in known:
                known[seen] = scorer.rows(seen, 1)
            rows = known[seen]
        sums.append(log_likelihood(rows, ids[-count:]))
    tokens = tuple(count for _, count in pairs)
    # As lm-evaluation-harness, which does not count the space that it puts before a choice.
    bare = [choice.lstrip() or choice for choice in item.choices]
    lengths: dict[str, list[int]] = {
        "acc": [1] * len(bare),
        "acc_norm": [len(choice) for choice in bare],
        "acc_bytes": [len(choice.encode("utf-8")) for choice in bare],
        "acc_tokens": list(tokens),
    }
    picks = {}
    for name, counted in lengths.items():
        scores = [value / length for value, length in zip(sums, counted, strict=True)]
        picks[name] = scores.index(max(scores))
    cut = max(len(ids) - 1 - scorer.context for ids, _ in pairs)
    return ItemResult(item.line, item.answer, tuple(sums), tokens, picks, max(cut, 0))
