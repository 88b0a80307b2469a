"""How a rank ends after a failure: what is said, what waits for a save, which exit code. MPI is pretended here."""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from symlm.errors import InternalError, Interrupted, RankError, SymlmError, UserError, exit_code_of
from symlm.ranks import carrier as carriers
from symlm.ranks import failures, joining, library, world
from symlm.ranks.carrier import Carrier
from symlm.ranks.hearing import Hearing
from symlm.ranks.hello import Hello
from symlm.ranks.pace import Pace
from symlm.ranks.watch import GRACE_S, Watch
from symlm.ranks.wire import Letter, decode
from symlm.ranks.world import World
from symlm.system.signals import StopSignals
from symlm.training.saving import Saved, Saver


class Aborted(BaseException):
    """What MPI_Abort does to a process."""


class Wire:
    """The calls of MPI that a carrier makes, without any other rank."""

    BYTE, ANY_SOURCE = object(), -1

    def __init__(self) -> None:
        self.sent: list[tuple[int, Letter]] = []
        self.COMM_WORLD = SimpleNamespace(Abort=self._abort)
        self.Request = SimpleNamespace(Testsome=lambda requests: list(range(len(requests))))
        self.code: int | None = None

    def Status(self) -> None:
        return None

    def Improbe(self, *_: object) -> None:
        return None

    def Isend(self, buffer: list[Any], rank: int, tag: int) -> object:
        if buffer[0]:
            self.sent.append((rank, decode(0, buffer[0])))
        return object()

    def _abort(self, code: int) -> None:
        self.code = code
        raise Aborted


def carried(rank: int = 0, size: int = 2) -> tuple[Carrier, Wire]:
    """The side of the thread after the ranks have met."""
    carrier, wire = Carrier(15.0, {}), Wire()
    carrier.rank, carrier.size = rank, size
    carrier.hellos = [Hello(f"host-{number + 1}", "", (), "", 0, {}, 15.0) for number in range(size)]
    begun: dict[str, Any] = {
        "_mpi": wire, "_comm": wire, "_requests": [], "_what": [], "_news": 0, "_reading": set(),
        "_bye": set(), "_said_bye": False, "_known": None, "_sleep": 0.0,
        "_pace": Pace(carrier.hellos, rank, size), "watch": Watch(rank, size, 15.0, 0.0),
    }  # fmt: skip
    vars(carrier).update(begun)
    return carrier, wire


class Clock:
    """The time of a carrier."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(carriers, "time", SimpleNamespace(monotonic=lambda: self.now, sleep=lambda _: None))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_who_ends_all_says_why(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    carrier, wire = carried()
    carrier.fail(RankError("rank 1 on host-2 has been silent for 15 s", "look at that host"))
    carrier._end()
    clock.now = GRACE_S + 1
    with pytest.raises(Aborted):
        carrier._end()
    assert wire.code == 7
    assert capsys.readouterr().err == (
        "error: rank 1 on host-2 has been silent for 15 s\nhint: look at that host\n"
    )  # fmt: skip


def test_a_save_under_way_is_not_cut_off(clock: Clock) -> None:
    carrier, wire = carried()
    saving = [True]
    carrier.saving = lambda: saving[0]
    carrier.fail(RankError("rank 1 has gone"))
    for _ in range(9):
        carrier._end()
        clock.now += GRACE_S
    saving[0] = False
    assert wire.code is None
    clock.now += GRACE_S
    with pytest.raises(Aborted):
        carrier._end()


def test_another_rank_waits_for_rank_0(clock: Clock) -> None:
    carrier, wire = carried(rank=1)
    carrier.fail(RankError("rank 2 has gone"))
    for _ in range(9):
        carrier.watch.hear(0, clock.now)
        carrier._end()
        clock.now += GRACE_S
    assert wire.code is None
    carrier._take(Letter(0, {"do": "done"}))
    with pytest.raises(Aborted):
        carrier._end()


def test_the_end_of_another_rank_waits_for_rank_0(monkeypatch: pytest.MonkeyPatch) -> None:
    carrier, _ = carried(rank=1)
    joined = World(15.0, {})
    joined._carrier = carrier
    order: list[str] = []
    monkeypatch.setattr(world, "_LOOK_S", 0.001)
    monkeypatch.setattr("symlm.ranks.world.time.sleep", lambda _: order.append("last words"))
    wait = carrier.watch.may_end.wait

    def told(timeout: float | None = None) -> bool:
        order.append("wait")
        if len(order) == 3:
            carrier.watch.may_end.set()
        return wait(timeout)

    monkeypatch.setattr(carrier.watch.may_end, "wait", told)
    carrier.left.set()
    joined._abort()
    assert order == ["wait", "wait", "wait", "last words"]
    assert carrier.aborting.is_set()


def test_an_error_of_mpi_is_told_and_the_end_is_still_served(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    carrier, wire = carried(rank=1, size=3)
    monkeypatch.setattr(carrier, "_start", lambda: None)
    turns = []

    def broken() -> None:
        turns.append(1)
        carrier.aborting.set()
        raise OSError("MPI_ERR_OTHER: connection reset")

    monkeypatch.setattr(carrier, "_turn", broken)
    monkeypatch.setattr(carrier, "_listen", broken)
    with pytest.raises(Aborted):
        carrier.main()
    assert carrier.failure is not None
    assert carrier.failure.message.startswith(
        "MPI reports an error on rank 1 on host-2 (another rank may have gone): MPI_ERR_OTHER"
    )
    assert [(rank, letter.do) for rank, letter in wire.sent] == [(0, "fail"), (2, "fail")]
    assert carrier.told.is_set()
    assert wire.code == 7


def test_a_run_after_one_that_failed_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = library._Library()
    monkeypatch.setattr(world, "library", lambda: failed)
    failed.check()
    failed.give_up("rank 1 on host-2 has been silent for 60 s")
    with pytest.raises(RankError, match="an earlier run of this process failed: rank 1 on host-2") as found:
        World.join(1e9, {}, StopSignals())
    assert found.value.exit_code == 7


@pytest.mark.parametrize("command", [True, False])
def test_the_end_of_mpi_has_a_limit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: bool
) -> None:
    ended: list[int] = []
    made, hangs = library._Library(), threading.Event()
    made._own, made.limit = True, 0.01
    made._mpi = SimpleNamespace(Is_finalized=lambda: False, Finalize=hangs.wait)
    monkeypatch.setattr(library, "is_command", lambda: command)
    monkeypatch.setattr(os, "_exit", ended.append)
    made._end()
    hangs.set()
    assert "error: MPI does not end within 0.01 s: another rank hangs or has gone\n" in capsys.readouterr().err
    assert ended == ([7] if command else [])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 1),
        (MemoryError(), 4),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 0),
        (Interrupted(15), 143),
        (KeyboardInterrupt(), 130),
        (UserError("no such file"), 1),
        (SystemExit(5), 5),
    ],
)
def test_other_ranks_end_with_the_code_of_rank_0(error: BaseException, code: int) -> None:
    from symlm.cli import _exit_code

    told: list[dict[str, Any]] = []
    lead = cast(World, SimpleNamespace(busy=False, tell=told.append))
    with pytest.raises(type(error)), joining.leading(lead):
        raise error
    assert told == [{"do": "end", "code": code}]
    assert exit_code_of(error) == _exit_code(error, "symlm train") == code


@pytest.mark.parametrize("command", [True, False])
def test_an_error_of_a_program_is_no_bug(monkeypatch: pytest.MonkeyPatch, command: bool) -> None:
    for module in (failures, joining):
        monkeypatch.setattr(module, "is_command", lambda: command)
    told: list[dict[str, Any]] = []
    failed: list[SymlmError] = []
    for busy in (False, True):
        lead = SimpleNamespace(busy=busy, rank=0, tell=told.append, fail=failed.append, name=lambda r: f"rank {r}")
        with pytest.raises(ValueError), joining.leading(cast(World, lead)):
            raise ValueError("of the callback")
    assert failed[0].message == "rank 0: ended with ValueError: of the callback"
    assert told[0]["code"] == failed[0].exit_code == (70 if command else 1)
    assert isinstance(failed[0], InternalError) == command
    assert ("bug" in str(failed[0])) == command


class Bars:
    """A display."""

    def __init__(self) -> None:
        self.moved: list[int] = []

    def task(self, label: str) -> Callable[[int, int], None]:
        return lambda done, total: self.moved.append(done)

    def message(self, text: str) -> None:
        raise AssertionError(text)

    warning = message


def heard_by(carrier: Carrier) -> tuple[Callable[[int, int], None], Bars, StopSignals]:
    shown, joined, signals = Bars(), World(15.0, {}), StopSignals()
    joined._carrier = carrier
    return Hearing(shown, joined, signals).task("encoding"), shown, signals


def test_rank_0_hears_the_others_while_it_prepares_the_text(clock: Clock) -> None:
    carrier, _ = carried()
    move, shown, signals = heard_by(carrier)
    move(1, 9)
    carrier.inbox.put(Letter(1, {"do": "signal", "signum": 15}))
    with pytest.raises(Interrupted) as stopped:
        move(2, 9)
    assert (signals.received, stopped.value.signum, shown.moved) == (15, 15, [1])
    carrier.fail(RankError("rank 1 on host-2 has been silent for 15 s"))
    with pytest.raises(RankError, match="rank 1 on host-2"):
        move(3, 9)


class Files:
    """Weights and optimizer on their way into a folder; they never get there well."""

    there = False

    def wait(self, timeout_s: float = 0.0) -> bool:
        return self.there

    def finish(self) -> dict[str, Any]:
        raise UserError("no space left on device")


def test_a_checkpoint_is_under_way_until_it_is_complete(tmp_path: Path) -> None:
    seen: list[bool] = []
    files = Files()
    folder = SimpleNamespace(path=tmp_path, checkpoint_path=lambda step: tmp_path / f"step-{step}", check_held=int)
    saver = Saver(cast(Any, folder), {}, 1, None, cast(Callable[[Saved], None], seen.append))

    def finish() -> dict[str, Any]:
        seen.append(saver.under_way)
        raise UserError("no space left on device")

    files.finish = finish  # type: ignore[method-assign]
    saver.begin(3, lambda _: (files, cast(Any, SimpleNamespace(step=3))))
    saver.poll()
    assert saver.under_way
    files.there = True
    with pytest.raises(UserError, match="no space"):
        saver.poll()
    assert seen == [True]
    assert not saver.under_way


def test_standard_error_that_is_gone_does_not_keep_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    carriers.say(RankError("rank 1 has gone"))
