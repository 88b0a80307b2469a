"""Limits turned into step numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symlm import _symlm
from symlm.config.engine import engine_settings, made_from
from symlm.config.train_config import TrainConfig
from symlm.errors import UsageError
from symlm.training.schedule import (
    eval_windows,
    evaluation_windows,
    final_eval_windows,
    plan_steps,
    resolve,
    training_windows,
    windows_of_epoch,
)


def tiny(**changes: Any) -> TrainConfig:
    return TrainConfig(**{"preset": "tiny", "data": ("a.txt",), **changes})


def test_each_limit() -> None:
    windows = windows_of_epoch(128 * 3201, 128)
    assert windows == 3200
    assert plan_steps(tiny(max_steps=7), windows).max_steps == 7
    assert plan_steps(tiny(epochs=2), windows).max_steps == 200
    assert plan_steps(tiny(epochs=0.001), windows).max_steps == 1
    assert plan_steps(tiny(max_tokens=4096 * 3 + 1), windows).max_steps == 4
    timed = plan_steps(tiny(max_time=10), windows, seconds_per_step=0.1, seconds_spent=1.0)
    assert 80 <= timed.max_steps <= 90


def test_the_first_limit_decides() -> None:
    plan = plan_steps(tiny(max_steps=300, epochs=2, max_tokens=10**9), 32 * 100)
    assert plan.max_steps == 200
    assert plan.decided_by == "--epochs 2"


def test_defaults_without_a_limit() -> None:
    assert plan_steps(TrainConfig(), 10**5).max_steps == 600
    assert plan_steps(tiny(), 32 * 10).max_steps == 500
    assert plan_steps(tiny(), 32 * 1000).max_steps == 1000
    assert plan_steps(tiny(), 32 * 100_000).max_steps == 5000


def test_schedule_follows_the_steps() -> None:
    plan = plan_steps(tiny(max_steps=2272), 10**5)
    assert (plan.warmup_steps, plan.decay_start) == (100, 2272 - 454)
    plan = plan_steps(tiny(max_steps=20), 10**5)
    assert (plan.warmup_steps, plan.decay_start) == (1, 16)
    assert plan_steps(tiny(max_steps=20, schedule="cosine"), 10**5).decay_start == 20
    assert plan_steps(tiny(max_steps=20, decay_frac=1.0, warmup_steps=5), 10**5).decay_start == 5


def test_impossible_schedules() -> None:
    with pytest.raises(UsageError, match="--warmup-steps 300 is more than the 200 updates"):
        plan_steps(tiny(epochs=2, warmup_steps=300), 32 * 100)
    with pytest.raises(UsageError, match="--decay-start 3"):
        plan_steps(tiny(max_steps=200, warmup_steps=10, decay_start=3), 10**6)
    with pytest.raises(UsageError, match="--stop-at-step 300"):
        plan_steps(tiny(epochs=2, stop_at_step=300), 32 * 100)


@given(
    max_steps=st.integers(1, 10**6),
    decay_frac=st.floats(0, 1),
    schedule=st.sampled_from(["wsd", "cosine", "linear", "constant"]),
)
def test_step_numbers_are_in_order(max_steps: int, decay_frac: float, schedule: Any) -> None:
    plan = plan_steps(tiny(max_steps=max_steps, decay_frac=decay_frac, schedule=schedule), 10**5)
    assert 0 <= plan.warmup_steps <= plan.decay_start <= plan.max_steps == max_steps


@given(seconds=st.floats(0.01, 1e6), step=st.floats(1e-4, 100), windows=st.integers(0, 10**6))
def test_a_time_limit_is_kept_by_the_estimate(seconds: float, step: float, windows: int) -> None:
    plan = plan_steps(tiny(max_time=seconds), 10**5, val_windows=windows, seconds_per_step=step)
    assert plan.max_steps >= 1
    assert plan.max_steps == 1 or plan.max_steps * step <= seconds


def test_resolved_config_decides_everything() -> None:
    asked = tiny(max_time=25, tokenizer="tokenizer.json")
    plan = plan_steps(asked, 10**5, seconds_per_step=0.1)
    config, requested = resolve(asked, plan, vocab_size=300)
    assert requested == {"max_time": 25.0}
    assert config.max_time is None
    assert config.vocab_size == 300
    again, nothing_new = resolve(config, plan_steps(config, 10**5), 300)
    assert again == config
    assert nothing_new == {"max_steps": config.max_steps}


def test_engine_config_names() -> None:
    config, _ = resolve(tiny(max_steps=50), plan_steps(tiny(max_steps=50), 10**5), 512)
    settings = engine_settings(config, 3)
    assert settings.threads == 3
    assert settings.sectors_in_flight == 0
    made = made_from(settings)
    assert made["model"] == {
        "vocab_size": 512, "hidden_size": 128, "intermediate_size": 256, "num_layers": 2, "num_heads": 4,
        "num_kv_heads": 4, "seq_len": 128, "rope_theta": 10000.0, "rms_norm_eps": 1e-5, "tie_embeddings": True,
    }  # fmt: skip
    assert made["train"] == {
        "batch_size": 32, "max_steps": 50, "learning_rate": 4e-3, "warmup_steps": 2, "decay_start": 40,
        "schedule": "wsd", "min_lr_ratio": 0.1, "embedding_lr_ratio": 1.0, "initial_weights": "gpt2",
        "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "grad_clip": 1.0, "seed": 42,
        "precision": "f32", "attend": "window",
    }  # fmt: skip


def test_windows_of_evaluations() -> None:
    assert eval_windows(tiny(eval_batches=2), 1000) == 64
    assert eval_windows(tiny(eval_batches=0), 1000) == 1000
    assert final_eval_windows(tiny(), 2272, 2790) == 2790
    assert final_eval_windows(tiny(), 2272, 100_000) == 7270
    assert final_eval_windows(tiny(), 10, 100_000) == 640


@pytest.mark.parametrize("tokens", [33, 64, 95, 96, 97, 640, 671, 672, 673])
def test_windows_are_those_of_the_engine(tmp_path: Path, tokens: int) -> None:
    """What is trained on: the engine gives so many different windows, then it begins the next epoch."""
    config = tiny(seq_len=32, batch_size=1, max_steps=1, warmup_steps=0, decay_start=1, vocab_size=4096)
    shards = _symlm.Shards.random(str(tmp_path / "ids"), 4096, tokens, 1)
    engine = _symlm.Engine(engine_settings(config.with_model(), 1), shards)
    windows = training_windows(shards, 32)
    ids = shards.ids(0, tokens)
    starts = [next(at for at in range(tokens) if ids[at : at + 33] == engine.window(step, 0))
              for step in range(1, windows + 1)]  # fmt: skip
    held_out = evaluation_windows(shards, 32)
    assert engine.evaluate(shards, 10**6, None).windows == held_out == (tokens - 1) // 32
    again = engine.window(windows + 1, 0)
    engine.close()
    offset = min(starts)
    assert sorted(starts) == [offset + 32 * index for index in range(windows)]
    # One more would not fit behind every offset.
    assert windows == max(tokens // 32 - 1, 1)
    assert again in [ids[at : at + 33] for at in range(tokens - 32)]


def test_examples_are_windows_already() -> None:
    shards: Any = type("Examples", (), {"tokens": 33 * 7, "window": 33})()
    assert training_windows(shards, 32) == evaluation_windows(shards, 32) == 7
    assert evaluation_windows(None, 32) == 0
