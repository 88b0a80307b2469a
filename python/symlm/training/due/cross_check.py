"""`--cross-check`: ranks compute a sector twice and compare, which finds a processor that computes wrongly."""

from __future__ import annotations

from ...errors import InternalError
from ...ranks.engine import RankedEngine
from ..running import Running
from .part import is_multiple, next_multiple


class CrossCheck:
    """Asks the ranks for it; nothing where there is one process."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._interval = 0 if running.session.world is None else running.config.cross_check

    def due(self, step: int) -> bool:
        return is_multiple(step, self._interval)

    def next_after(self, step: int) -> int | None:
        return next_multiple(step, self._interval)

    def run(self) -> None:
        # The other engine is told from its interface alone everywhere else.
        engine: object = self._running.engine
        if not isinstance(engine, RankedEngine):
            raise InternalError("a check across ranks needs the engine of several ranks")
        engine.cross_check(self._running.progress.step // self._interval - 1)

    def finish(self) -> None:
        """The weights of the last update are not trained on."""
