"""State that moves outside of updates is compared: two ranks in one process, their memory copied by hand."""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from beside_ranks import MODEL, TRAIN, shards
from symlm import _symlm
from symlm.config.engine import settings_of
from symlm.config.train_config import TrainConfig
from symlm.errors import RankError, SymlmError, UserError
from symlm.ranks import opening
from symlm.ranks.cross_check import Checker
from symlm.ranks.engine import RankedEngine, state_numbers
from symlm.ranks.follower import Follower
from symlm.ranks.spent import Spent
from symlm.ranks.wire import Letter
from symlm.ranks.world import World
from symlm.system.signals import StopSignals

Part = tuple[int, bool, _symlm.Memory]


class Side:
    """A rank's view of two ranks. What it is told lies in `letters`; its parts of a move wait for those of the other
    side."""

    size = 2

    def __init__(self, rank: int) -> None:
        self.rank, self.others = rank, [1 - rank]
        self.letters: deque[Letter] = deque()
        self.parts: list[Part] = []
        self.failure: SymlmError | None = None
        self.busy = False
        self.traffic = SimpleNamespace(seconds=0.0, bytes=0)
        self.hellos = [SimpleNamespace(host="host-1"), SimpleNamespace(host="host-2")]
        self.asked: list[dict[str, Any]] = []
        self.other: Side
        self.follower: Follower
        self.flip = False
        """Whether a bit is damaged on the way."""

    def name(self, rank: int) -> str:
        return f"rank {rank} on host-{rank + 1}"

    def send(self, rank: int, said: dict[str, Any], payload: bytes = b"") -> None:
        self.asked.append(said)
        self.other.letters.append(Letter(self.rank, said, payload))

    def tell(self, said: dict[str, Any], payload: bytes = b"") -> None:
        self.send(1 - self.rank, said, payload)

    def check(self) -> None:
        if self.failure is not None:
            raise self.failure

    def fail(self, error: SymlmError) -> None:
        self.failure = error

    def receive(self, timeout: float) -> Letter | None:
        if self.rank == 0 and not self.letters:
            self.let_follow()
        return self.letters.popleft() if self.letters else None

    def let_follow(self) -> None:
        """The other rank does what it has been told."""
        while self.other.letters:
            self.follower.obey(self.other.letters.popleft())

    def move(self, parts: list[Part], keeps: object) -> None:
        if self.rank == 0:
            self.parts = parts
            self.let_follow()
            return
        for (_, comes, here), (_, goes, there) in zip(parts, self.other.parts, strict=True):
            assert comes != goes and here.bytes == there.bytes
            to, source = (here, there) if comes else (there, here)
            ctypes.memmove(to.address, source.address, to.bytes)
            if self.other.flip and to.bytes:
                ctypes.c_uint8.from_address(to.address + to.bytes - 1).value ^= 1

    def attach(self, exchange: _symlm.Exchange) -> None:
        """Nothing leaves in an update here."""

    detach = check


class Two:
    """The engine of rank 0, and a follower."""

    def __init__(self, tokens: _symlm.Shards) -> None:
        made = {"model": MODEL, "train": TRAIN, "threads": 1, "ranks": 2}
        self.engines = [_symlm.Engine(settings_of({**made, "rank": rank}), tokens) for rank in range(2)]
        self.sides = [Side(0), Side(1)]
        self.sides[0].other, self.sides[1].other = self.sides[1], self.sides[0]
        worlds = [cast(World, side) for side in self.sides]
        follower = Follower(worlds[1], TrainConfig(), StopSignals())
        follower.engine, follower._exchange = self.engines[1], self.engines[1].exchange()
        self.sides[0].follower = follower
        self.ranked = RankedEngine(worlds[0], self.engines[0], StopSignals(), Checker(made, tokens, 0))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> _symlm.Shards:
    return shards(tmp_path_factory.mktemp("state"))


@pytest.fixture
def two(tokens: _symlm.Shards) -> Iterator[Two]:
    made = Two(tokens)
    yield made
    for engine in made.engines:
        engine.exchange().fail("closed")
        engine.close()


def damage(memory: _symlm.Memory) -> None:
    ctypes.c_uint8.from_address(memory.address + memory.bytes // 2).value ^= 16


def test_whole_state_travels_and_agrees(two: Two) -> None:
    damage(two.engines[0].exchange().whole_state()[0])
    two.ranked._share()
    assert two.engines[0].weights_sha256() == two.engines[1].weights_sha256()
    two.ranked.moments_sha256()
    assert two.sides[0].failure is None


@pytest.mark.parametrize("what", ["sent", "gathered"])
def test_a_bit_damaged_on_the_way_is_found_before_anything_is_saved(two: Two, what: str, tmp_path: Path) -> None:
    two.sides[0].flip = True
    expected = {
        "sent": "rank 1 on host-2: the weights and moments that were sent to it are not those of rank 0 on host-1",
        "gathered": "rank 1 on host-2: its moments as they were gathered are not those of rank 0 on host-1",
    }
    with pytest.raises(RankError) as found:
        two.ranked._share() if what == "sent" else two.ranked.save_begin(str(tmp_path))
    assert found.value.message == expected[what]
    assert two.sides[0].failure is found.value
    assert list(tmp_path.iterdir()) == []


def test_weights_that_each_rank_makes_anew_are_compared(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    two.ranked.restart()
    follower = two.sides[0].follower
    monkeypatch.setattr(follower, "engine", SimpleNamespace(restart=lambda: None, close=lambda: None))
    damage(two.engines[1].exchange().whole_state()[0])
    with pytest.raises(RankError, match="rank 1 on host-2: the weights that it begins from are not those of rank 0"):
        two.ranked.restart()


def test_ranks_compare_what_they_are_about_to_train(two: Two, tokens: _symlm.Shards) -> None:
    tokenizer = cast(_symlm.Tokenizer, SimpleNamespace(sha256="abc"))
    world = cast(World, two.sides[0])
    ours, theirs = (opening.identity(tokens, tokenizer, engine.exchange()) for engine in two.engines)
    opening._compare(world, 1, theirs, ours)
    damage(two.engines[1].exchange().whole_state()[0])
    theirs = opening.identity(tokens, tokenizer, two.engines[1].exchange())
    with pytest.raises(RankError, match="rank 1 on host-2: its initial weights are not those of rank 0 on host-1"):
        opening._compare(world, 1, theirs, ours)
    with pytest.raises(UserError, match=r"rank 1 on host-2 has another tokenizer \(sha256\): abd, rank 0 on host-1"):
        opening._compare(world, 1, {**ours, "tokenizer (sha256)": "abd"}, ours)


def test_a_look_at_weights_and_moments_does_not_gather_the_gradient(two: Two) -> None:
    numbers = state_numbers(two.ranked)
    asked = [said.get("what") for said in two.sides[0].asked]
    assert asked == ["moments"]
    assert not any(of.bad_weights or of.bad_moments for of in numbers)
    two.ranked.tensor_numbers()
    asked = [said.get("what") for said in two.sides[0].asked]
    assert asked[-1] == "gradient"


def test_sums_of_time_are_told_as_they_are_taken(two: Two) -> None:
    """What a letter of another kind says is taken while answers are waited for."""
    two.sides[0].letters.append(Letter(1, {"do": "spent", **vars(Spent(1, 2.0, 1.0))}))
    two.ranked.moments_sha256()
    assert two.ranked._table._ranks[1].seconds == 2.0
