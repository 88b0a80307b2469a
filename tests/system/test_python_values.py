"""Whatever a Python program gives to a public function: a result, or an error of symlm that names it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

import symlm
from exporting import train_tiny
from symlm.errors import DataError, InternalError, SymlmError, UsageError
from symlm.export.write import export

VALUES: list[Any] = [
    -1, 0, 1, 2**31, 2**32, 2**63, 2**64, 10**20, -(10**20), 10**400, 1.5, float("nan"), float("inf"), -0.0, True,
    None, "", "x", "-1", "auto", b"x", b"\xff", "\ud800", "a\0b", [], [-1], [10**20], ["x"], [None], [1.5],
    (1,), {}, {1: 2}, object(), range(3), Path("x"), 1j,
]  # fmt: skip

FEW: list[Any] = [-1, 10**20, 1.5, None, "x", b"x", "\ud800", [-1], object()]
LONG = ("evaluate", "export", "from_pretrained")
"""Calls that take a while each."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, a text and questions."""
    folder = tmp_path_factory.mktemp("values")
    train_tiny(folder)
    (folder / "questions").write_text('{"prompt": "a", "choices": ["b", "c"], "answer": 0}')
    return folder


def calls(folder: Path) -> dict[str, Callable[[Any], object]]:
    """Every argument of every public function that takes more than a flag."""
    run, text, questions = folder / "run", folder / "words.txt", folder / "questions"
    generator = symlm.Generator.from_pretrained(run)
    tokenizer = generator.tokenizer
    made: dict[str, Callable[[Any], object]] = {
        "encode": tokenizer.encode,
        "encode_prompt": tokenizer.encode_prompt,
        "encode_pair prompt": lambda value: tokenizer.encode_pair(value, "a"),
        "encode_pair completion": lambda value: tokenizer.encode_pair("a", value),
        "decode": tokenizer.decode,
        "decode one": lambda value: tokenizer.decode([value]),
        "decode_bytes": tokenizer.decode_bytes,
        "decode_bytes one": lambda value: tokenizer.decode_bytes([1, value]),
        "from_file": symlm.Tokenizer.from_file,
        "of_model path": lambda value: symlm.Tokenizer.of_model(value, None, None),
        "of_model eos": lambda value: symlm.Tokenizer.of_model(run / "tokenizer.json", value, None),
        "of_model embedded": lambda value: symlm.Tokenizer.of_model(run / "tokenizer.json", 0, value),
        "of_model bos": lambda value: symlm.Tokenizer.of_model(run / "tokenizer.json", 0, None, value),
        "prompt_ids": generator.prompt_ids,
        "logits": generator.logits,
        "logits one": lambda value: generator.logits([value]),
        "logits last": lambda value: generator.logits([1, 2], value),
        "generate": lambda value: generator.generate(value, max_new_tokens=1),
        "stop": lambda value: generator.generate("a", stop=value, max_new_tokens=1),
        "from_pretrained": symlm.Generator.from_pretrained,
        "from_pretrained checkpoint": lambda value: symlm.Generator.from_pretrained(run, value),
        "evaluate model": lambda value: symlm.evaluate(value, text, threads=1, progress="off"),
        "export to": lambda value: export(run, value, folder / "out"),
        "export dtype": lambda value: export(run, "gguf", folder / "out", dtype=value, force=True),
        "export checkpoint": lambda value: export(run, "gguf", folder / "out", checkpoint=value, force=True),
        "finetune_config": symlm.finetune_config,
        "Trainer data": lambda value: symlm.Trainer(symlm.TrainConfig(), data=value),
    }
    few: dict[str, Any] = {"threads": 1, "progress": "off"}
    drawn = (
        "max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "sample_index"
    )  # fmt: skip
    measured = ("checkpoint", "threads", "text_field", "data_format", "max_windows", "against", "progress")
    rolled = ("checkpoint", "threads", "text_field", "stride", "against", "progress")
    asked = ("checkpoint", "threads", "progress")
    roll: dict[str, Any] = {**few, "stride": 64}
    return {
        **made,
        **each("stream", drawn, lambda **one: next(generator.stream("a", **{"max_new_tokens": 1, **one}), None)),
        **each("evaluate", measured, lambda **one: symlm.evaluate(run, text, **{**few, **one})),
        **each("evaluate_rolling", rolled, lambda **one: symlm.evaluate_rolling(run, text, **{**roll, **one})),
        **each("evaluate_choices", asked, lambda **one: symlm.evaluate_choices(run, questions, **{**few, **one})),
        "evaluate_choices path": lambda value: symlm.evaluate_choices(run, value, threads=1, progress="off"),
        **each("TrainConfig", symlm.config.train_config.SPECS, symlm.TrainConfig),
    }


def each(call: str, names: Iterable[str], run: Callable[..., object]) -> dict[str, Callable[[Any], object]]:
    """Calls with one argument: that of each name."""

    def of(name: str) -> Callable[[Any], object]:
        return lambda value: run(**{name: value})

    return {f"{call} {name}": of(name) for name in names}


def test_every_value_gives_a_result_or_an_error_of_symlm(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    wrong = []
    for name, call in calls(place).items():
        for value in FEW if name.startswith(LONG) else VALUES:
            try:
                call(value)
            except InternalError as error:
                wrong.append(f"{name} {value!r:.40}: {error}")
            except SymlmError:
                pass
            except Exception as error:
                wrong.append(f"{name} {value!r:.40}: {type(error).__name__}: {error!s:.120}")
    assert not wrong, f"{len(wrong)}:\n" + "\n".join(wrong)


def test_an_id_that_is_none_is_named_with_the_range(place: Path) -> None:
    generator = symlm.Generator.from_pretrained(place / "run")
    tokenizer = generator.tokenizer
    last = tokenizer.vocab_size - 1
    for value, shown in (
        (-1, "-1"),
        (10**20, "a number of 67 bits"),
        (last + 1, str(last + 1)),
        ("x", "'x'"),
        (1.5, "1.5"),
    ):
        ids: Any = [0, value]
        for call in (tokenizer.decode, tokenizer.decode_bytes, generator.logits):
            with pytest.raises((UsageError, DataError)) as caught:
                call(ids)
            assert f"found {shown}, expected token ids from 0 to {last}" in caught.value.message, (call, value)
