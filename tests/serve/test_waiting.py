"""The queue: requests get slots in turn, those that leave are out of it, and it has an end."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from patched import constants
from served import serving
from symlm.serve.scheduler import Scheduler, Sequenced
from symlm.serve.waiting import Waiting


def test_requests_are_taken_in_turn() -> None:
    waiting: Waiting[str] = Waiting()
    for request in (["a1", "a2", "a3"], ["b1"], [], ["c1", "c2"]):
        waiting.add(request)
    assert len(waiting) == 6
    assert [waiting.take() for _ in range(2)] == ["a1", "b1"]
    waiting.add(["d1"])
    assert [waiting.take() for _ in range(6)] == ["c1", "a2", "d1", "c2", "a3", None]
    assert len(waiting) == 0


@given(st.lists(st.integers(0, 5), max_size=8), st.data())
def test_who_leaves_is_never_taken(sizes: list[int], data: st.DataObject) -> None:
    waiting: Waiting[tuple[int, int]] = Waiting()
    left = [(request, number) for request, size in enumerate(sizes) for number in range(size)]
    for request, size in enumerate(sizes):
        waiting.add([(request, number) for number in range(size)])
    for one in data.draw(st.lists(st.sampled_from(left), unique=True) if left else st.just([])):
        assert waiting.drop(one)
        assert not waiting.drop(one)
        left.remove(one)
    assert len(waiting) == len(left)
    taken = [waiting.take() for _ in range(len(left))]
    assert sorted(one for one in taken if one is not None) == left
    assert waiting.take() is None


class Slots:
    """A batch that counts its slots alone."""

    slots = 1

    def __init__(self) -> None:
        self.joined: list[str] = []

    def join_behind(self, _: Any, text: str, *__: Any) -> tuple[int, int]:
        self.joined.append(text)
        return 0, 0

    def leave(self, slot: int) -> None:
        assert slot == 0


def sequence(name: str) -> Sequenced:
    return Sequenced(name, SimpleNamespace(), None, lambda _: None)  # type: ignore[arg-type]


def test_one_request_with_many_texts_does_not_hold_up_the_others() -> None:
    batch = Slots()
    scheduler = Scheduler(batch, None)  # type: ignore[arg-type]
    many, one = [sequence(f"many {number}") for number in range(4)], sequence("one")
    scheduler.add(many)
    assert scheduler._orders()
    scheduler.add([one])
    scheduler.leave(many[2])
    assert scheduler.waiting == 3
    for _ in range(3):
        scheduler.leave(next(iter(scheduler._running.values())))
        assert scheduler._orders()
    assert batch.joined == ["many 0", "many 1", "one", "many 3"]
    assert (scheduler.waiting, scheduler.running) == (0, 1)


def test_only_so_many_texts_may_wait(served_model: Path) -> None:
    with serving(served_model, "--slots", "1", "--max-queue", "2", patch=constants(jobs__MOST_WAITING=4)) as server:
        answer = server.post("/v1/completions", {"prompt": ["a"] * 5, "max_tokens": 1})
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
        assert answer.headers["retry-after"] == "1"
        assert len(server.complete(prompt=["a"] * 4, max_tokens=1)["choices"]) == 4
        assert server.metric("requests_active") == 0
