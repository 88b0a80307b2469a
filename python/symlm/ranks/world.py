"""`World`: the ranks of a run, and the thread `symlm-mpi`, the only one that calls MPI.

The thread polls and sleeps: it takes what the engine lets leave, posts what is to arrive, passes messages between the
main threads of the ranks, and says now and then that this rank lives. A rank that is silent for longer than the time
limit, a message of another rank that something failed, an error of MPI: each becomes `failure`, which ends the update
under way and is raised by whatever the main thread does next.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .. import _symlm
from ..errors import RankError, SymlmError, UsageError, UserError
from ..system.calls import allowed_cpus
from ..system.version import version
from .launch import Launch, launched

MOST_RANKS = 12
"""Each rank computes a sector at least."""

_CONTROL, _ALIVE, _BULK, _TRANSFERS = 1, 2, 3, 16
"""Tags of messages; those of transfers of the engine count on from the last."""

_CHUNK = 1 << 28
"""Most bytes of a message: lengths in MPI are 32-bit numbers."""

_BEAT_S = 1.0
_FAST_S, _SLOW_S = 1e-4, 4e-3
"""Sleep between two looks: short after something has moved, then longer and longer."""

_LAST_WORDS_S = 3.0
"""Time for rank 0 to say why all end, before another rank ends it."""

_GRACE_S = 10.0
"""Time that the main thread has to end by itself after a failure."""


@dataclass(frozen=True)
class Hello:
    """What each rank tells the others of itself at the start."""

    host: str
    machine: str
    cpus: tuple[int, ...]
    symlm: str
    contract: int

    @classmethod
    def here(cls) -> Hello:
        """Of this rank."""
        try:
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:  # noqa: PTH123 - read at once
                machine = file.read().strip()
        except OSError:
            machine = socket.gethostname()
        cpus = allowed_cpus() or tuple(range(os.cpu_count() or 1))
        return cls(socket.gethostname(), machine, cpus, version(), _symlm.CONTRACT_VERSION)


@dataclass
class _Move:
    """Bytes that the main thread wants moved, and its event."""

    peer: int
    incoming: bool
    address: int
    bytes: int
    left: int = 0
    done: threading.Event = field(default_factory=threading.Event)


@dataclass
class Traffic:
    """What has been given to MPI for the engine: bytes and updates."""

    bytes: int = 0
    updates: int = 0


class World:
    """All ranks of a run, seen from one of them. `timeout` is the longest silence of a rank, in seconds."""

    flip: Callable[[int, int], int | None] | None = None
    """For tests: called with update and owner of new values that have arrived; the bit to flip in them, or None."""

    def __init__(self, timeout: float) -> None:
        self.rank = 0
        self.size = 1
        self.library = ""
        self.hellos: list[Hello] = []
        self.failure: SymlmError | None = None
        self.traffic = Traffic()
        self._timeout = timeout
        self._inbox: queue.Queue[tuple[int, Any]] = queue.Queue()
        self._outbox: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
        self._moves: queue.SimpleQueue[_Move] = queue.SimpleQueue()
        self._exchange: _symlm.Exchange | None = None
        self._attached = threading.Event()
        self._joined = threading.Event()
        self._ending = threading.Event()
        self._aborting = threading.Event()
        self._thread = threading.Thread(target=self._main, name="symlm-mpi", daemon=True)

    # --- for the main thread --------------------------------------------------------------------------------------

    @classmethod
    def join(cls, timeout: float) -> World | None:
        """Meet the other ranks; None without any. UserError without mpi4py; RankError when ranks do not come."""
        world = cls(timeout)
        world._thread.start()
        if not world._joined.wait(timeout):
            raise RankError(
                f"the other ranks have not started within {timeout:g} s", "look at their hosts, or raise --rank-timeout"
            )
        world.check()
        if world.size == 1:
            world.leave()
            return None
        world._compare()
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

    def name(self, rank: int) -> str:
        """A rank with its host."""
        return f"rank {rank} on {self.hellos[rank].host}" if rank < len(self.hellos) else f"rank {rank}"

    @property
    def sharing(self) -> int:
        """Ranks that may use the same processors as this one, itself included."""
        here = self.hellos[self.rank]
        return sum((hello.machine, hello.cpus) == (here.machine, here.cpus) for hello in self.hellos)

    def check(self) -> None:
        """Raise what has failed, if anything has."""
        if self.failure is not None:
            raise self.failure

    def send(self, rank: int, message: Any) -> None:
        """A message for the main thread of a rank; returns at once."""
        self._outbox.put((rank, pickle.dumps(message)))

    def tell(self, message: Any) -> None:
        """A message for all others."""
        for rank in range(self.size):
            if rank != self.rank:
                self.send(rank, message)

    def receive(self, timeout: float) -> tuple[int, Any] | None:
        """The next message with its sender, or None after `timeout`; raises what has failed."""
        self.check()
        try:
            return self._inbox.get(timeout=timeout) if timeout else self._inbox.get_nowait()
        except queue.Empty:
            self.check()
            return None

    def move(self, parts: Sequence[tuple[int, bool, int, int]]) -> None:
        """Move memory between ranks, and wait. A part: other rank, whether it comes from there, address, bytes.

        Both sides name their parts in the same order.
        """
        moves = [_Move(peer, incoming, address, size) for peer, incoming, address, size in parts if size]
        for move in moves:
            self._moves.put(move)
        for move in moves:
            while not move.done.wait(0.1):
                self.check()

    def attach(self, exchange: _symlm.Exchange) -> None:
        """From now on the transfers of this engine are moved."""
        self._attached.clear()
        self._exchange = exchange
        while not self._attached.wait(0.1):
            self.check()

    def detach(self) -> None:
        """The engine is about to end."""
        self._exchange = None

    def fail(self, error: SymlmError, *, tell: bool = True) -> None:
        """Nothing can continue: the update under way ends, and so do the other ranks, who are told why."""
        if self.failure is not None:
            return
        self.failure = error
        if tell:
            self.tell({"do": "fail", "message": error.message, "code": error.exit_code})
        exchange = self._exchange
        if exchange is not None:
            exchange.fail(error.message)

    def leave(self) -> None:
        """End the thread once all ranks do the same. After a failure nothing is waited for."""
        if self.failure is not None:
            # Time for the news to go out. A launcher may wait for ever for a process that was stopped, unless it is
            # told to end all: when this process has said why it ends.
            time.sleep(min(0.5, self._timeout))
            atexit.register(self._abort)
            return
        self._ending.set()
        self._thread.join(self._timeout)

    def _abort(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        # Rank 0 has the most to say; where it cannot, another one ends all.
        time.sleep(_LAST_WORDS_S if self.rank > 0 else 0.0)
        self._aborting.set()
        self._thread.join(_LAST_WORDS_S)

    # --- the thread -----------------------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            self._start()
        except SymlmError as error:
            self.failure = error
            return
        except Exception as error:  # whatever MPI raises
            self.failure = RankError(f"MPI cannot start: {error}", "symlm doctor says which MPI is there")
            return
        finally:
            self._joined.set()
        try:
            while not (self._ending.is_set() and self._idle()):
                self._turn()
                if self._aborting.is_set() and self.failure is not None:
                    self._mpi.COMM_WORLD.Abort(self.failure.exit_code)
            self._mpi.Finalize()
        except Exception as error:  # as above
            self.fail(RankError(f"{self.name(self.rank)}: MPI failed: {error}"), tell=False)

    def _start(self) -> None:
        launch = launched()
        try:
            import mpi4py

            mpi4py.rc.initialize = mpi4py.rc.finalize = False
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            raise UserError(
                f"mpi4py cannot be used: {error}", "pip install 'symlm[mpi]' and an MPI: see docs/guide.md"
            ) from None
        if not MPI.Is_initialized():
            MPI.Init_thread(MPI.THREAD_SERIALIZED)
        self._mpi = MPI
        self._comm = MPI.COMM_WORLD.Dup()
        self.rank, self.size = self._comm.Get_rank(), self._comm.Get_size()
        self.library = MPI.Get_library_version().splitlines()[0].strip(" \0")
        _check_size(launch, self.size, self.library)
        self.hellos = self._comm.allgather(Hello.here())
        self._requests: list[Any] = []
        self._what: list[Callable[[], None]] = []
        self._plan: list[_symlm.Transfer] = []
        self._buffers: list[Any] = []
        self._known: _symlm.Exchange | None = None
        self._pause = _FAST_S
        now = time.monotonic()
        self._beat, self._heard = now, [now] * self.size
        self._looked = now

    def _idle(self) -> bool:
        return not self._requests and self._outbox.empty() and self._moves.empty()

    def _turn(self) -> None:
        if self._exchange is not self._known:
            self._learn_plan()
        exchange, moved = self._known, False
        if exchange is None:
            time.sleep(self._pause)
        else:
            moved = self._engine_turn(exchange.wait(self._pause))
        moved |= self._main_turn()
        moved |= self._complete()
        moved |= self._listen()
        self._watch()
        self._pause = _FAST_S if moved else min(self._pause * 1.25, _SLOW_S)

    def _learn_plan(self) -> None:
        exchange = self._exchange
        self._plan = [] if exchange is None else exchange.plan()
        self._buffers = [self._buffer(transfer.address, transfer.bytes) for transfer in self._plan]
        self._known = exchange
        self._attached.set()

    def _buffer(self, address: int, size: int) -> Any:
        return [self._mpi.buffer.fromaddress(address, size), self._mpi.BYTE]

    def _post(self, request: Any, what: Callable[[], None]) -> None:
        self._requests.append(request)
        self._what.append(what)

    def _engine_turn(self, out: _symlm.Outgoing) -> bool:
        exchange = self._known
        assert exchange is not None
        for _ in range(out.begun):
            self.traffic.updates += 1
            for index, transfer in enumerate(self._plan):
                if transfer.incoming:
                    request = self._comm.Irecv(self._buffers[index], transfer.peer, _TRANSFERS + transfer.tag)
                    self._post(request, lambda index=index: self._arrived(exchange, index))  # type: ignore[misc]
        for index in out.leaving:
            transfer = self._plan[index]
            self.traffic.bytes += transfer.bytes
            request = self._comm.Isend(self._buffers[index], transfer.peer, _TRANSFERS + transfer.tag)
            self._post(request, lambda index=index: exchange.done([index]))  # type: ignore[misc]
        return bool(out.begun or out.leaving)

    def _arrived(self, exchange: _symlm.Exchange, index: int) -> None:
        owner = self._plan[index].values_of
        if self.flip is not None and owner is not None:
            bit = self.flip(self.traffic.updates, owner)
            if bit is not None:
                self._mpi.buffer.fromaddress(self._plan[index].address + bit // 8, 1)[0] ^= 1 << bit % 8
        exchange.done([index])

    def _main_turn(self) -> bool:
        """What the main thread wants sent and moved."""
        moved = False
        while not self._outbox.empty():
            rank, message = self._outbox.get()
            # The request keeps the bytes.
            self._post(self._comm.Isend([message, self._mpi.BYTE], rank, _CONTROL), lambda: None)
            moved = True
        while not self._moves.empty():
            move = self._moves.get()
            starts = range(0, move.bytes, _CHUNK)
            move.left = len(starts)
            for start in starts:
                buffer = self._buffer(move.address + start, min(_CHUNK, move.bytes - start))
                post = self._comm.Irecv if move.incoming else self._comm.Isend
                self._post(post(buffer, move.peer, _BULK), lambda move=move: _count_down(move))  # type: ignore[misc]
            moved = True
        return moved

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
        """Messages of other ranks: control, and signs of life."""
        status, heard = self._mpi.Status(), False
        for tag in (_CONTROL, _ALIVE):
            while self._comm.Iprobe(self._mpi.ANY_SOURCE, tag, status):
                source = status.Get_source()
                message = bytearray(status.Get_count(self._mpi.BYTE))
                self._comm.Recv([message, self._mpi.BYTE], source, tag)
                self._heard[source] = time.monotonic()
                if tag == _CONTROL:
                    heard = True
                    self._take(source, pickle.loads(message))
        return heard

    def _take(self, source: int, message: Any) -> None:
        if message.get("do") == "fail":
            self.fail(RankError(message["message"]), tell=self.rank == 0)
        else:
            self._inbox.put((source, message))

    def _watch(self) -> None:
        """Say that this rank lives, and look whether the others do."""
        now = time.monotonic()
        # A process that was stopped has not heard anything because it did not listen.
        stopped = now - self._looked > self._timeout / 2
        self._looked = now
        if stopped:
            self._heard = [now] * self.size
        beat = min(_BEAT_S, self._timeout / 5)
        if now - self._beat >= beat:
            self._beat = now
            for rank in range(self.size):
                if rank != self.rank:
                    self._post(self._comm.Isend([b"", self._mpi.BYTE], rank, _ALIVE), lambda: None)
        if self.failure is not None:
            if now - self._heard[self.rank] > _GRACE_S:
                self._mpi.COMM_WORLD.Abort(self.failure.exit_code)
            return
        self._heard[self.rank] = now
        silent = [rank for rank, heard in enumerate(self._heard) if now - heard > self._timeout]
        if silent:
            self.fail(
                RankError(
                    f"{self.name(silent[0])} has been silent for {self._timeout:g} s",
                    "look at that host, then resume with --resume auto, on any number of ranks",
                )
            )


def _count_down(move: _Move) -> None:
    move.left -= 1
    if move.left == 0:
        move.done.set()


def _check_size(launch: Launch | None, size: int, library: str) -> None:
    if launch is not None and size == 1:
        raise UserError(
            f"{launch.launcher} has started {launch.size} processes, but mpi4py's MPI ({library}) sees one",
            "use the mpirun of that MPI, or the mpi4py that belongs to this one",
        )
    if size > MOST_RANKS:
        raise UsageError(f"found {size} ranks, expected 1 to {MOST_RANKS}", f"mpirun -n {MOST_RANKS} at most")
