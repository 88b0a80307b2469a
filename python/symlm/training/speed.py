"""How long an update takes on this machine, measured on the text of the run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from .. import _symlm
from ..display import Display
from ..errors import Interrupted
from ..system.signals import StopSignals

CALIBRATION_STEPS = 20
CALIBRATION_PART = 0.1
"""A time limit is turned into updates by measuring this many, or for this part of the time, on the real data."""

CALIBRATION_LEAST = 3
CALIBRATION_HORIZON = 1_000_000


def seconds_per_step(
    limit: float,
    settings: _symlm.EngineSettings,
    make: Callable[[_symlm.EngineSettings], _symlm.Engine],
    signals: StopSignals,
    display: Display,
) -> tuple[float, float]:
    """Time of one update, and the time it took to find out; by real updates that are then thrown away, so that the
    run itself starts from its first step with its final schedule. Interrupted after the update in which a signal comes.

    `limit` is the time limit in seconds, of which this takes a part; `make` makes the engine."""
    began = time.monotonic()
    budget = limit * CALIBRATION_PART
    move = display.task("measuring the speed")
    engine = make(settings)
    times: list[float] = []
    try:
        while len(times) < CALIBRATION_STEPS:
            if len(times) >= CALIBRATION_LEAST and time.monotonic() - began > budget:
                break
            engine.run_until(len(times) + 1)
            report = engine.poll(0.1)
            while report is None:
                report = engine.poll(0.1)
            if signals.received is not None:
                raise Interrupted(signals.received)
            times.append(report.seconds)
            move(len(times), CALIBRATION_STEPS)
    finally:
        engine.close()
    move(CALIBRATION_STEPS, CALIBRATION_STEPS)
    # The first updates touch fresh memory and cold caches.
    return statistics.median(times[len(times) // 3 :]), time.monotonic() - began
