"""The core against the float64 oracle: logits, loss, every gradient tensor, ten AdamW updates.

The core computes in float32, whose rounding unit is 6e-8. Sums over a few thousand terms leave errors of a few 1e-7 to
1e-6 of a tensor's norm; a wrong formula, index or scale leaves errors of 1e-2 and more. The limit of 1e-4 lies between.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

from reference import model
from reference.model import ModelConfig, Parameters
from reference.optimizer import AdamW, TrainSettings, clip_factor
from symlm import _symlm
from symlm.config.engine import settings_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from reference.layers import Array, Ids

LIMIT = 1e-4
UPDATES = 10


@dataclass(frozen=True)
class Case:
    """A model shape and the number of windows in a batch."""

    config: ModelConfig
    batch_size: int


# vocabulary, hidden, intermediate, layers, query heads, key/value heads, seq_len
CASES = {
    # Sizes that fill vectors and tiles, two windows to each sector.
    "fits": Case(ModelConfig(256, 64, 128, 2, 4, 4, 64, tie_embeddings=True), 24),
    "fits-untied": Case(ModelConfig(256, 64, 128, 2, 4, 4, 32, tie_embeddings=False), 12),
    # Nothing divides by a vector or by twelve; heads of 12 elements, groups of three, empty sectors.
    "awkward": Case(ModelConfig(301, 72, 100, 2, 6, 2, 37, tie_embeddings=True), 7),
    "awkward-untied": Case(ModelConfig(301, 72, 100, 2, 6, 2, 37, tie_embeddings=False), 7),
    # All query heads share one key/value head of 10 elements; sectors of one and two windows.
    "one-kv-head": Case(ModelConfig(67, 30, 41, 3, 3, 1, 17, tie_embeddings=False, rope_theta=500.0), 13),
    "one-head": Case(ModelConfig(257, 18, 50, 1, 1, 1, 5, tie_embeddings=True, rms_norm_eps=1e-2), 3),
    "one-position": Case(ModelConfig(40, 16, 24, 1, 2, 2, 1, tie_embeddings=True), 2),
}
# Frequencies of all three kinds: unchanged, stretched, and between.
LLAMA3 = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 40}
CASES["stretched"] = Case(
    ModelConfig(67, 32, 41, 2, 2, 1, 90, tie_embeddings=False, rope_theta=300.0, rope_scaling=LLAMA3), 5
)
# A sector of 1,200 tokens and a batch of 7,800: sums run over several blocks of tokens.
LONG_CASES = {"long": Case(ModelConfig(61, 24, 40, 1, 2, 1, 600, tie_embeddings=True), 13)}
GRADIENT_CASES = CASES | LONG_CASES

# The last update is still inside the schedule, so that each of its parts is used.
SETTINGS = {
    "wsd": TrainSettings(0, 14, 3e-3, warmup_steps=3, decay_start=6, schedule="wsd", eps=1e-4, grad_clip=0.2),
    "cosine": TrainSettings(
        0, 12, 3e-3, warmup_steps=2, schedule="cosine", eps=1e-4, grad_clip=0.0, embedding_lr_ratio=0.3
    ),
    "linear": TrainSettings(
        0,
        11,
        2e-3,
        1,
        schedule="linear",
        min_lr_ratio=0.0,
        weight_decay=3.0,
        beta1=0.8,
        beta2=0.99,
        eps=1e-3,
        embedding_lr_ratio=2.5,
    ),
    "constant": TrainSettings(0, 10, 1e-3, schedule="constant", weight_decay=0.0, eps=1e-4, grad_clip=100.0),
}


def starting_parameters(config: ModelConfig, seed: int) -> Parameters:
    """Seeded parameters that float32 holds exactly, as float64, so that both sides start from the same numbers.

    The deviation is larger than training starts with: scores then differ, and no gradient is small by accident.
    """
    parameters = model.random_parameters(config, seed, scale=0.15)
    return {name: value.astype(np.float32).astype(np.float64) for name, value in parameters.items()}


def random_batch(case: Case, seed: int) -> Ids:
    """Token ids [batch_size, seq_len + 1] in which half of the tokens come from a tenth of the vocabulary."""
    rng = np.random.default_rng(seed)
    shape = (case.batch_size, case.config.seq_len + 1)
    common = rng.integers(0, max(1, case.config.vocab_size // 10), shape, dtype=np.int64)
    return np.where(rng.random(shape) < 0.5, common, rng.integers(0, case.config.vocab_size, shape, dtype=np.int64))


@contextmanager
def opened(case: Case, parameters: Parameters, settings: TrainSettings | None = None) -> Iterator[_symlm.Probe]:
    """Open a probe of the core that holds these parameters; close it at the end."""
    settings = settings or TrainSettings(0, 1, 1e-3)
    config = {
        "model": asdict(case.config),
        "train": asdict(settings) | {"batch_size": case.batch_size},
        "threads": 2,
        "sectors_in_flight": 0,
    }
    probe = _symlm.Probe(settings_of(config))
    try:
        for name, value in parameters.items():
            probe.set_parameter(name, value.astype("<f4").tobytes())
        yield probe
    finally:
        probe.close()


def as_array(data: bytes, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Little-endian float32 bytes as float64."""
    return np.frombuffer(data, dtype="<f4").reshape(shape).astype(np.float64)


def assert_close(found: Array, expected: Array, what: str, limit: float = LIMIT) -> None:
    """Both the largest error against the largest element and the norm of the error against the norm keep the limit."""
    error = found - expected
    largest = float(np.max(np.abs(error)) / np.max(np.abs(expected)))
    norm = float(np.linalg.norm(error) / np.linalg.norm(expected))
    # Written so that a NaN fails too.
    assert largest <= limit and norm <= limit, f"{what}: largest error {largest:.2e}, norm {norm:.2e}, limit {limit}"


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_parameter_table_matches(case: Case) -> None:
    """The core names and shapes the parameters as the reference does."""
    table = _symlm.parameter_table(_symlm.ModelShape(**{**asdict(case.config), "rope_scaling": None}))
    assert len({parameter.name for parameter in table}) == len(table)
    assert {parameter.name: tuple(parameter.shape) for parameter in table} == model.parameter_shapes(case.config)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_parameters_survive_unchanged(case: Case) -> None:
    """What was set is read back to the bit."""
    parameters = starting_parameters(case.config, seed=30)
    with opened(case, parameters) as probe:
        for name, value in parameters.items():
            assert probe.parameter(name) == value.astype("<f4").tobytes(), name


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_logits_agree(case: Case) -> None:
    """Logits of a full window, of a part of one, and of a single token."""
    parameters = starting_parameters(case.config, seed=31)
    ids = random_batch(case, seed=32)[0, :-1]
    expected = model.logits(case.config, parameters, ids[None])[0]
    with opened(case, parameters) as probe:
        for length in sorted({1, (len(ids) + 1) // 2, len(ids)}):
            found = as_array(probe.logits(ids[:length].tolist()), (length, case.config.vocab_size))
            assert_close(found, expected[:length], f"logits of {length} tokens")


@pytest.mark.parametrize("case", GRADIENT_CASES.values(), ids=GRADIENT_CASES.keys())
def test_loss_and_every_gradient_agree(case: Case) -> None:
    """Loss and each gradient tensor of one batch."""
    parameters = starting_parameters(case.config, seed=33)
    windows = random_batch(case, seed=34)
    expected_loss, expected = model.loss_and_gradients(case.config, parameters, windows)
    with opened(case, parameters) as probe:
        passes = probe.forward_backward(windows.tolist())
        loss, gradients = passes.loss, passes.of
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        found = as_array(gradients[name], gradient.shape)
        if case.config.seq_len == 1 and ("q_proj" in name or "k_proj" in name):
            # One visible key has the weight 1 whatever its score: the exact gradient is zero, rounding remains.
            assert np.max(np.abs(gradient)) < 1e-15
            assert np.max(np.abs(found)) < 1e-6
        else:
            assert_close(found, gradient, name)


CONTEXT = 1 << 31
"""The bit of an id that does not count as a target."""


@pytest.mark.parametrize("name", ["fits", "awkward-untied", "one-kv-head", "long"])
def test_loss_and_every_gradient_agree_where_some_targets_do_not_count(name: str) -> None:
    """A few targets count in most windows and none in one; then they all count, which gives the bits of no mask."""
    case = GRADIENT_CASES[name]
    parameters = starting_parameters(case.config, seed=36)
    windows = random_batch(case, seed=37)
    counts = np.random.default_rng(38).random((case.batch_size, case.config.seq_len)) < 0.2
    counts[1] = False
    expected_loss, expected = model.loss_and_gradients(case.config, parameters, windows, counts)
    masked = windows.copy()
    masked[:, 1:] |= np.where(counts, 0, CONTEXT)
    masked[:, 0] |= CONTEXT
    with opened(case, parameters) as probe:
        passes = probe.forward_backward(masked.tolist())
        loss, gradients = passes.loss, passes.of
        plain = probe.forward_backward(windows.tolist())
        # The first id of a window is never a target, so its bit means nothing.
        windows[:, 0] |= CONTEXT
        again = probe.forward_backward(windows.tolist())
        assert (again.loss, again.of) == (plain.loss, plain.of)
        passes = probe.forward_backward((windows | CONTEXT).tolist())
        nothing_counts, zeros = passes.loss, passes.of
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    for tensor, gradient in expected.items():
        assert_close(as_array(gradients[tensor], gradient.shape), gradient, tensor)
    assert nothing_counts == 0.0
    assert not any(np.any(np.frombuffer(values, "<f4")) for values in zeros.values())


BEGIN = 1 << 30
"""The bit of the first id of a document."""


@pytest.mark.parametrize("name", ["fits", "awkward", "one-kv-head", "stretched", "long"])
def test_loss_and_every_gradient_agree_where_tokens_see_their_document_alone(name: str) -> None:
    """Windows of many documents, of one, and of documents of a single token."""
    case = GRADIENT_CASES[name]
    parameters = starting_parameters(case.config, seed=39)
    windows = random_batch(case, seed=40)
    begins = np.random.default_rng(41).random((case.batch_size, case.config.seq_len)) < 0.15
    begins[1], begins[2] = False, True
    expected_loss, expected = model.loss_and_gradients(case.config, parameters, windows, None, begins)
    other_loss, _ = model.loss_and_gradients(case.config, parameters, windows)
    marked = windows.copy()
    marked[:, :-1] |= np.where(begins, BEGIN, 0)
    # The last id of a window is a target alone, so its bit means nothing.
    marked[:, -1] |= BEGIN
    with opened(case, parameters) as probe:
        passes = probe.forward_backward(marked.tolist())
    assert passes.loss == pytest.approx(expected_loss, rel=1e-6) and abs(other_loss - expected_loss) > 1e-4
    for tensor, gradient in expected.items():
        assert_close(as_array(passes.of[tensor], gradient.shape), gradient, tensor)


@pytest.mark.parametrize(
    ("name", "schedule"),
    # Every shape with one schedule, and every schedule with one shape: neither knows of the other.
    [(name, "wsd") for name in ("fits", "awkward", "awkward-untied", "one-kv-head")]
    + [("awkward", schedule) for schedule in SETTINGS if schedule != "wsd"],
)
def test_ten_updates_agree(name: str, schedule: str) -> None:
    """Ten whole updates: losses, and what each tensor has moved, relative to the norm of its movement.

    AdamW divides a gradient by its own size. Without a floor, an element whose true gradient is smaller than the
    rounding error gets a random sign and moves by the full learning rate the wrong way: no float32 program can agree
    there, and the number of such elements, not the quality of the arithmetic, would set the error. `eps` is the floor.
    From 1e-4 on, it lies far above the rounding error of these gradients (elements of about 1e-3), so an update is a
    smooth function of the gradient with a slope of at most 1 / eps, and the strict limit is fair. What is left is
    mostly the rounding of the weights themselves: 1e-8 an update where a weight moves by 1e-3. The next test has the
    usual `eps`.
    """
    largest, wrong_losses = compare_updates(CASES[name], SETTINGS[schedule])
    assert not wrong_losses
    assert {tensor: error for tensor, error in largest.items() if not error <= LIMIT} == {}


def test_ten_updates_with_the_usual_eps_agree() -> None:
    """With eps = 1e-8 elements of gradient zero to rounding may go astray; all others still hold the tensor close."""
    settings = TrainSettings(0, UPDATES, 3e-3, warmup_steps=2, schedule="cosine")
    largest, wrong_losses = compare_updates(CASES["awkward"], settings)
    assert not wrong_losses
    assert {tensor: error for tensor, error in largest.items() if not error <= 20 * LIMIT} == {}


def compare_updates(case: Case, settings: TrainSettings) -> tuple[dict[str, float], list[tuple[float, float]]]:
    """Make ten updates on both sides.

    Return for each tensor the norm of the difference after the last update over the norm of the way that it went,
    and the pairs of losses that disagree.
    """
    start = starting_parameters(case.config, seed=35)
    expected = dict(start)
    adamw = AdamW(settings)
    factors = []
    wrong_losses = []
    with opened(case, start, settings) as probe:
        for update in range(UPDATES):
            windows = random_batch(case, seed=100 + update)
            loss, gradients = model.loss_and_gradients(case.config, expected, windows)
            factors.append(clip_factor(adamw.step(expected, gradients), settings.grad_clip))
            found_loss = probe.adamw_step(windows.tolist())
            if not abs(found_loss - loss) <= 1e-5 * loss:
                wrong_losses.append((found_loss, loss))
        found = {name: as_array(probe.parameter(name), value.shape) for name, value in start.items()}
    if settings.grad_clip == 0.2:
        assert max(factors) < 1.0, "this case is meant to clip"
    return {
        name: float(np.linalg.norm(found[name] - expected[name]) / np.linalg.norm(expected[name] - start[name]))
        for name in start
    }, wrong_losses
