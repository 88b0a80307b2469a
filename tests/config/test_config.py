"""Settings: sources, checks, the TOML file."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symlm.config.presets import PRESETS
from symlm.config.sources import Request, conflicts, gather, read_environment, resumed, to_toml
from symlm.config.toml import parse_toml
from symlm.config.train_config import FLAGS, SPECS, TrainConfig
from symlm.errors import UsageError
from symlm.units import did_you_mean, format_count, format_duration, format_short_duration, parse_count, parse_duration

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)


def optional(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


configs = st.builds(
    TrainConfig,
    data=st.lists(names, max_size=3).map(tuple),
    val_split=st.floats(0, 0.5),
    text_field=names,
    attend=st.sampled_from(["window", "document"]),
    tokenizer=optional(names),
    preset=optional(st.sampled_from(sorted(PRESETS))),
    num_layers=optional(st.integers(1, 20)),
    vocab_size=optional(st.integers(257, 5000)),
    seq_len=optional(st.integers(1, 1024)),
    tie_embeddings=optional(st.booleans()),
    max_steps=optional(st.integers(1000, 10**6)),
    epochs=optional(st.floats(1e-6, 1e6)),
    max_tokens=optional(st.integers(1, 10**15)),
    max_time=optional(st.floats(1e-3, 1e9)),
    stop_at_step=optional(st.integers(1, 1000)),
    extend_steps=optional(st.integers(1, 1000)),
    batch_size=st.integers(1, 4096),
    learning_rate=optional(st.floats(1e-12, 100)),
    warmup_steps=optional(st.integers(0, 1000)),
    schedule=st.sampled_from(["wsd", "cosine", "linear", "constant"]),
    decay_start=optional(st.integers(0, 1000)),
    eps=st.floats(1e-30, 1.0, exclude_min=True),
    seed=st.integers(0, 2**63 - 1),
    threads=st.just("auto") | st.integers(1, 63),
    out_dir=optional(names),
    trace=optional(names),
    save_interval=st.integers(0, 10**6) | st.sampled_from(["10m", "1h30m", "45s"]),
    sample_prompt=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20),
    progress=st.sampled_from(["auto", "rich", "plain", "json", "off"]),
)


@given(configs)
def test_config_survives_toml(config: TrainConfig) -> None:
    assert TrainConfig(**parse_toml(to_toml(config)).values) == config


@given(configs)
def test_the_file_of_a_run_is_a_valid_config(config: TrainConfig) -> None:
    parsed = parse_toml(to_toml(config, {"max_time": 25.0}))
    assert parsed.requested == {"max_time": 25.0}
    again = TrainConfig(**parsed.values)
    call = {"out_dir": None, "resume": None, "stop_at_step": None, "extend_steps": None, "trace": None}
    assert again == dataclasses.replace(config, **call)  # type: ignore[arg-type]


@given(configs, configs)
def test_resuming_changes_only_what_is_free(run: TrainConfig, asked: TrainConfig) -> None:
    try:
        going_on = resumed(run, Request.of(asked).values())
    except UsageError:
        return
    for name, spec in SPECS.items():
        if not spec.free:
            assert getattr(going_on, name) == getattr(run, name)


def test_defaults_exist_once() -> None:
    assert TrainConfig() == TrainConfig(**gather({}, environ={}).values)
    assert TrainConfig().preset_name == "tiny"
    assert TrainConfig(data=("a.txt",)).preset_name == "3m"
    assert FLAGS["--lr"] == "learning_rate"


@pytest.mark.parametrize(("name", "millions"), [("tiny", 0.4), ("1m", 1.0), ("3m", 2.9), ("12m", 12), ("30m", 29), ("100m", 101)])  # fmt: skip  # noqa: E501
def test_presets_have_the_size_they_promise(name: str, millions: float) -> None:
    assert TrainConfig(preset=name).model.parameters == pytest.approx(millions * 1e6, rel=0.06)


def test_precedence(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('batch-size = 1\nseed = 1\neval_interval = 1\npreset = "1m"\n')
    environ = {"SYMLM_BATCH_SIZE": "2", "SYMLM_SEED": "2"}
    config = gather({"batch_size": "3"}, environ, str(file)).config()
    assert (config.batch_size, config.seed, config.eval_interval) == (3, 2, 1)
    assert config.with_model().learning_rate == PRESETS["1m"].learning_rate
    assert gather({"learning_rate": "1e-3"}, environ, str(file)).config().with_model().learning_rate == 1e-3


def test_a_new_limit_replaces_the_numbers_that_followed_from_the_old_one(tmp_path: Path) -> None:
    resolved = TrainConfig(preset="tiny", max_steps=812, warmup_steps=40, decay_start=650)
    file = tmp_path / "config.toml"
    file.write_text(to_toml(resolved, {"max_time": 25.0}))
    assert gather({}, {}, str(file)).config().max_steps == 812
    longer = gather({"max_tokens": "10M"}, {}, str(file)).config()
    assert (longer.max_steps, longer.warmup_steps, longer.decay_start) == (None, None, None)
    assert (longer.max_time, longer.max_tokens) == (25.0, 10_000_000)


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(UsageError, match='unknown key "lerning_rate"') as caught:
        parse_toml("lerning_rate = 3")
    assert caught.value.hint == "did you mean learning_rate?"
    with pytest.raises(UsageError, match="SYMLM_BATCHSIZE is not a setting") as caught:
        read_environment({"SYMLM_BATCHSIZE": "3"})
    assert "SYMLM_BATCH_SIZE" in str(caught.value.hint)
    assert read_environment({"SYMLM_ISA": "avx2", "SYMLM_LR": "0.01"}) == ({"learning_rate": 0.01}, [])
    values, warnings = read_environment({"SYMLM_ZZZZZZ": "3"})
    assert (values, len(warnings)) == ({}, 1)
    assert did_you_mean("batchsize", SPECS) == "batch_size"
    assert did_you_mean("zzzzzz", SPECS) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 7}, "7 heads do not divide the hidden size 128"),
        ({"num_kv_heads": 3}, "3 key/value heads do not divide the 4 heads"),
        ({"hidden_size": 12, "num_heads": 4}, "a head of 3 floats is odd"),
        ({"hidden_size": 0}, "--hidden-size: expected at least 2, found 0"),
        ({"batch_size": -1}, "--batch-size: expected at least 1"),
        ({"learning_rate": math.nan}, "--learning-rate: expected a finite number"),
        ({"learning_rate": -0.1}, "--learning-rate: expected a number above 0"),
        ({"weight_decay": math.inf}, "--weight-decay: expected a finite number"),
        ({"seq_len": 10**9}, "--seq-len: expected at most"),
        ({"vocab_size": 100}, "--vocab-size: expected at least 257"),
        ({"beta2": 1.0}, "--beta2: expected at most"),
        ({"val_split": 0.9}, "--val-split: expected at most 0.5"),
        ({"schedule": "cosin"}, "--schedule: expected one of"),
        ({"max_steps": 10, "warmup_steps": 20}, "--warmup-steps 20 is more than --max-steps 10"),
        ({"max_steps": 10, "stop_at_step": 20}, "--stop-at-step 20 is beyond"),
        ({"max_steps": 10, "extend_steps": 5, "stop_at_step": 20}, "--stop-at-step 20 is beyond --max-steps 15"),
        ({"extend_steps": 5, "resume": "best"}, "from before the decay"),
        ({"num_layers": 500, "hidden_size": 65536, "num_heads": 512}, "parameters"),
        ({"save_interval": "soon"}, "--save-interval: expected steps"),
        ({"max_time": "never"}, "--max-time: expected a duration"),
        ({"threads": 0}, "--threads: expected at least 1"),
        ({"threads": "many"}, "--threads: expected auto"),
        ({"sectors_in_flight": 13}, "--sectors-in-flight: expected at most 12"),
        ({"data": ("",)}, "expected a path"),
        ({"seed": 1.5}, "--seed: expected a whole number"),
    ],
)
def test_bad_values_are_refused_at_once(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        TrainConfig(**changes)
    assert message in caught.value.message
    assert "\n" not in caught.value.message


def test_conflicts_list_old_against_new() -> None:
    run = TrainConfig(preset="tiny", max_steps=812, warmup_steps=40, decay_start=650, learning_rate=4e-3)
    free = dataclasses.replace(run, threads=5, eval_interval=7, keep_last=9, sectors_in_flight=3, stop_at_step=4,
                               trace="t.json")  # fmt: skip
    assert conflicts(run, {}, Request.of(free).values()) == []
    assert conflicts(run, {"max_time": 25.0}, {"max_time": 25.0}) == []
    found = conflicts(run, {"max_time": 25.0}, {"max_time": 30.0, "learning_rate": 1e-3})
    assert [str(conflict) for conflict in found] == [
        "--max-time: the run has 25.0, asked for 30.0",
        "--learning-rate: the run has 0.004, asked for 0.001",
    ]


@pytest.mark.parametrize(("text", "seconds"), [("25s", 25), ("10m", 600), ("2h", 7200), ("1h30m", 5400), ("1.5h", 5400), ("1d", 86400)])  # fmt: skip  # noqa: E501
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "10", "-5s", "0s", "10x", "1e3s", "10 minutes", "nan"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@given(st.integers(-(10**15), 10**15))
def test_counts(number: int) -> None:
    assert parse_count(str(number)) == number
    assert parse_count(f"{number:_}") == number
    assert parse_count(f"{number}k") == number * 1000


def test_units_for_people() -> None:
    assert [parse_count(text) for text in ("10M", "1.5B", "4,096")] == [10_000_000, 1_500_000_000, 4096]
    assert [format_duration(seconds) for seconds in (42, 187, 7500, math.inf)] == ["42s", "3m07s", "2h05m", "?"]
    short = [format_short_duration(seconds) for seconds in (0.00024, 0.0051, 0.24, 0.9999, 2.4, 9.99, 75, 12_345)]
    assert short == ["0.24 ms", "5.1 ms", "240 ms", "1.0s", "2.4s", "10s", "1m15s", "3h25m"]
    assert [format_count(value) for value in (812, 9300, 2_900_000)] == ["812", "9.3k", "2.9M"]
    with pytest.raises(ValueError, match="whole number"):
        parse_count("1.2345k5")
