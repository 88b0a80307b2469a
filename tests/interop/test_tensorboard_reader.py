"""TensorBoard's own reader on event files of symlm."""

from __future__ import annotations

from pathlib import Path

import pytest

from symlm.display.tensorboard import EventFile

pytestmark = pytest.mark.interop


def test_it_shows_every_step_once(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for begin, end in ((1, 8), (5, 11)):
        # The second file is that of a run resumed from step 4.
        file = EventFile(tmp_path)
        file.start(begin)
        for step in range(begin, end):
            file.scalars(step, {"train/loss": begin + 1 / 8, "train/lr": 1e-3}, 1e9 + step)
        file.close()
    board = reader.EventAccumulator(str(tmp_path), size_guidance={"scalars": 0})
    board.Reload()
    assert board.Tags()["scalars"] == ["train/loss", "train/lr"]
    found = [(event.step, event.value, event.wall_time) for event in board.Scalars("train/loss")]
    assert found == [(step, 1.125 if step < 5 else 5.125, 1e9 + step) for step in range(1, 11)]
