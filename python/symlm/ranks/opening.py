"""From the session of rank 0 to engines on all ranks: who reads what text, and whether it is the same."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import _symlm
from ..config.engine import made_from, settings_of
from ..config.train_config import TrainConfig
from ..errors import UserError
from ..layout import TOKENIZER
from ..system.files import temporary, write_atomic
from ..system.machine import resolve_threads
from ..system.signals import StopSignals
from ..text.corpus import Prepared, Sources, ensure_cache_dir
from . import shard
from .engine import RankedEngine, error_of
from .world import World


@dataclass(frozen=True)
class Opening:
    """What the other ranks need for their engines."""

    config: TrainConfig
    settings: dict[str, Any]
    tokenizer: bytes
    shard: shard.Shard | None
    """The encoded text, where it comes from rank 0."""


def open_ranks(
    world: World, config: TrainConfig, settings: _symlm.EngineSettings, text: Prepared, signals: StopSignals
) -> RankedEngine:
    """The engine of rank 0, once all others have theirs. UserError where a host has another text, with its name."""
    with temporary() as folder:
        text.tokenizer.save(str(folder / TOKENIZER))
        tokenizer = (folder / TOKENIZER).read_bytes()
    travels = shard.Shard.of(text.train) if config.data_from == "rank0" else None
    kept = {**made_from(settings), "sectors_in_flight": settings.sectors_in_flight}
    world.tell({"do": "open", "opening": Opening(config, kept, tokenizer, travels)})
    engine = _symlm.Engine(settings, text.train)
    try:
        expected = identity(text.train, text.tokenizer, kept)
        waiting = set(range(1, world.size))
        while waiting:
            received = world.receive(0.1)
            if signals.received is not None or received is None:
                signals.check()
                continue
            rank, message = received
            if message["do"] == "error":
                raise error_of(world, rank, message)
            if message["do"] == "signal":
                signals.received = message["signum"]
            elif message["do"] == "want":
                shard.send(world, rank, text.train)
            elif message["do"] == "ready":
                _compare(world, rank, message["identity"], expected)
                waiting.discard(rank)
        return RankedEngine(world, engine, signals)
    except BaseException:
        engine.close()
        raise


def identity(train: _symlm.Shards, tokenizer: _symlm.Tokenizer, settings: dict[str, Any]) -> dict[str, str]:
    """What has to be the same on all ranks."""
    return {
        "text (train_sha256)": train.sha256,
        "tokenizer (sha256)": tokenizer.sha256,
        "configuration": repr({key: settings[key] for key in ("model", "train")}),
    }


def _compare(world: World, rank: int, found: dict[str, str], expected: dict[str, str]) -> None:
    for field, value in expected.items():
        if found.get(field) != value:
            raise UserError(
                f"{world.name(rank)} has another {field}: {found.get(field)}, rank 0 on {world.hellos[0].host} has "
                f"{value}",
                "give all hosts the same files, or use --data-from rank0",
            )


class Silent:
    """A display that shows nothing: rank 0 speaks for all."""

    def task(self, label: str) -> Any:
        """A bar that nobody sees."""
        return lambda done, total: None

    def message(self, text: str) -> None:
        """Says nothing."""

    def warning(self, text: str) -> None:
        """Says nothing."""


def follow_opening(world: World, opening: Opening, data: tuple[str, ...]) -> _symlm.Engine:
    """The engine of another rank than 0, from its own copy of the text: at `data`, else at the paths of rank 0."""
    config = dataclasses.replace(opening.config, data=data or opening.config.data)
    if config.val_data:
        # Held-out text that lies apart is read by rank 0 alone.
        config = dataclasses.replace(config, val_data=(), val_split=0.0)
    threads, _ = resolve_threads(config.threads, world.sharing)
    with temporary() as folder:
        path = folder / TOKENIZER
        write_atomic(path, opening.tokenizer.decode("utf-8"))
        if opening.shard is None:
            text = Sources(config, path).prepare(threads, Silent())
            train, tokenizer = text.train, text.tokenizer
        else:
            train = shard.receive(world, opening.shard, Path(ensure_cache_dir()))
            tokenizer = _symlm.Tokenizer.from_file(str(path))
    world.send(0, {"do": "ready", "identity": identity(train, tokenizer, opening.settings)})
    made = {**opening.settings, "threads": threads, "ranks": world.size, "rank": world.rank}
    return _symlm.Engine(settings_of(made), train)
