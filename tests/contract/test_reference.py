"""The oracle itself: gradients against finite differences, Philox against published vectors, AdamW by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from reference import layers, model, optimizer, philox
from reference.model import ModelConfig
from reference.optimizer import TrainSettings

# vocabulary, hidden, intermediate, layers, query heads, key/value heads, seq_len
CONFIGS = {
    "tied": ModelConfig(19, 16, 24, 2, 4, 4, 7, tie_embeddings=True),
    "untied": ModelConfig(19, 16, 24, 2, 4, 4, 7, tie_embeddings=False),
    "grouped-tied": ModelConfig(23, 24, 20, 1, 6, 2, 9, tie_embeddings=True),
    "grouped-untied-odd": ModelConfig(29, 30, 37, 2, 5, 1, 11, tie_embeddings=False, rope_theta=50.0),
    "one-position": ModelConfig(11, 12, 17, 1, 2, 1, 1, tie_embeddings=False, rms_norm_eps=0.3),
}
ENTRIES_PER_TENSOR = 6


def random_windows(config: ModelConfig, windows: int, seed: int) -> layers.Ids:
    """Uniform token ids [windows, seq_len + 1]."""
    return np.random.default_rng(seed).integers(0, config.vocab_size, (windows, config.seq_len + 1), dtype=np.int64)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_gradients_equal_finite_differences(config: ModelConfig) -> None:
    """Central differences of the loss agree with every gradient tensor at its largest and at random entries."""
    parameters = model.random_parameters(config, seed=1, scale=0.3)
    windows = random_windows(config, 3, seed=2)
    loss, gradients = model.loss_and_gradients(config, parameters, windows)
    assert loss == pytest.approx(model.loss(config, parameters, windows), rel=1e-14)
    assert {name: g.shape for name, g in gradients.items()} == model.parameter_shapes(config)

    rng = np.random.default_rng(3)
    step = 1e-5
    for name, gradient in gradients.items():
        assert gradient.dtype == np.float64
        flat = parameters[name].reshape(-1)
        chosen = {int(np.argmax(np.abs(gradient))), *rng.integers(0, flat.size, ENTRIES_PER_TENSOR).tolist()}
        for entry in chosen:
            saved = flat[entry]
            flat[entry] = saved + step
            above = model.loss(config, parameters, windows)
            flat[entry] = saved - step
            below = model.loss(config, parameters, windows)
            flat[entry] = saved
            # Rounding of the loss costs about 1e-16 / step; the third derivative costs about step squared.
            numeric = (above - below) / (2.0 * step)
            assert gradient.reshape(-1)[entry] == pytest.approx(numeric, rel=1e-6, abs=1e-9), f"{name}[{entry}]"


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_gradients_follow_a_random_direction(config: ModelConfig) -> None:
    """The derivative of the loss along a direction that moves every entry at once equals the dot product."""
    parameters = model.random_parameters(config, seed=4, scale=0.3)
    direction = model.random_parameters(config, seed=5)
    windows = random_windows(config, 2, seed=6)
    _, gradients = model.loss_and_gradients(config, parameters, windows)
    expected = sum(float(np.sum(gradients[name] * direction[name])) for name in parameters)
    step = 1e-5
    above, below = (
        model.loss(config, {name: p + sign * step * direction[name] for name, p in parameters.items()}, windows)
        for sign in (1.0, -1.0)
    )
    assert expected == pytest.approx((above - below) / (2.0 * step), rel=1e-6)


def test_a_later_token_changes_no_earlier_logit() -> None:
    """Attention is causal: replacing token t leaves the logits before t as they were."""
    config = CONFIGS["grouped-tied"]
    parameters = model.random_parameters(config, seed=7)
    ids = random_windows(config, 1, seed=8)
    before = model.logits(config, parameters, ids)
    ids[0, 5] = (ids[0, 5] + 1) % config.vocab_size
    after = model.logits(config, parameters, ids)
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert np.all(np.any(before[:, 5:] != after[:, 5:], axis=-1))


def test_documents_of_a_window_are_windows_of_their_own() -> None:
    """Loss and gradients of three documents in a window are the sums of those of three windows."""
    config = CONFIGS["grouped-tied"]
    parameters = model.random_parameters(config, seed=11, scale=0.3)
    window = random_windows(config, 1, seed=12)
    length = window.shape[1] - 1
    begins = np.zeros((1, length), dtype=bool)
    begins[0, [2, 3]] = True
    loss, gradients = model.loss_and_gradients(config, parameters, window, None, begins)
    parts = [
        (end - start, *model.loss_and_gradients(config, parameters, window[:, start : end + 1]))
        for start, end in ((0, 2), (2, 3), (3, length))
    ]
    assert loss * length == pytest.approx(sum(count * of for count, of, _ in parts), rel=1e-12)
    for name, gradient in gradients.items():
        expected = sum(count * of[name] for count, _, of in parts)
        np.testing.assert_allclose(gradient * length, expected, rtol=1e-9, atol=1e-12)


def test_rotary_scores_depend_on_distance_only() -> None:
    """The product of a rotated query and a rotated key depends on how far apart they are, not on where."""
    rng = np.random.default_rng(9)
    q, k = rng.standard_normal((2, 12))
    angles = layers.rotary_angles(20, 12, 10000.0)
    scores = layers.rotate(np.tile(q, (20, 1)), angles) @ layers.rotate(np.tile(k, (20, 1)), angles).T
    for distance in (-7, 0, 4):
        np.testing.assert_allclose(np.diagonal(scores, distance), scores.diagonal(distance)[0], rtol=1e-12)
    assert scores[0, 0] != pytest.approx(scores[4, 0])


def test_rotary_pairs_are_half_a_head_apart() -> None:
    """At position 1 the first pair, (0, D/2), turns by one radian: HF's half-rotation order."""
    x = np.array([[0.0] * 4, [1.0, 0.0, 0.0, 0.0]])
    turned = layers.rotate(x, layers.rotary_angles(2, 4, 10000.0))
    np.testing.assert_allclose(turned[1], [math.cos(1.0), 0.0, math.sin(1.0), 0.0], rtol=1e-15)


def test_query_heads_of_a_group_are_neighbours() -> None:
    """With 4 query heads on 2 key/value heads, heads 0 and 1 read the first and heads 2 and 3 the second."""
    rng = np.random.default_rng(10)
    q, k, v = (rng.standard_normal((1, heads, 5, 6)) for heads in (4, 2, 2))
    grouped = layers.attention(q, k, v)
    repeated = layers.attention(q, np.repeat(k, 2, axis=1), np.repeat(v, 2, axis=1))
    np.testing.assert_allclose(grouped, repeated, rtol=1e-13)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter: philox.Counter, key: philox.Key, expected: philox.Counter) -> None:
    """The known-answer vectors published with Random123."""
    assert philox.philox4x32(counter, key) == expected


def test_adamw_by_hand() -> None:
    """Two updates of one matrix element and one vector element, with the numbers worked out by hand."""
    settings = TrainSettings(
        batch_size=1, max_steps=2, learning_rate=0.5, weight_decay=0.2, beta1=0.5, beta2=0.75, eps=1.0, grad_clip=0.0
    )
    adamw = optimizer.AdamW(settings)
    parameters: model.Parameters = {"matrix": np.array([[2.0]]), "vector": np.array([2.0])}

    # Update 1 of gradient 3: unbiased m = 3, unbiased v = 9, u = 3 / (3 + 1) = 0.75.
    norm = adamw.step(parameters, {"matrix": np.array([[3.0]]), "vector": np.array([3.0])})
    assert norm == pytest.approx(math.sqrt(18.0))
    assert parameters["matrix"].item() == pytest.approx(2.0 - 0.5 * (0.75 + 0.2 * 2.0))  # 1.425
    assert parameters["vector"].item() == pytest.approx(2.0 - 0.5 * 0.75)  # 1.625: no decay of a vector

    # Update 2 of gradient -1: m = 0.5 * 1.5 - 0.5 = 0.25, over 1 - 0.25 is 1/3;
    # v = 0.75 * 2.25 + 0.25 = 1.9375, over 1 - 0.5625 is 31/7.
    adamw.step(parameters, {"matrix": np.array([[-1.0]]), "vector": np.array([-1.0])})
    u = (1.0 / 3.0) / (math.sqrt(31.0 / 7.0) + 1.0)
    assert parameters["matrix"].item() == pytest.approx(1.425 - 0.5 * (u + 0.2 * 1.425))
    assert parameters["vector"].item() == pytest.approx(1.625 - 0.5 * u)


def test_clipping_scales_all_tensors_by_one_factor() -> None:
    """The norm is over all tensors; a smaller norm and a limit of zero change nothing."""
    gradients: model.Parameters = {"a": np.array([[3.0, 0.0]]), "b": np.array([4.0])}
    norm = optimizer.global_norm(gradients)
    assert norm == pytest.approx(5.0)
    assert optimizer.clip_factor(norm, 1.0) == pytest.approx(0.2)
    assert optimizer.clip_factor(norm, 6.0) == 1.0
    assert optimizer.clip_factor(norm, 0.0) == 1.0


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.8, 0.6, 0.4]),
        ("wsd", [0.5, 1.0, 1.0, 1.0, 1.0, 0.6]),
        ("cosine", [0.5, 1.0, 1.0, 0.6 + 0.4 * math.sqrt(0.5), 0.6, 0.6 - 0.4 * math.sqrt(0.5)]),
    ],
)
def test_schedules_by_hand(schedule: str, expected: list[float]) -> None:
    """Six updates with a warm-up of two, a floor of 0.2 and, for wsd, a decay over the last two."""
    settings = TrainSettings(
        1, max_steps=6, learning_rate=3.0, warmup_steps=2, decay_start=4, schedule=schedule, min_lr_ratio=0.2
    )
    rates = [optimizer.learning_rate(settings, update) / 3.0 for update in range(6)]
    assert rates == pytest.approx(expected, rel=1e-12)
