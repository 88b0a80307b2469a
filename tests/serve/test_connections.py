"""Limits of a connection: for its head, its body, its reading, and how many there are."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from patched import constants
from served import HANG_S, Served, serving
from symlm.config.serving import Serving
from symlm.serve.connection import MOST, Connection
from symlm.serve.server import _most_connections

HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


def connect(server: Served) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=HANG_S)


def established(server: Served) -> int:
    """Connections at the server's side."""
    with Path(f"/proc/{server.process.pid}/net/tcp").open() as table:
        rows = [line.split() for line in table][1:]
    return sum(row[3] == "01" and int(row[1].rpartition(":")[2], 16) == server.port for row in rows)


def test_a_head_and_a_body_have_little_time(served_model: Path) -> None:
    with serving(served_model, patch=constants(connection__HEAD_SECONDS=0.3, body__SECONDS=0.3)) as server:
        for begin in (b"", b"POST /v1/comple", b"GET /health HTTP/1.1\r\nHost: local"):
            with connect(server) as one:
                one.sendall(begin)
                assert one.recv(100) == b""
        with connect(server) as one:
            one.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
            answer = b"".join(iter(lambda: one.recv(4096), b""))
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b"did not arrive within 0.3 seconds" in answer
        assert server.complete(prompt="a", max_tokens=1)["choices"]


def test_there_are_only_so_many(served_model: Path) -> None:
    patch = constants(connection__MOST=3, server__SPARE=0)
    words = ("--slots", "1", "--max-queue", "0")
    with serving(served_model, *words, patch=patch) as server, contextlib.ExitStack() as stack:
        open_ = [stack.enter_context(connect(server)) for _ in range(3)]
        for one in open_:
            one.sendall(HEALTH)
            assert one.recv(12) == b"HTTP/1.1 200"
        assert not taken(server)
        open_[0].close()
        while not taken(server):
            time.sleep(0.01)


def taken(server: Served) -> bool:
    """Whether one more connection is."""
    with connect(server) as one:
        try:
            one.sendall(HEALTH)
            return one.recv(12) == b"HTTP/1.1 200"
        except OSError:
            return False


def test_every_request_that_may_wait_has_a_connection() -> None:
    def most(**settings: Any) -> int:
        return _most_connections(SimpleNamespace(settings=Serving(**settings)))  # type: ignore[arg-type]

    assert most() == MOST
    assert most(slots=100, max_queue=5000) > 5100


def test_a_client_that_does_not_read_is_left(served_model: Path) -> None:
    with serving(served_model, patch=constants(connection__READ_SECONDS=0.3)) as server, socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        one.connect(("127.0.0.1", server.port))
        body = json.dumps({"prompt": "a b " * 500_000, "return_token_strs": True}).encode()
        one.sendall(b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        while established(server):
            time.sleep(0.05)
        assert server.client.get("/health").status_code == 200


class Buffered:
    """A transport with so many bytes that are not sent."""

    def __init__(self, size: int) -> None:
        self.size, self.ended = size, False

    def get_write_buffer_size(self) -> int:
        return self.size

    def abort(self) -> None:
        self.ended = True


class Timers:
    """A loop that calls later when it is told to."""

    def __init__(self) -> None:
        self.pending: list[Callable[[], None]] = []

    def call_later(self, _: float, what: Callable[[], None]) -> SimpleNamespace:
        self.pending.append(what)
        return SimpleNamespace(cancel=lambda: self.pending.remove(what) if what in self.pending else None)

    def pass_time(self) -> None:
        for what in self.pending[:]:
            self.pending.remove(what)
            what()


@pytest.mark.parametrize(
    ("sizes", "answering", "paused", "ended"),
    [
        ([100, 90, 80, 0], False, False, False), ([100, 90, 90], False, False, True), ([100, 100], True, True, True),
        ([100, 110, 120, 0], True, False, False), ([100, 60, 60], True, True, True), ([0], False, False, False),
    ],
)  # fmt: skip
def test_who_reads_is_kept(sizes: list[int], answering: bool, paused: bool, ended: bool) -> None:
    connection, timers, transport = Connection.__new__(Connection), Timers(), Buffered(sizes[0])
    connection.loop, connection.transport = timers, transport  # type: ignore[assignment]
    connection.cycle = SimpleNamespace(response_complete=not answering)  # type: ignore[assignment]
    connection.flow = SimpleNamespace(write_paused=paused)  # type: ignore[assignment]
    connection._watch_unread()
    for size in sizes[1:]:
        assert not transport.ended
        transport.size = size
        timers.pass_time()
    assert transport.ended == ended
    assert len(timers.pending) == 0 or not ended
    assert not timers.pending or sizes[-1]
