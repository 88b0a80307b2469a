"""`World`: the ranks of a run, seen from the main thread of one of them."""

from __future__ import annotations

import atexit
import contextlib
import queue
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .. import _symlm
from ..config.options import flag_of
from ..errors import Interrupted, RankError, SymlmError, UserError, shown
from ..system.signals import StopSignals
from .carrier import OUTPUT_S, Carrier, Move, Traffic
from .hello import Hello
from .library import library
from .wire import Letter

_LOOK_S = 0.1
_MEETING_S = 5.0
"""Time for the ranks to meet after a signal."""

_NEWS_S = 2.0
"""Most time that the news of a failure takes to go out, where the other side does not take it."""

_LAST_WORDS_S = 3.0
"""Time for rank 0 to say why all end, before another rank ends it."""


class World:
    """All ranks of a run. `timeout` is the longest silence of a rank, in seconds."""

    flip: Callable[[int, int], int | None] | None = None
    """For tests: called with update and owner of new values that have arrived; the bit to flip in them, or None."""

    def __init__(self, timeout: float, asked: Mapping[str, Any]) -> None:
        self.busy = False
        """On rank 0: the others have been asked for updates that are not done."""
        self._timeout = timeout
        self._carrier = Carrier(timeout, asked)

    @classmethod
    def join(cls, timeout: float, asked: Mapping[str, Any], signals: StopSignals) -> World | None:
        """Meet the other ranks; None without any. UserError without mpi4py, or where one has another version, or was
        started with other settings than those in `asked`; RankError when ranks do not come; Interrupted when a signal
        comes first."""
        library().check()
        library().limit = timeout
        world = cls(timeout, asked)
        carrier = world._carrier
        carrier.flip = world.flip
        library().run(carrier.main)
        until, patience = time.monotonic() + timeout, _MEETING_S
        while not carrier.joined.wait(_LOOK_S):
            # Ranks that have met end together; only one that nobody meets goes alone.
            patience -= _LOOK_S if signals.received is not None else 0.0
            if signals.received is not None and patience < 0:
                library().give_up("a signal came before the ranks had met")
                raise Interrupted(signals.received)
            if time.monotonic() > until:
                library().give_up("the other ranks did not start in time")
                raise RankError(
                    f"the other ranks have not started within {timeout:g} s",
                    "look at their hosts, or raise --rank-timeout",
                )
        world.check()
        if world.size == 1:
            world.leave()
            return None
        try:
            world._compare()
        except UserError as error:
            world.leave()
            if world.rank > 0:
                # All find the same, and rank 0 says it.
                raise SystemExit(error.exit_code) from None
            raise
        return world

    def _compare(self) -> None:
        first = self.hellos[0]
        for rank, hello in enumerate(self.hellos):
            for name, found, expected in (
                ("version of symlm", hello.symlm, first.symlm), ("numeric contract", hello.contract, first.contract),
            ):  # fmt: skip
                if found != expected:
                    raise UserError(
                        f"{self.name(rank)} has another {name}: {found}, rank 0 has {expected}",
                        "install the same version on all hosts",
                    )
            for name, expected in first.asked.items():
                if hello.asked.get(name) != expected:
                    raise UserError(
                        f"{self.name(rank)} was started with another {flag_of(name)}: {shown(hello.asked.get(name))}, "
                        f"{self.name(0)} with {shown(expected)}",
                        "start all ranks by the same command; look at the files that it names, and at variables "
                        "SYMLM_* on that host",
                    )

    @property
    def rank(self) -> int:
        """The number of this rank."""
        return self._carrier.rank

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return self._carrier.size

    @property
    def others(self) -> list[int]:
        """All other ranks."""
        return [rank for rank in range(self.size) if rank != self.rank]

    @property
    def hellos(self) -> list[Hello]:
        """What each rank has said of itself."""
        return self._carrier.hellos

    @property
    def failure(self) -> SymlmError | None:
        """What has failed, if anything has."""
        return self._carrier.failure

    @property
    def traffic(self) -> Traffic:
        """What has been given to MPI so far."""
        return self._carrier.traffic

    def name(self, rank: int) -> str:
        """A rank with its host."""
        return self._carrier.name(rank)

    @property
    def sharing(self) -> int:
        """Ranks that may use the same processors as this one, itself included."""
        here = self.hellos[self.rank]
        return sum((hello.machine, hello.cpus) == (here.machine, here.cpus) for hello in self.hellos)

    def check(self) -> None:
        """Raise what has failed, if anything has."""
        if self.failure is not None:
            raise self.failure

    def send(self, rank: int, said: dict[str, Any], payload: bytes | bytearray = b"") -> None:
        """A message for the main thread of a rank, with bytes behind it; returns at once."""
        self._carrier.send(rank, said, payload)

    def tell(self, said: dict[str, Any], payload: bytes | bytearray = b"") -> None:
        """A message for all others."""
        for rank in self.others:
            self.send(rank, said, payload)

    def receive(self, timeout: float) -> Letter | None:
        """The next message, or None after `timeout`; raises what has failed."""
        self.check()
        try:
            return self._carrier.inbox.get(timeout=timeout) if timeout else self._carrier.inbox.get_nowait()
        except queue.Empty:
            self.check()
            return None

    def put_back(self, letter: Letter) -> None:
        """For whoever receives next."""
        self._carrier.inbox.put(letter)

    def move(self, parts: Sequence[tuple[int, bool, _symlm.Memory]], keeps: object) -> None:
        """Move memory between ranks, and wait. A part: other rank, whether it comes from there, and the memory, which
        lives as long as `keeps`. Both sides name their parts in the same order."""
        moves = [Move(peer, incoming, part.address, part.bytes, keeps) for peer, incoming, part in parts if part.bytes]
        for move in moves:
            self._carrier.moves.put(move)
        for move in moves:
            while not move.done.wait(_LOOK_S):
                self.check()

    def attach(self, exchange: _symlm.Exchange) -> None:
        """From now on the transfers of this engine are moved."""
        self._carrier.attached.clear()
        self._carrier.exchange = exchange
        while not self._carrier.attached.wait(_LOOK_S):
            self.check()

    def detach(self) -> None:
        """The engine is about to end."""
        self._carrier.exchange = None

    def guard(self, saving: Callable[[], bool]) -> None:
        """Where a failure comes while `saving` says so, this rank ends when that is done."""
        self._carrier.saving = saving

    def fail(self, error: SymlmError) -> None:
        """Nothing can continue: the update under way ends, and so do the other ranks, who are told why."""
        self._carrier.fail(error)

    def leave(self) -> None:
        """Part from the others once all of them do the same. After a failure nobody is waited for, and the end of this
        process ends all others."""
        self._carrier.leaving.set()
        while self.failure is None and not self._carrier.left.wait(_LOOK_S):
            pass
        if self.failure is not None:
            if self.rank == 0:
                self.tell({"do": "done"})
            self._carrier.told.wait(min(_NEWS_S, self._timeout))
            library().give_up(self.failure.message)
            # A launcher may wait for ever for a process that was stopped, unless it is told to end all: when this
            # process has said why it ends.
            atexit.register(self._abort)

    def _abort(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        # Rank 0 may have a save under way, and has the most to say; where it cannot, another one ends all.
        while self.rank > 0 and not self._carrier.watch.may_end.wait(_LOOK_S):
            pass
        time.sleep(_LAST_WORDS_S if self.rank > 0 else OUTPUT_S)
        self._carrier.aborting.set()
        self._carrier.left.wait(_LAST_WORDS_S)
