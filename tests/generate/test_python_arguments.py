"""What Python programs give: numbers of NumPy, fractions, sets, generators and paths work; the rest is a UsageError."""

# mypy: disable-error-code="arg-type, list-item, misc"
# Wrong types are the subject.

from __future__ import annotations

import collections
import decimal
import fractions
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import symlm
from symlm.config.sampling import SAMPLING_SPECS, Sampling
from symlm.config.train_config import SPECS
from symlm.errors import SymlmError, UsageError
from symlm.export.write import export

QUESTION = '{"prompt": "a", "choices": ["b", "c"], "answer": 0}\n'
SHAPE: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 32, "num_layers": 1, "num_heads": 2, "num_kv_heads": 2,
    "seq_len": 8,
}  # fmt: skip
ODD: list[Any] = [
    None, True, object(), "x", b"x", 1.5, -1, 10**30, math.nan, math.inf, [], [1], [[1]], {}, {"a": 1}, 1j, set(), type,
    range(3), Path("no-such-file"), "\ud800", "a\0b", fractions.Fraction(1, 2), decimal.Decimal(1),
    collections.deque([1]), np.array([[1, 2]]), np.array([1, 2]), np.array(3), np.array(["a"]), np.float32(0.5),
    np.int64(3), np.bool_(True), np.str_("x"),
]  # fmt: skip
"""Values of all kinds, most of which no argument takes."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, a run and questions."""
    folder = tmp_path_factory.mktemp("values")
    (folder / "a.txt").write_text("the cat sat on the mat and looked at the moon\n" * 400)
    (folder / "q.jsonl").write_text(QUESTION)
    (folder / "q.txt").write_text("the cat sat")
    config = symlm.TrainConfig(
        preset="tiny", vocab_size=280, seq_len=16, batch_size=12, max_steps=2, threads=1, progress="off",
        out_dir=folder / "run",
    )  # fmt: skip
    symlm.Trainer(config, data=folder / "a.txt").fit()
    return folder


def outcome(call: Callable[[Any], object], value: Any) -> str:
    """How a call ends; anything but a value or an error of symlm is raised."""
    try:
        call(value)
    except SymlmError as error:
        # A name or a step may be of something that is not there.
        known = isinstance(value, (str, bytes, Path, int, np.integer, np.ndarray, decimal.Decimal))
        assert error.exit_code == 2 or known or "no paths" in error.message, (value, error)
        return "refused"
    return "taken"


def grid(calls: dict[str, Callable[[Any], object]]) -> None:
    for name, call in calls.items():
        found = {outcome(call, value) for value in ODD}
        assert "refused" in found, name


def test_settings_take_numbers_and_refuse_the_rest() -> None:
    grid({name: lambda value, name=name: symlm.TrainConfig(**{name: value}) for name in SPECS})
    grid({name: lambda value, name=name: Sampling(**{name: value}) for name in SAMPLING_SPECS})
    grid({name: lambda value, name=name: symlm.TrainConfig(**{name: value}) for name in ("corpus", "run")})
    fields = symlm.ModelConfig.__dataclass_fields__
    grid({name: lambda value, name=name: symlm.ModelConfig(**{**SHAPE, name: value}) for name in fields})


def test_none_is_the_default() -> None:
    default = symlm.TrainConfig()
    assert symlm.TrainConfig(**dict.fromkeys(SPECS)) == default
    assert Sampling(**dict.fromkeys(SAMPLING_SPECS)) == Sampling()
    assert symlm.TrainConfig(val_data=None).val_data == ()


def test_numbers_of_other_libraries_are_numbers() -> None:
    given: dict[str, Any] = {
        "batch_size": np.int64(24), "learning_rate": np.float32(0.5), "seed": np.uint8(7), "threads": np.int16(2),
        "epochs": decimal.Decimal(2), "val_split": fractions.Fraction(1, 4), "max_steps": np.array(8),
        "beta1": np.float64(0.5), "tie_embeddings": np.bool_(False), "max_time": np.float32(90),
        "save_interval": np.int32(5),
    }  # fmt: skip
    config = symlm.TrainConfig(**given)
    for name, value in given.items():
        kept = getattr(config, name)
        assert kept == value and type(kept).__module__ == "builtins", name
    shape = symlm.ModelConfig(**{name: np.int32(size) for name, size in SHAPE.items()}, rope_theta=np.float32(500))
    assert shape == symlm.ModelConfig(**SHAPE, rope_theta=500.0) and type(shape.hidden_size) is int


def test_paths_come_in_any_collection(place: Path) -> None:
    a, b = place / "a.txt", place / "q.jsonl"
    names = (str(a), str(b))
    keys, array = dict.fromkeys(names).keys(), np.array(names)
    several: list[Any] = [[a, b], (a, b), {b, a}, iter((a, b)), keys, array]
    for data in several:
        assert symlm.Trainer(data=data).config.data == names
    for data in (a, str(a), str(a).encode()):
        assert symlm.Trainer(data=data).config.data == names[:1]
    grid({"data": lambda value: symlm.Trainer(data=value)})
    grid({"config": symlm.Trainer, "callbacks": lambda value: symlm.Trainer(callbacks=value)})
    with pytest.raises(UsageError, match=r"callbacks: found .*, expected objects of symlm.Callback"):
        symlm.Trainer(callbacks=[symlm.Callback])


def test_a_generator_takes_what_can_be_meant(place: Path) -> None:
    generator = symlm.Generator.from_pretrained(place / "run", np.int64(2))
    expected = generator.logits([1, 2, 3])
    for ids in (np.array([1, 2, 3]), (1, 2, 3), iter([1, 2, 3]), range(1, 4), np.array([1, 2, 3], dtype=np.uint16)):
        assert (generator.logits(ids) == expected).all()
        assert generator.tokenizer.decode([1, 2, 3]) == generator.tokenizer.decode(np.array([1, 2, 3]))
    assert (generator.logits([1, 2, 3], np.int64(2)) == expected[1:]).all()
    text = generator.generate("the", max_new_tokens=30, stop=["cat", "q"])
    for stop in ({"cat", "q"}, ("cat", "q"), iter(["cat", "q"]), np.array(["cat", "q"])):
        assert generator.generate("the", max_new_tokens=np.int64(30), stop=stop) == text
    with pytest.raises(UsageError, match=r"logits: found array\(\[1, 2\]\), expected token ids from 0 to \d+"):
        generator.logits(np.array([[1, 2]]))
    with pytest.raises(UsageError, match="from 0 to 18446744073709551615"):
        generator._engine.logits([1], 2**64)
    grid({
        "logits": generator.logits,
        "last": lambda value: generator.logits([1], 1 if value is None else value),
        "prompt": lambda value: generator.generate(value, max_new_tokens=1),
        "stop": lambda value: generator.generate("a", max_new_tokens=1, stop=value),
        "decode": generator.tokenizer.decode,
        "encode": generator.tokenizer.encode,
        "pair": lambda value: generator.tokenizer.encode_pair("a", value),
        "path": symlm.Generator.from_pretrained,
        "checkpoint": lambda value: symlm.Generator.from_pretrained(place / "run", value),
        "file": symlm.Tokenizer.from_file,
    })  # fmt: skip


def test_evaluations_and_exports_take_what_can_be_meant(place: Path, tmp_path: Path) -> None:
    run, text = place / "run", place / "a.txt"
    plain: dict[str, Any] = {"threads": 1, "progress": "off"}
    sizes = symlm.evaluate(run, text, against=["gzip", "xz"], **plain).compressed
    for against in ({"xz", "gzip"}, ("gzip", "xz"), iter(["gzip", "xz", "gzip"])):
        assert symlm.evaluate(run, {text}, against=against, **plain).compressed == sizes
    assert list(symlm.evaluate(run, text, against="xz", **plain).compressed) == ["xz"]
    numbered = {"stride": np.int64(4), "threads": np.int8(1), "progress": "off"}
    assert symlm.evaluate_rolling(run, text, **numbered) == symlm.evaluate_rolling(run, text, stride=4, **plain)
    few = symlm.evaluate(run, text, max_windows=np.int64(1), threads=1, progress="off")
    assert few.windows == 1
    grid({
        name: lambda value, name=name: symlm.evaluate(run, text, **{**plain, "max_windows": 1, name: value})
        for name in ("checkpoint", "threads", "text_field", "data_format", "max_windows", "against", "progress")
    } | {"data": lambda value: symlm.evaluate(run, value, **plain)})  # fmt: skip
    grid({
        name: lambda value, name=name: symlm.evaluate_rolling(run, place / "q.txt", **{**plain, name: value})
        for name in ("checkpoint", "threads", "text_field", "stride", "each", "against", "progress")
    } | {"questions": lambda value: symlm.evaluate_choices(run, value, **plain)})  # fmt: skip
    numbers = itertools.count()
    grid({
        "to": lambda value: export(run, value, tmp_path / "a"),
        "dtype": lambda value: export(run, "hf", tmp_path / "b", dtype="f64" if value is None else value),
        "report": lambda value: export(run, "hf", tmp_path / f"c{next(numbers)}", report=value),
        "model": symlm.finetune_config,
        "lora_rank": lambda value: symlm.finetune_config(run, lora_rank=value),
    })  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [("eps", 1e-60), ("learning_rate", 1e-50), ("eps", 1e-40)])
def test_a_number_that_no_f32_holds_is_refused_at_once(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')}: expected at least 1.17549.*e-38, found"):
        symlm.TrainConfig(**{name: value})
    with pytest.raises(UsageError, match=r"--lora-alpha: expected at least 1.2.*e-35, found"):
        symlm.TrainConfig(init_from="x", lora_rank=8, lora_alpha=1e-36)
    assert symlm.TrainConfig(eps=1.2e-38, learning_rate=1.2e-38).eps == 1.2e-38
