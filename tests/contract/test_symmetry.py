"""The twelve sectors and their tree: as pure functions, and as the core's gradients show them from outside."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from reference import model
from reference.model import ModelConfig
from reference.optimizer import TrainSettings
from reference.symmetry import SECTORS, fold, sector_windows
from symlm import _symlm
from symlm.config.engine import settings_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reference.layers import Ids

Gradients = dict[str, NDArray[np.float32]]

# Untied: a tied embedding adds two folds, so its sum is not one tree over windows.
CONFIG = ModelConfig(53, 24, 28, 2, 4, 2, 19, tie_embeddings=False)
PARAMETERS = model.random_parameters(CONFIG, seed=21)
WINDOWS: Ids = np.random.default_rng(22).integers(0, CONFIG.vocab_size, (24, CONFIG.seq_len + 1), dtype=np.int64)


@given(st.integers(min_value=0, max_value=5000))
def test_sectors_cover_all_windows_once_in_order(batch_size: int) -> None:
    """Twelve sectors, laid end to end, are the windows of the batch ascending."""
    sectors = sector_windows(batch_size)
    assert len(sectors) == SECTORS
    assert [window for sector in sectors for window in sector] == list(range(batch_size))


@given(st.integers(min_value=0, max_value=5000))
def test_sector_sizes_differ_by_at_most_one(batch_size: int) -> None:
    """No sector is more than one window larger than another; fewer than twelve windows leave sectors empty."""
    sizes = [len(sector) for sector in sector_windows(batch_size)]
    assert max(sizes) - min(sizes) <= 1
    assert sizes.count(0) == max(0, SECTORS - batch_size)


@given(st.integers(min_value=0, max_value=500), st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_sectors_share_out_evenly_among_divisors_of_twelve(batch_size: int, machines: int) -> None:
    """Runs of sectors for 1, 2, 3, 4, 6 or 12 machines again differ by at most one window."""
    sizes = [len(sector) for sector in sector_windows(batch_size)]
    each = SECTORS // machines
    shares = [sum(sizes[first : first + each]) for first in range(0, SECTORS, each)]
    assert max(shares) - min(shares) <= 1


def test_reference_batch_of_32() -> None:
    """The sizes that the documentation names."""
    assert [len(sector) for sector in sector_windows(32)] == [3, 3, 2] * 4


@dataclass(frozen=True)
class Expression:
    """Records the order of additions as text."""

    text: str

    def __add__(self, other: Expression) -> Expression:
        """Return the sum in brackets."""
        return Expression(f"({self.text}+{other.text})")


def test_tree_adds_in_the_fixed_order() -> None:
    """Four triples from the left, then two pairs, then the halves."""
    leaves = [Expression(name) for name in "abcdefghijkl"]
    assert fold(leaves).text == "((((a+b)+c)+((d+e)+f))+(((g+h)+i)+((j+k)+l)))"


@given(st.lists(st.integers(), min_size=SECTORS, max_size=SECTORS))
def test_tree_counts_every_sector_once(values: list[int]) -> None:
    """In exact arithmetic the tree is the sum."""
    assert fold(values) == sum(values)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=SECTORS, max_size=SECTORS))
def test_halves_and_quarters_are_subtrees(values: list[float]) -> None:
    """Two or four machines can fold their own sectors: absent sectors as +0 leave the partial sums untouched."""
    leaves = np.array(values, dtype=np.float32)

    def only(first: int, end: int) -> np.float32:
        inside = (np.arange(SECTORS) >= first) & (np.arange(SECTORS) < end)
        return np.float32(fold(list(np.where(inside, leaves, np.float32(0.0)))))

    whole = np.float32(fold(list(leaves)))
    assert only(0, 6) + only(6, 12) == whole
    assert (only(0, 3) + only(3, 6)) + (only(6, 9) + only(9, 12)) == whole


def core_gradients(windows: Ids, threads: int = 2, sectors_in_flight: int = 0) -> Gradients:
    """Gradients of the core for windows [B, seq_len + 1], B being the batch size of the run."""
    config = {
        "model": asdict(CONFIG),
        "train": asdict(TrainSettings(batch_size=len(windows), max_steps=1, learning_rate=1e-3)),
        "threads": threads,
        "sectors_in_flight": sectors_in_flight,
    }
    probe = _symlm.Probe(settings_of(config))
    try:
        for name, value in PARAMETERS.items():
            probe.set_parameter(name, value.astype("<f4").tobytes())
        passes = probe.forward_backward(windows.tolist())
        gradients = passes.of
    finally:
        probe.close()
    return {name: np.frombuffer(data, dtype="<f4") for name, data in gradients.items()}


def fold_batch(parts: Sequence[Gradients]) -> Gradients:
    """Tree over the gradients of single windows, one to a sector as a batch of so many windows has them."""
    result = {}
    for name, first in parts[0].items():
        zero = np.zeros_like(first)
        leaves = [parts[sector.start][name] if sector else zero for sector in sector_windows(len(parts))]
        result[name] = fold(leaves)
    return result


@pytest.mark.parametrize("batch_size", [2, 4, 8])
def test_core_folds_single_windows_by_the_tree(batch_size: int) -> None:
    """A batch's gradient is, bit for bit, the tree over gradients of its windows taken alone.

    The mean over B windows instead of one is a factor 1 / B, which commutes with rounding when B is a power of two.
    """
    singles = [core_gradients(WINDOWS[index : index + 1]) for index in range(batch_size)]
    scaled = [{name: g / np.float32(batch_size) for name, g in single.items()} for single in singles]
    expected, found = fold_batch(scaled), core_gradients(WINDOWS[:batch_size])
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        np.testing.assert_array_equal(gradient, expected[name], err_msg=name)


def test_core_folds_twelve_windows_by_the_tree() -> None:
    """Twelve windows are four batches of three: triples first, then pairs, then halves, bit for bit."""
    triples = [core_gradients(WINDOWS[first : first + 3]) for first in range(0, SECTORS, 3)]
    found = core_gradients(WINDOWS[:SECTORS])
    for name, gradient in found.items():
        t0, t1, t2, t3 = (triple[name] / np.float32(4.0) for triple in triples)
        np.testing.assert_array_equal(gradient, (t0 + t1) + (t2 + t3), err_msg=name)


@pytest.mark.parametrize("batch_size", [5, 24])
def test_core_gradients_do_not_depend_on_the_schedule(batch_size: int) -> None:
    """One worker or more than sectors, one sector in flight or all: the same bytes."""
    windows = WINDOWS[:batch_size]
    expected = core_gradients(windows, threads=1, sectors_in_flight=1)
    for threads, sectors_in_flight in ((2, 0), (3, 4), (13, 12)):
        found = core_gradients(windows, threads, sectors_in_flight)
        assert {name: g.tobytes() for name, g in found.items()} == {name: g.tobytes() for name, g in expected.items()}
