"""`Carrier`: what the thread `symlm-mpi` does for a run. Nothing else calls MPI.

The thread polls and sleeps: it takes what the engine lets leave, posts what is to arrive, passes messages between the
main threads of the ranks, and says now and then that this rank lives. No call of MPI waits for another rank once all
have met. A rank that is silent for longer than the time limit, a message of another rank that something failed, an
error of MPI: each becomes `failure`, which ends the update under way and is raised by whatever the main thread does
next.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .. import _symlm
from ..errors import RankError, SymlmError, UserError
from .division import MOST_RANKS
from .hello import Hello
from .launch import Launch, launched, too_many
from .library import library
from .pace import Pace
from .watch import Watch
from .wire import Letter, decode, encode

_CONTROL, _ALIVE, _BULK, _TRANSFERS = 1, 2, 3, 16
"""Tags of messages; those of transfers of the engine count on from the last."""

_CHUNK = 1 << 28
"""Most bytes of a message: lengths in MPI are 32-bit numbers."""

_LOST_S = 4e-3
"""Sleep between two looks after an error of MPI."""

OUTPUT_S = 0.3
"""Time for the launcher to pass on what this rank has said, before it is told to end all."""


@dataclass
class Move:
    """Bytes that the main thread wants moved, and its event. `keeps` is what has to live as long as the bytes."""

    peer: int
    incoming: bool
    address: int
    bytes: int
    keeps: object
    left: int = 0
    done: threading.Event = field(default_factory=threading.Event)


@dataclass
class Traffic:
    """What has been given to MPI for the engine: bytes, updates, and the seconds in which some of it was on its way."""

    bytes: int = 0
    updates: int = 0
    seconds: float = 0.0


class Carrier:
    """The side of the thread. What the main thread may touch is above the line."""

    def __init__(self, timeout: float, asked: Mapping[str, Any]) -> None:
        self.rank = 0
        self.size = 1
        self.library = ""
        self.hellos: list[Hello] = []
        self.failure: SymlmError | None = None
        self.traffic = Traffic()
        self.flip: Callable[[int, int], int | None] | None = None
        self.inbox: queue.Queue[Letter] = queue.Queue()
        self.outbox: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
        self.moves: queue.SimpleQueue[Move] = queue.SimpleQueue()
        self.exchange: _symlm.Exchange | None = None
        self.joined, self.attached, self.left = threading.Event(), threading.Event(), threading.Event()
        self.told = threading.Event()
        """After a failure: the news has gone out."""
        self.leaving, self.aborting = threading.Event(), threading.Event()
        self.saving: Callable[[], bool] = lambda: False
        """Whether a save is under way, which no failure of another rank may cut off."""
        self.watch = Watch(0, 1, timeout, 0.0)
        self._timeout = timeout
        self._asked = asked

    def name(self, rank: int) -> str:
        """A rank with its host."""
        return f"rank {rank} on {self.hellos[rank].host}" if rank < len(self.hellos) else f"rank {rank}"

    def send(self, rank: int, said: dict[str, Any], payload: bytes | bytearray = b"") -> None:
        """A message for the main thread of a rank; returns at once."""
        self.outbox.put((rank, encode(said, payload)))

    def fail(self, error: SymlmError, *, tell: bool = True) -> None:
        """Nothing can continue: the update under way ends, and so do the other ranks, who are told why."""
        if self.failure is not None:
            return
        if tell:
            for rank in range(self.size):
                if rank != self.rank:
                    self.send(rank, {"do": "fail", "message": error.message, "hint": error.hint})
        # The thread says that the news is out once it has seen this, so not before there is news.
        self.failure = error
        exchange = self.exchange
        if exchange is not None:
            exchange.fail(error.message)

    # --- the thread -----------------------------------------------------------------------------------------------

    def main(self) -> None:
        """The life of a run on the thread."""
        try:
            self._start()
        except SymlmError as error:
            self.failure = error
        except Exception as error:  # whatever MPI raises
            self.failure = RankError(f"MPI cannot start: {error}", "symlm doctor says which MPI is there")
        finally:
            self.joined.set()
        if self.failure is None:
            try:
                while not self._has_left():
                    self._turn()
                self._comm.Free()
            except Exception as error:  # as above
                self._lose(error)
        self.left.set()

    def _lose(self, error: Exception) -> None:
        """After an error of MPI nobody knows what still goes: try to tell the others, and wait for the end of all."""
        self.fail(
            RankError(
                f"MPI reports an error on {self.name(self.rank)} (another rank may have gone): {error}",
                "look at the hosts and their network, then resume with --resume auto, on any number of ranks",
            )
        )
        while True:
            for part in (self._main_turn, self._complete, self._listen, self._watch, self._end):
                with contextlib.suppress(Exception):
                    part()
            time.sleep(_LOST_S)

    def _start(self) -> None:
        launch = launched()
        self._mpi = library().start()
        self._comm = self._mpi.COMM_WORLD.Dup()
        self.rank, self.size = self._comm.Get_rank(), self._comm.Get_size()
        self.library = self._mpi.Get_library_version().splitlines()[0].strip(" \0")
        _check_size(launch, self.size, self.library)
        self.hellos = [
            Hello.from_bytes(found) for found in self._all_gather(Hello.here(self._asked, self._timeout).to_bytes())
        ]
        self._timeout = self.hellos[0].timeout
        self._requests: list[Any] = []
        self._what: list[Callable[[], None]] = []
        self._plan: list[_symlm.Transfer] = []
        self._buffers: list[Any] = []
        self._known: _symlm.Exchange | None = None
        self._sleep, self._news = 0.0, 0
        self._reading: set[int] = set()
        self._bye: set[int] = set()
        self._said_bye = False
        self.watch = Watch(self.rank, self.size, self._timeout, time.monotonic())
        near = self._comm.Split_type(self._mpi.COMM_TYPE_SHARED)
        self._pace = Pace(self.hellos, self.rank, near.Get_size())
        near.Free()

    def _all_gather(self, own: bytes) -> list[bytes]:
        """The bytes of all ranks. At the start alone: it waits for all of them."""
        lengths, byte = bytearray(8 * self.size), self._mpi.BYTE
        self._comm.Allgather([len(own).to_bytes(8, "little"), byte], [lengths, byte])
        each = [int.from_bytes(lengths[8 * rank : 8 * rank + 8], "little") for rank in range(self.size)]
        longest = max(each)
        found = bytearray(longest * self.size)
        self._comm.Allgather([own.ljust(longest), byte], [found, byte])
        return [bytes(found[longest * rank :][:length]) for rank, length in enumerate(each)]

    def _has_left(self) -> bool:
        """Whether this rank may go: all others want to, and nothing is on its way. After a failure it stays, to end
        with all others at once."""
        if not self.leaving.is_set() or self.failure is not None:
            return False
        others = set(range(self.size)) - {self.rank}
        if not self._said_bye and self._idle():
            self._said_bye = True
            for rank in others:
                self.send(rank, {"do": "bye"})
        # Whoever has said so sends nothing more, so that nothing is left for whoever uses this way next.
        return self._said_bye and self._bye == others and not self._listen() and self._idle()

    def _idle(self) -> bool:
        return not self._requests and self.outbox.empty() and self.moves.empty()

    def _turn(self) -> None:
        if self.exchange is not self._known:
            self._learn_plan()
        exchange, moved = self._known, False
        flying = self._pace.flying > 0
        if exchange is None:
            time.sleep(self._sleep)
        else:
            moved = self._engine_turn(exchange, exchange.wait(self._sleep))
        moved |= self._main_turn()
        moved |= self._complete()
        moved |= self._listen()
        self._watch(flying=flying)
        self._end()
        self._sleep = self._pace.sleep(moved=moved)

    def _learn_plan(self) -> None:
        exchange = self.exchange
        self._plan = [] if exchange is None else exchange.plan()
        self._buffers = [self._buffer(transfer.address, transfer.bytes) for transfer in self._plan]
        self._known = exchange
        self.attached.set()

    def _buffer(self, address: int, size: int) -> Any:
        return [self._mpi.buffer.fromaddress(address, size), self._mpi.BYTE]

    def _post(self, request: Any, what: Callable[[], None]) -> None:
        self._requests.append(request)
        self._what.append(what)

    def _engine_turn(self, exchange: _symlm.Exchange, out: _symlm.Outgoing) -> bool:
        for _ in range(out.begun):
            self.traffic.updates += 1
            incoming = sum(transfer.incoming for transfer in self._plan)
            self._pace.begin(incoming, sum(transfer.sums and not transfer.incoming for transfer in self._plan))
            for index, transfer in enumerate(self._plan):
                if transfer.incoming:
                    request = self._comm.Irecv(self._buffers[index], transfer.peer, _TRANSFERS + transfer.tag)
                    self._post(request, self._arrived(exchange, index, transfer))
        for index in out.leaving:
            transfer = self._plan[index]
            self.traffic.bytes += transfer.bytes
            self._pace.leave(sums=transfer.sums)
            request = self._comm.Isend(self._buffers[index], transfer.peer, _TRANSFERS + transfer.tag)
            self._post(request, self._left_for(exchange, index))
        return bool(out.begun or out.leaving)

    # These hold the exchange, and with it the memory: a transfer may end when its engine has been closed.

    def _arrived(self, exchange: _symlm.Exchange, index: int, transfer: _symlm.Transfer) -> Callable[[], None]:
        update = self.traffic.updates

        def done() -> None:
            self._pace.arrived()
            if self.flip is not None and transfer.values_of is not None:
                bit = self.flip(update, transfer.values_of)
                if bit is not None:
                    self._mpi.buffer.fromaddress(transfer.address + bit // 8, 1)[0] ^= 1 << bit % 8
            exchange.done([index])

        return done

    def _left_for(self, exchange: _symlm.Exchange, index: int) -> Callable[[], None]:
        def done() -> None:
            self._pace.left()
            exchange.done([index])

        return done

    def _main_turn(self) -> bool:
        """What the main thread wants sent and moved."""
        moved = False
        while not self.outbox.empty():
            rank, message = self.outbox.get()
            # The request keeps the bytes.
            self._post(self._comm.Isend([message, self._mpi.BYTE], rank, _CONTROL), self._sent)
            self._news += 1
            moved = True
        while not self.moves.empty():
            move = self.moves.get()
            starts = range(0, move.bytes, _CHUNK)
            move.left = len(starts)
            for start in starts:
                buffer = self._buffer(move.address + start, min(_CHUNK, move.bytes - start))
                post = self._comm.Irecv if move.incoming else self._comm.Isend
                self._post(post(buffer, move.peer, _BULK), lambda move=move: _count_down(move))  # type: ignore[misc]
            moved = True
        return moved

    def _sent(self) -> None:
        self._news -= 1

    def _complete(self) -> bool:
        if not self._requests:
            return False
        finished = self._mpi.Request.Testsome(self._requests)
        if not finished:
            return False
        ended = set(finished)
        what = [self._what[index] for index in finished]
        self._requests = [r for index, r in enumerate(self._requests) if index not in ended]
        self._what = [w for index, w in enumerate(self._what) if index not in ended]
        for call in what:
            call()
        return True

    def _listen(self) -> bool:
        """Begin to read what other ranks have to say, one message of each at a time, and hear signs of life."""
        heard, status = False, self._mpi.Status()
        while (sign := self._comm.Improbe(self._mpi.ANY_SOURCE, _ALIVE, status)) is not None:
            self.watch.hear(status.Get_source(), time.monotonic())
            self._post(sign.Irecv([bytearray(0), self._mpi.BYTE]), lambda: None)
        for source in range(self.size):
            if source == self.rank or source in self._reading:
                continue
            found = self._comm.Improbe(source, _CONTROL, status)
            if found is not None:
                heard = True
                data = bytearray(status.Get_count(self._mpi.BYTE))
                self._reading.add(source)
                self._post(found.Irecv([data, self._mpi.BYTE]), self._read(source, data))
        return heard

    def _read(self, source: int, data: bytearray) -> Callable[[], None]:
        def done() -> None:
            self._reading.discard(source)
            self.watch.hear(source, time.monotonic())
            try:
                self._take(decode(source, data))
            except RankError as error:
                self.fail(error)

        return done

    def _take(self, letter: Letter) -> None:
        if letter.do == "bye":
            self._bye.add(letter.source)
        elif letter.do == "done":
            self.watch.may_end.set()
        elif letter.do == "fail":
            self.fail(RankError(str(letter.said.get("message")), letter.said.get("hint")), tell=self.rank == 0)
        else:
            self.inbox.put(letter)

    def _watch(self, *, flying: bool = False) -> None:
        """Say that this rank lives, and look whether the others do. Messages were `flying` since the look before."""
        now, others = time.monotonic(), set(range(self.size)) - {self.rank}
        passed = self.watch.look(now)
        if flying:
            self.traffic.seconds += passed
        if not self._said_bye and self.watch.beat(now):
            for rank in others:
                self._post(self._comm.Isend([b"", self._mpi.BYTE], rank, _ALIVE), lambda: None)
        error = None if self.failure is not None else self.watch.silence(now, self._bye, self.name)
        if error is not None:
            self.fail(error)

    def _end(self) -> None:
        """After a failure: end all when the main thread asks for it, or does not end by itself. (A program that has
        caught the error may do something else; it ends with the others when it ends.)"""
        if self.failure is None:
            return
        if self.outbox.empty() and not self._news:
            self.told.set()
        overdue = self.watch.overdue(time.monotonic(), saving=self.saving(), leaving=self.leaving.is_set())
        if overdue:
            say(self.failure)
            time.sleep(OUTPUT_S)
        if overdue or self.aborting.is_set():
            self._mpi.COMM_WORLD.Abort(self.failure.exit_code)


def say(error: SymlmError) -> None:
    """An error on standard error, where nobody else can say it any more."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"error: {error.message}\n" + (f"hint: {error.hint}\n" if error.hint else ""))
        sys.stderr.flush()


def _count_down(move: Move) -> None:
    move.left -= 1
    if move.left == 0:
        move.done.set()


def _check_size(launch: Launch | None, size: int, library: str) -> None:
    if launch is not None and size == 1:
        raise UserError(
            f"{launch.launcher} has started {launch.size} processes, but mpi4py's MPI ({library}) sees one",
            "use the mpirun of that MPI, or the mpi4py that belongs to this one; SYMLM_MPI=off if each is to run alone",
        )
    if size > MOST_RANKS:
        raise too_many(size)
