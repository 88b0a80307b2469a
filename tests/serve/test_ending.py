"""The end of the server: what is in hand is answered, or told that it is not."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from patched import HELD
from served import HANG_S, Served, serving

BODY = {"prompt": "the", "max_tokens": 5}


@contextlib.contextmanager
def asked(server: Served, stream: bool) -> Iterator[socket.socket]:
    """A connection with a request in hand."""
    before = server.metric("requests_active")
    body = json.dumps({**BODY, "stream": stream}).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=HANG_S) as one:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
        one.sendall(head + body)
        while server.metric("requests_active") == before:
            time.sleep(0.01)
        yield one


def rest(one: socket.socket) -> bytes:
    """All that the server sends until it ends the connection."""
    return b"".join(iter(lambda: one.recv(1 << 16), b""))


def says(server: Served, what: str) -> None:
    """Wait until the server has said something."""
    while not any(what in line for line in server.said):
        time.sleep(0.01)


def check_told(whole: bytes, stream: bytes) -> None:
    """Both clients know that there is no answer."""
    head, _, body = whole.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 10" in head.lower()
    assert json.loads(body)["error"]["code"] == "server_ending"
    assert stream.startswith(b"HTTP/1.1 200 ")
    assert b'"code":"server_ending"' in stream
    assert b"[DONE]" not in stream


def test_what_is_not_answered_in_time_is_told_so(served_model: Path) -> None:
    with (
        serving(served_model, "--drain", "0.2s", patch=HELD) as server,
        asked(server, stream=False) as whole,
        asked(server, stream=True) as stream,
    ):
        server.process.send_signal(signal.SIGTERM)
        check_told(rest(whole), rest(stream))
        assert server.process.wait(HANG_S) == 128 + signal.SIGTERM
        says(server, "SIGTERM: ends when 2 requests are answered")
        says(server, "stopped with 2 requests unanswered")


def test_a_second_signal_ends_at_once(served_model: Path) -> None:
    with (
        serving(served_model, "--drain", "7d", patch=HELD) as server,
        asked(server, stream=False) as whole,
        asked(server, stream=True) as stream,
    ):
        server.process.send_signal(signal.SIGTERM)
        says(server, "SIGTERM: ends when 2 requests are answered")
        server.process.send_signal(signal.SIGINT)
        check_told(rest(whole), rest(stream))
        assert server.process.wait(HANG_S) == 128 + signal.SIGINT
        says(server, "stopped with 2 requests unanswered")


def test_a_request_that_is_still_sent_is_in_hand_too(served_model: Path) -> None:
    with (
        serving(served_model) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=HANG_S) as one,
    ):
        one.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n")
        one.sendall(b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert one.recv(1 << 10).startswith(b"HTTP/1.1 100 ")
        server.process.send_signal(signal.SIGTERM)
        says(server, "SIGTERM: ends when 1 request is answered")
        one.sendall(b"{}")
        assert rest(one).startswith(b"HTTP/1.1 200 ")
        assert server.process.wait(HANG_S) == 0


def test_requests_in_hand_are_answered(served_model: Path) -> None:
    with serving(served_model) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=HANG_S) as one:
            body = json.dumps({"prompt": ["a"] * 64, "max_tokens": 50, "n": 4, "stream": True}).encode()
            one.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body))
            one.sendall(body)
            begin = one.recv(4096)
            server.process.send_signal(signal.SIGTERM)
            whole = begin + rest(one)
        assert whole.rstrip(b"\r\n0").endswith(b"data: [DONE]")
        assert server.process.wait(HANG_S) == 0
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", server.port), timeout=HANG_S)


def test_ctrl_c_ends_an_idle_server(served_model: Path) -> None:
    with serving(served_model) as server:
        assert server.stop(signal.SIGINT) == 0
        says(server, "SIGINT: ends\n")
