"""Low-rank adapters in the core against the float64 oracle: gradients of the factors, whole updates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

import numpy as np
import pytest
from test_oracle_vs_core import CASES, LIMIT, Case, as_array, assert_close, random_batch, starting_parameters

from reference import adapters, model
from reference.model import Parameters
from reference.optimizer import AdamW, TrainSettings, clip_factor
from symlm import _symlm
from symlm.config.engine import settings_of

RANK, ALPHA = 3, 4.5
SCALE = ALPHA / RANK
TARGETS = {
    "all": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "attention": ["q_proj", "v_proj"],
    "mlp": ["up_proj", "down_proj"],
}
UPDATES = 6


def starting_factors(base: Parameters, targets: list[str], seed: int) -> Parameters:
    """Random factors, both of them, that float32 holds exactly."""
    rng = np.random.default_rng(seed)
    found: Parameters = {}
    for name, weight in base.items():
        if name.split(".")[-2] in targets:
            for factor, shape in zip(
                adapters.factors_of(name), [(RANK, weight.shape[1]), (weight.shape[0], RANK)], strict=True
            ):
                found[factor] = rng.normal(0.0, 0.2, shape).astype(np.float32).astype(np.float64)
    return found


@contextmanager
def opened(case: Case, base: Parameters, factors: Parameters, settings: TrainSettings) -> Iterator[_symlm.Probe]:
    """A probe of the core that holds these weights and factors."""
    targets = [name for name in TARGETS["all"] if any(f".{name}." in factor for factor in factors)]
    lora = {"rank": RANK, "alpha": ALPHA, "targets": targets}
    config = {
        "model": asdict(case.config),
        "train": asdict(settings) | {"batch_size": case.batch_size, "lora": lora},
        "threads": 2,
    }
    probe = _symlm.Probe(settings_of(config))
    try:
        for name, value in (base | factors).items():
            probe.set_parameter(name, value.astype("<f4").tobytes())
        yield probe
    finally:
        probe.close()


@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS.keys())
@pytest.mark.parametrize("name", ["fits", "awkward-untied"])
def test_gradients_and_merged_weights_agree(name: str, targets: list[str]) -> None:
    case = CASES[name]
    base = starting_parameters(case.config, seed=51)
    factors = starting_factors(base, targets, seed=52)
    windows = random_batch(case, seed=53)
    weights = adapters.merged(base, factors, SCALE)
    expected_loss, of_weights = model.loss_and_gradients(case.config, weights, windows)
    expected = adapters.gradients(of_weights, factors, SCALE)
    with opened(case, base, factors, TrainSettings(0, 1, 1e-3)) as probe:
        passes = probe.forward_backward(windows.tolist())
        loss, found = passes.loss, passes.of
        assert loss == pytest.approx(expected_loss, rel=1e-6)
        assert list(found) == list(expected)
        for factor, gradient in expected.items():
            assert_close(as_array(found[factor], gradient.shape), gradient, factor)
        for tensor, value in weights.items():
            own = as_array(probe.parameter(tensor), value.shape)
            # One rounding of the weight, and those of a short chain.
            assert np.max(np.abs(own - value)) <= 4e-7 * np.max(np.abs(value)), tensor


@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS.keys())
def test_updates_agree(targets: list[str]) -> None:
    """What each factor has moved in some updates, relative to the norm of its movement; nothing else moves."""
    case = CASES["awkward"]
    settings = TrainSettings(0, UPDATES, 3e-3, warmup_steps=2, schedule="cosine", eps=1e-4, grad_clip=0.05)
    base = starting_parameters(case.config, seed=54)
    start = starting_factors(base, targets, seed=55)
    expected, adamw, clipped = dict(start), AdamW(settings), []
    with opened(case, base, start, settings) as probe:
        for update in range(UPDATES):
            windows = random_batch(case, seed=200 + update)
            weights = adapters.merged(base, expected, SCALE)
            loss, of_weights = model.loss_and_gradients(case.config, weights, windows)
            norm = adamw.step(expected, adapters.gradients(of_weights, expected, SCALE))
            clipped.append(clip_factor(norm, settings.grad_clip) < 1.0)
            assert probe.adamw_step(windows.tolist()) == pytest.approx(loss, rel=1e-5)
        assert any(clipped), "this case is meant to clip"
        for name, value in expected.items():
            found = as_array(probe.parameter(name), value.shape)
            error = np.linalg.norm(found - value) / np.linalg.norm(value - start[name])
            assert error <= LIMIT, f"{name}: {error:.2e}"
        for name, value in base.items():
            if adapters.factors_of(name)[0] not in start:
                assert probe.parameter(name) == value.astype("<f4").tobytes(), name
