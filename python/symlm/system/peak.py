"""The processor by itself: how many multiply-adds it does in a second."""

from __future__ import annotations

from .. import _symlm

DOCTOR_SECONDS = 0.3
"""How long the peak of `symlm doctor` is measured."""


def fma_peak(threads: int) -> float:
    """Measured GFLOP/s of fused multiply-adds, rounded for display."""
    return round(_symlm.fma_peak(threads, DOCTOR_SECONDS), 1)


def measured_peak(threads: int, seconds: float, rounds: int) -> float:
    """GFLOP/s of fused multiply-adds on the processors that `threads` workers can use, the best of several rounds:
    what else runs on the machine can only lower it."""
    cores = max(min(threads, _symlm.available_cpus().count), 1)
    return max(_symlm.fma_peak(cores, seconds) for _ in range(rounds))
