"""An engine for each case, as many at once as memory holds."""

from __future__ import annotations

import math
import time

from .. import _symlm
from ..config.engine import engine_settings
from ..config.train_config import TrainConfig
from ..errors import MemoryPlanError, NanError
from ..system.files import temporary
from ..system.signals import StopSignals
from ..text.corpus import ProgressFactory, Sources
from .cases import Case

WARM_UP_UPDATES = 2
HORIZON = 1_000_000_000
LEARNING_RATE = 1e-4
RANDOM_TOKENS = 2**20
RANDOM_BATCHES = 8
POLL_S = 0.1


def timed_config(config: TrainConfig, vocab_size: int) -> TrainConfig:
    """The training as it is timed: a constant, small learning rate, so that it can continue for ever."""
    return config.with_model(vocab_size=vocab_size, learning_rate=LEARNING_RATE, schedule="constant", warmup_steps=0)


def load_tokens(
    config: TrainConfig, sources: Sources | None, threads: int, progress: ProgressFactory
) -> tuple[_symlm.Shards, int]:
    """The tokens to train on and the size of the vocabulary. Without a text they are random ids."""
    model = config.model
    if sources is not None:
        prepared = sources.prepare(threads, progress)
        return prepared.train, prepared.tokenizer.vocab_size
    tokens = max(RANDOM_TOKENS, RANDOM_BATCHES * config.batch_size * model.seq_len + 1)
    # The map of the file outlives its name.
    with temporary() as folder:
        shards = _symlm.Shards.random(str(folder / "random.ids"), model.vocab_size, tokens, config.seed)
    return shards, model.vocab_size


class Engines:
    """Makes engines when they are asked for and keeps them; under pressure the one that waits longest is closed."""

    def __init__(self, config: TrainConfig, shards: _symlm.Shards, signals: StopSignals) -> None:
        self.config = config
        self.shards = shards
        self.signals = signals
        self.kept: dict[Case, _symlm.Engine] = {}
        """In the order of use, the one that waits longest first."""

    def settings(self, case: Case) -> _symlm.EngineSettings:
        """What the engine of a case is made from."""
        config = self.config.with_model(precision=case.precision)
        return engine_settings(config, case.threads, max_steps=HORIZON, plan_threads=case.plan_threads or 0)

    def get(self, case: Case) -> _symlm.Engine:
        """The engine of a case, warmed up."""
        engine = self.kept.pop(case, None)
        if engine is None:
            engine = self._make(case)
        self.kept[case] = engine
        return engine

    def _make(self, case: Case) -> _symlm.Engine:
        settings = self.settings(case)
        while True:
            try:
                _symlm.check_memory(settings)
                break
            except MemoryPlanError:
                if not self.kept:
                    raise
                self.kept.pop(next(iter(self.kept))).close()
        engine = _symlm.Engine(settings, self.shards, isa=case.isa, prefetch=case.prefetch, barriers=case.barriers)
        try:
            self.advance(engine, WARM_UP_UPDATES)
        except BaseException:
            engine.close()
            raise
        return engine

    def advance(self, engine: _symlm.Engine, updates: int) -> tuple[list[_symlm.StepReport], float]:
        """Do some updates; gives their reports and the time from the call to the last of them, in seconds.

        Raises `Stopped` when a signal has arrived and `NanError` if the numbers are no longer finite.
        """
        reports: list[_symlm.StepReport] = []
        began = time.perf_counter()
        engine.run_until(engine.step + updates)
        while len(reports) < updates:
            report = engine.poll(POLL_S)
            self.signals.check()
            if report is None:
                continue
            if not (math.isfinite(report.loss) and math.isfinite(report.grad_norm)):
                raise NanError(f"the loss is {report.loss}, the gradient norm {report.grad_norm}", "try another text")
            reports.append(report)
        return reports, time.perf_counter() - began

    def release(self, case: Case) -> None:
        """Close the engine of a case if there is one."""
        engine = self.kept.pop(case, None)
        if engine is not None:
            engine.close()

    def close(self) -> None:
        """Close all engines."""
        while self.kept:
            self.kept.popitem()[1].close()
