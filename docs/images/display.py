"""Draws display.svg next to this file: the live view of a real, short training, as `symlm train` shows it.

Usage: python docs/images/display.py [STEPS]
"""

from __future__ import annotations

import io
import re
import sys
import tempfile
from contextlib import chdir
from pathlib import Path
from unittest.mock import patch

from rich.console import Console

import symlm
from symlm.display import SafeDisplay
from symlm.display.live import LiveDisplay
from symlm.display.view import View
from symlm.training import trainer

WIDTH = 104
STEPS = 600


class Snapshot(LiveDisplay):
    """The live view, drawn into nothing, that keeps its state at a moment in the middle of the training."""

    def __init__(self, at_step: int) -> None:
        super().__init__(Console(file=io.StringIO(), width=WIDTH, force_terminal=True))
        self._at_step = at_step
        self._messages: list[str] = []
        self.picture: str | None = None

    def message(self, text: str) -> None:
        self._messages.append(text)

    def tick(self, view: View) -> None:
        super().tick(view)
        if self.picture is None and view.step >= self._at_step and view.sample:
            console = Console(file=io.StringIO(), width=WIDTH, force_terminal=True, record=True)
            for text in self._messages:
                console.print(text, highlight=False)
            console.print(self._render())
            picture = console.export_svg(title="symlm train")
            # Fonts of the reader's machine: a picture that loads nothing is shown everywhere.
            self.picture = re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else STEPS
    display = Snapshot(at_step=steps * 2 // 3)
    config = symlm.TrainConfig(
        max_steps=steps, eval_interval=steps // 6, sample_every=steps // 6, sample_prompt="def "
    )  # fmt: skip
    shown = patch.object(trainer, "make_display", lambda progress: SafeDisplay(display))
    with shown, tempfile.TemporaryDirectory() as folder, chdir(folder):
        symlm.Trainer(config).fit()
    if display.picture is None:
        sys.exit("error: the training ended before the picture was taken")
    target = Path(__file__).absolute().with_suffix(".svg")
    target.write_text(display.picture, encoding="utf-8")
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
