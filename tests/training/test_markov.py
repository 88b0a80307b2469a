"""A source of known entropy: a trained model must come close to the entropy rate, and cannot go below it.

The source emits characters whose distribution depends on the two before. Its entropy rate is exact: the mean entropy
of its rows under the stationary distribution of the pairs. With a vocabulary of 257, 256 bytes and the end of text,
each character is one token, so bits per byte and bits per character are the same thing.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import symlm

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALPHABET = " aeint"
CONCENTRATION = 0.5  # of the Dirichlet distribution of the rows: smaller means a more predictable source
SOURCE_SEED, TRAINING_SEED, HELD_OUT_SEED = 2024, 1, 2

TRAINING_CHARACTERS = 700_000
HELD_OUT_CHARACTERS = 100_000

UPDATES = 500
BATCH_SIZE = 16
SEQ_LEN = 64
LEARNING_RATE = 4e-3
DECAY_FRAC = 0.4
HIDDEN_SIZE, INTERMEDIATE_SIZE, NUM_LAYERS, NUM_HEADS = 64, 128, 2, 4

# About half of it is used: 0.7 % for the first character of a window, which is predicted from one character only, and
# 0.8 % for what so short a run has not learned yet.
EXCESS_LIMIT = 0.03
# How far the code length of a sample may lie from the entropy rate.
STANDARD_ERRORS = 4.0


@dataclass(frozen=True)
class Source:
    """Markov source of order two; `transitions[a, b, c]` is the probability of c after a, b: [S, S, S]."""

    transitions: NDArray[np.float64]

    @classmethod
    def random(cls, symbols: int, concentration: float, seed: int) -> Source:
        """Draw each row from a symmetric Dirichlet distribution."""
        rng = np.random.default_rng(seed)
        return cls(rng.dirichlet(np.full(symbols, concentration), size=(symbols, symbols)))

    def stationary(self) -> NDArray[np.float64]:
        """Return the long-run share of each pair [S, S]: the fixed point of `pi'[b, c] = sum_a pi[a, b] P[a, b, c]`."""
        symbols = len(self.transitions)
        matrix = np.zeros((symbols, symbols, symbols, symbols))
        for b in range(symbols):
            matrix[:, b, b, :] = self.transitions[:, b, :]  # from pair (a, b) to pair (b, c)
        # pi (M - 1) = 0 together with sum(pi) = 1, as one system of linear equations.
        states = symbols * symbols
        equations = np.vstack([matrix.reshape(states, states).T - np.eye(states), np.ones(states)])
        shares: NDArray[np.float64] = np.linalg.lstsq(equations, np.append(np.zeros(states), 1.0), rcond=None)[0]
        return shares.reshape(symbols, symbols)

    def entropy_rate(self) -> float:
        """Bits per symbol in the long run."""
        positive = np.where(self.transitions > 0.0, self.transitions, 1.0)
        row_entropy = -np.sum(self.transitions * np.log2(positive), axis=-1)
        return float(np.sum(self.stationary() * row_entropy))

    def sample(self, length: int, seed: int) -> NDArray[np.int64]:
        """Emit symbols [length], the first two being uniform."""
        rng = np.random.default_rng(seed)
        symbols = len(self.transitions)
        edges = np.cumsum(self.transitions, axis=-1)
        edges[..., -1] = 1.0
        rows = edges.reshape(symbols * symbols, symbols).tolist()
        out = rng.integers(0, symbols, 2).tolist()
        for draw in rng.random(length - 2).tolist():
            out.append(bisect_right(rows[out[-2] * symbols + out[-1]], draw))
        return np.array(out, dtype=np.int64)

    def code_lengths(self, symbols: NDArray[np.int64]) -> NDArray[np.float64]:
        """Bits that the source itself needs for each symbol from the third on: [length - 2]."""
        return -np.log2(self.transitions[symbols[:-2], symbols[1:-1], symbols[2:]])


def text_of(symbols: NDArray[np.int64]) -> str:
    """Write symbols as characters."""
    return "".join(ALPHABET[symbol] for symbol in symbols.tolist())


def standard_error(values: NDArray[np.float64]) -> float:
    """Standard error of a mean; code lengths of a Markov source are nearly uncorrelated."""
    return float(np.std(values) / math.sqrt(len(values)))


def last_evaluation(run_folder: Path) -> dict[str, float]:
    """Return the last line of the metrics that an evaluation wrote."""
    lines = (run_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    evaluations: list[dict[str, float]] = [event for event in map(json.loads, lines) if event["event"] == "eval"]
    return evaluations[-1]


def test_entropy_rate_of_sources_known_by_hand() -> None:
    """Fair dice have log2 of their sides; a source that repeats what came two before has none."""
    assert Source(np.full((6, 6, 6), 1.0 / 6.0)).entropy_rate() == pytest.approx(math.log2(6.0))
    # After equal symbols a fair coin, after different ones a sure 0. Pairs 00, 01, 10, 11 have the shares x, y, y, z
    # with z = y * 0 + z / 2, so z = 0; x / 2 = y; x = 1 / 2, and half of the symbols carry one bit.
    coin = Source(np.array([[[0.5, 0.5], [1.0, 0.0]], [[1.0, 0.0], [0.5, 0.5]]]))
    np.testing.assert_allclose(coin.stationary(), [[0.5, 0.25], [0.25, 0.0]], atol=1e-12)
    assert coin.entropy_rate() == pytest.approx(0.5)


def test_samples_carry_the_entropy_rate() -> None:
    """A long sample's code length is the entropy rate, up to sampling error; its pairs have the stationary shares."""
    source = Source.random(len(ALPHABET), CONCENTRATION, SOURCE_SEED)
    symbols = source.sample(HELD_OUT_CHARACTERS, HELD_OUT_SEED)
    bits = source.code_lengths(symbols)
    assert abs(bits.mean() - source.entropy_rate()) < STANDARD_ERRORS * standard_error(bits)
    pairs = np.bincount(symbols[:-1] * len(ALPHABET) + symbols[1:], minlength=len(ALPHABET) ** 2) / len(symbols)
    np.testing.assert_allclose(pairs, source.stationary().reshape(-1), atol=0.01)


def test_trained_model_reaches_the_entropy_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held-out bits per byte end within 3 % of the entropy rate, and not below what the source itself needs."""
    monkeypatch.setenv("SYMLM_CACHE_DIR", str(tmp_path / "cache"))
    source = Source.random(len(ALPHABET), CONCENTRATION, SOURCE_SEED)
    training, held_out = tmp_path / "training.txt", tmp_path / "held-out.txt"
    held_out_symbols = source.sample(HELD_OUT_CHARACTERS, HELD_OUT_SEED)
    training.write_text(text_of(source.sample(TRAINING_CHARACTERS, TRAINING_SEED)), encoding="utf-8")
    held_out.write_text(text_of(held_out_symbols), encoding="utf-8")

    config = symlm.TrainConfig(
        val_data=(str(held_out),),
        vocab_size=257,
        hidden_size=HIDDEN_SIZE,
        intermediate_size=INTERMEDIATE_SIZE,
        num_layers=NUM_LAYERS,
        num_heads=NUM_HEADS,
        num_kv_heads=NUM_HEADS,
        seq_len=SEQ_LEN,
        tie_embeddings=True,
        batch_size=BATCH_SIZE,
        max_steps=UPDATES,
        learning_rate=LEARNING_RATE,
        decay_frac=DECAY_FRAC,
        threads=2,
        out_dir=str(tmp_path / "run"),
        eval_interval=0,
        eval_batches=0,
        save_interval=0,
        sample_every=0,
        progress="off",
    )
    run = symlm.Trainer(config, data=[str(training)]).fit()

    bits_per_byte = last_evaluation(Path(run.path))["val_bpb"]
    entropy_rate = source.entropy_rate()
    bits = source.code_lengths(held_out_symbols)
    assert bits_per_byte <= (1.0 + EXCESS_LIMIT) * entropy_rate
    assert bits_per_byte >= entropy_rate - STANDARD_ERRORS * standard_error(bits)
    # On the same characters no model that knows less than the source can beat it: this comparison has nearly no
    # sampling error. A model that does has seen its target.
    assert bits_per_byte > bits.mean()
