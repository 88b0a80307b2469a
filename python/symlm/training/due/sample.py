"""`--sample-every`: text from the model as it is."""

from __future__ import annotations

from ...errors import MemoryPlanError, NanError
from ...generate.generator import Generator
from ...system.signals import Stopped
from ..nan_guard import NanGuard
from ..running import Running
from .part import is_multiple, next_multiple

SAMPLE_TOKENS = 64


class Sample:
    """Draws a text and writes it down."""

    def __init__(self, running: Running, guard: NanGuard) -> None:
        self._running = running
        self._guard = guard
        self._interval = running.config.sample_every

    def due(self, step: int) -> bool:
        return is_multiple(step, self._interval)

    def next_after(self, step: int) -> int | None:
        return next_multiple(step, self._interval)

    def finish(self) -> None:
        if self._interval:
            self.run()

    def run(self) -> None:
        text = self._draw()
        if text is None:
            return
        running, progress, config = self._running, self._running.progress, self._running.config
        progress.view.sample = config.sample_prompt + text
        running.journal.sample(
            {"step": progress.step, "prompt": config.sample_prompt, "text": text, "seed": config.seed}
        )
        running.journal.event(
            {"event": "sample", "step": progress.step, "tokens": progress.tokens, "text": progress.view.sample}
        )
        running.callbacks.call("on_sample", progress.step, progress.view.sample)

    def _draw(self) -> str | None:
        """A text; None when a signal comes, or when there is no memory for it."""
        running, config = self._running, self._running.config
        # Each holds a copy of the weights: not both at once.
        running.saver.wait()
        pieces: list[str] = []
        try:
            # A text may end with its first token, before anybody looks.
            running.signals.check()
            generator = Generator(running.engine.snapshot(), running.session.text.tokenizer, running.model)
            for piece in generator.stream(
                config.sample_prompt, max_new_tokens=SAMPLE_TOKENS, seed=config.seed, sample_index=running.progress.step
            ):
                running.signals.check()
                pieces.append(piece)
        except Stopped:
            return None
        except MemoryPlanError as error:
            running.display.warning(f"no sample: {error.message}")
            return None
        except NanError as error:
            self._guard.after_check(error.message)
        return "".join(pieces)
