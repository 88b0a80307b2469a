"""The processor by itself: how many multiplications and additions it does in a second."""

from __future__ import annotations

from dataclasses import dataclass

from .. import _symlm

DOCTOR_SECONDS = 0.3
"""How long the peak of `symlm doctor` is measured."""


@dataclass(frozen=True)
class Peaks:
    """Billions of operations a second in registers alone: fused multiply-adds in f32, and products of 16-bit integers
    where a run uses them and the processor has instructions for them."""

    fma: float
    integer: float | None = None

    @property
    def of_run(self) -> float:
        """What bounds the products of the run."""
        return self.fma if self.integer is None else self.integer

    @property
    def name(self) -> str:
        """Which of the two that is, for display."""
        return "FMA peak" if self.integer is None else "integer peak"


def fma_peak(threads: int) -> float:
    """Measured GFLOP/s of fused multiply-adds, rounded for display."""
    return round(_symlm.fma_peak(threads, DOCTOR_SECONDS), 1)


def measured_peaks(threads: int, seconds: float, rounds: int, precision: str) -> Peaks:
    """The peaks of the processors that `threads` workers can use in a run of this precision, each the best of several
    rounds: what else runs on the machine can only lower it."""
    cores = max(min(threads, _symlm.available_cpus().count), 1)
    fma = max(_symlm.fma_peak(cores, seconds) for _ in range(rounds))
    if precision == "f32":
        return Peaks(fma)
    found = [_symlm.integer_peak(cores, seconds) for _ in range(rounds)]
    return Peaks(fma, max((peak for peak in found if peak is not None), default=None))
