"""From the session of rank 0 to engines on all ranks: who reads what text, and whether it is the same."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from .. import _symlm
from ..chat.template import ChatTemplate
from ..config.engine import made_from, settings_of
from ..config.train_config import TrainConfig
from ..errors import Interrupted, UserError
from ..layout import TOKENIZER
from ..model.tokenizer import load_tokenizer
from ..system.files import temporary
from ..system.machine import resolve_threads
from ..system.signals import StopSignals
from ..text.conversations import ChatSettings
from ..text.corpus import Prepared, Sources, ensure_cache_dir
from . import shard
from .cross_check import Checker
from .digest import differs, digest
from .engine import RankedEngine
from .failures import error_of
from .wire import Letter
from .world import World

_LOOK_S = 0.1


@dataclass(frozen=True)
class Opening:
    """What the other ranks need for their engines."""

    config: TrainConfig
    settings: dict[str, Any]
    tokenizer: bytes
    shard: shard.Shard | None
    """The encoded text, where it comes from rank 0."""
    chat: ChatTemplate | None
    """What writes conversations out: that of rank 0, whatever files and models this host has."""

    def tell(self, world: World) -> None:
        """To all other ranks."""
        travels = None if self.shard is None else dataclasses.asdict(self.shard)
        chat = None if self.chat is None else {"text": self.chat.text, **self.chat.record()}
        said = {"config": self.config.values(), "settings": self.settings, "shard": travels, "chat": chat}
        world.tell({"do": "open", **said}, self.tokenizer)

    @classmethod
    def of(cls, letter: Letter) -> Opening:
        """As rank 0 has told it."""
        travels, chat = letter.said["shard"], letter.said["chat"]
        found = None if travels is None else shard.Shard(**travels)
        template = None if chat is None else ChatTemplate.of_record(chat["text"], chat["template"], chat)
        return cls(config_of(letter.said["config"]), letter.said["settings"], letter.payload, found, template)


def config_of(values: dict[str, Any]) -> TrainConfig:
    """A configuration that has travelled."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found[name] = tuple(value) if isinstance(value, list) else value
    return TrainConfig(**found)


def engine_of(
    world: World | None, config: TrainConfig, settings: _symlm.EngineSettings, text: Prepared, signals: StopSignals
) -> _symlm.Engine:
    """The engine of a run: that of this process alone, or that of rank 0 and all others."""
    if world is None:
        return _symlm.Engine(settings, text.train)
    # It has all that the loop asks of an engine.
    return cast("_symlm.Engine", open_ranks(world, config, settings, text, signals))


def open_ranks(
    world: World, config: TrainConfig, settings: _symlm.EngineSettings, text: Prepared, signals: StopSignals
) -> RankedEngine:
    """The engine of rank 0, once all others have theirs. UserError where a host has another text, with its name;
    Interrupted when a signal comes before that."""
    with temporary() as folder:
        text.tokenizer.save(str(folder / TOKENIZER))
        tokenizer = (folder / TOKENIZER).read_bytes()
    travels = shard.Shard.of(text.train) if config.data_from == "rank0" else None
    kept = {**made_from(settings), "sectors_in_flight": settings.sectors_in_flight}
    engine = _symlm.Engine(settings, text.train)
    try:
        Opening(config, kept, tokenizer, travels, text.chat).tell(world)
        expected = identity(text.train, text.tokenizer, engine.exchange())
        waiting = set(world.others)
        while waiting:
            if signals.received is not None:
                raise Interrupted(signals.received)
            letter = world.receive(_LOOK_S)
            if letter is None:
                continue
            if letter.do == "error":
                raise error_of(world, letter.source, letter.said)
            if letter.do == "signal":
                signals.received = letter.said["signum"]
            elif letter.do == "want":
                shard.send(world, letter.source, text.train, letter.said["at"])
            elif letter.do == "ready":
                _compare(world, letter.source, letter.said["identity"], expected)
                waiting.discard(letter.source)
        return RankedEngine(world, engine, signals, Checker({**kept, "threads": settings.threads}, text.train, 0))
    except BaseException:
        engine.close()
        raise


_WEIGHTS = "initial weights"


def identity(train: _symlm.Shards, tokenizer: _symlm.Tokenizer, exchange: _symlm.Exchange) -> dict[str, str]:
    """What has to be the same on all ranks. (What they were started with is compared when they meet.)"""
    return {
        "text (train_sha256)": train.sha256,
        "tokenizer (sha256)": tokenizer.sha256,
        _WEIGHTS: digest(exchange.whole_state()),
    }


def _compare(world: World, rank: int, found: dict[str, str], expected: dict[str, str]) -> None:
    for field, value in expected.items():
        if found.get(field) == value:
            continue
        if field == _WEIGHTS:
            # Each has made them by the same rule.
            raise differs(world, rank, f"its {field}")
        raise UserError(
            f"{world.name(rank)} has another {field}: {found.get(field)}, rank 0 on {world.hellos[0].host} has {value}",
            "give all hosts the same files, or use --data-from rank0",
        )


class Listener(Protocol):
    """A display that shows nothing, and hears what rank 0 says."""

    def receive(self) -> Letter: ...
    def task(self, label: str) -> Any: ...
    def message(self, text: str) -> None: ...
    def warning(self, text: str) -> None: ...


def follow_opening(
    world: World, opening: Opening, own: TrainConfig, listener: Listener
) -> tuple[_symlm.Engine, Checker, dict[str, str]]:
    """The engine of another rank than 0, what computes a sector, and what has to be the same as rank 0's. The text is
    this rank's own copy: at the paths of `own`, which are the settings it was started with, else at those of rank 0."""
    config = dataclasses.replace(opening.config, data=own.data or opening.config.data)
    if config.val_data:
        # Held-out text that lies apart is read by rank 0 alone.
        config = dataclasses.replace(config, val_data=(), val_split=0.0)
    threads, _ = resolve_threads(own.threads, world.sharing)
    with temporary() as folder:
        path = folder / TOKENIZER
        path.write_bytes(opening.tokenizer)
        if opening.shard is None:
            sources = Sources(config, path)
            if opening.chat is not None:
                sources.chat = ChatSettings(opening.chat, config.train_on, config.add_tokens)
            text = sources.prepare(threads, listener)
            train, tokenizer = text.train, text.tokenizer
        else:
            tokenizer = load_tokenizer(path, None, None if config.init_from is None else config.model)
            train = shard.receive(world, opening.shard, Path(ensure_cache_dir()), tokenizer, listener.receive)
    checker = Checker({**opening.settings, "threads": threads}, train, world.rank)
    engine = _symlm.Engine(settings_of({**checker.settings, "ranks": world.size, "rank": world.rank}), train)
    return engine, checker, identity(train, tokenizer, engine.exchange())
