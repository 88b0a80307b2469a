"""How long an update takes on this machine, measured on the text of the run."""

from __future__ import annotations

import statistics
import time

from .. import _symlm
from ..config.engine import engine_settings
from ..config.train_config import TrainConfig
from ..display import Display
from ..text.corpus import Prepared

CALIBRATION_STEPS = 20
CALIBRATION_PART = 0.1
"""A time limit is turned into updates by measuring this many, or for this part of the time, on the real data."""

CALIBRATION_LEAST = 3
_CALIBRATION_HORIZON = 1_000_000


def seconds_per_step(config: TrainConfig, prepared: Prepared, threads: int, display: Display) -> tuple[float, float]:
    """Time of one update, and the time it took to find out; by real updates that are then thrown away, so that the
    run itself starts from its first step with its final schedule."""
    began = time.monotonic()
    budget = (config.max_time or 0.0) * CALIBRATION_PART
    move = display.task("measuring the speed")
    settings = engine_settings(config, threads, max_steps=_CALIBRATION_HORIZON)
    engine = _symlm.Engine(settings, prepared.train)
    times: list[float] = []
    try:
        while len(times) < CALIBRATION_STEPS:
            if len(times) >= CALIBRATION_LEAST and time.monotonic() - began > budget:
                break
            engine.run_until(len(times) + 1)
            report = engine.poll(0.1)
            while report is None:
                report = engine.poll(0.1)
            times.append(report.seconds)
            move(len(times), CALIBRATION_STEPS)
    finally:
        engine.close()
    move(CALIBRATION_STEPS, CALIBRATION_STEPS)
    # The first updates touch fresh memory and cold caches.
    return statistics.median(times[len(times) // 3 :]), time.monotonic() - began
