"""Bodies, queues, time, and clients that leave."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from conftest import Cli
from patched import GATE, STEPS
from served import CONTEXT, HANG_S, Served, serving

LONG = {"prompt": ["a"] * 64, "max_tokens": CONTEXT - 4, "n": 4, "temperature": 2.0, "top_k": 0, "min_p": 0, "top_p": 1}
"""A request that takes some steps."""


@contextmanager
def connected(server: Served) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=HANG_S) as one:
        yield one


def raw(body: bytes, path: str = "/v1/completions") -> bytes:
    return b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (path.encode(), len(body), body)


def until_idle(server: Served) -> None:
    """Wait until no slot is taken."""
    while server.metric("sequences_running") + server.metric("sequences_waiting") + server.metric("requests_active"):
        time.sleep(0.02)


@pytest.mark.parametrize("size", [1 << 21, 1 << 40])
def test_a_large_body_is_refused_by_its_length(server: Served, size: int) -> None:
    with connected(server) as one:
        one.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (size + (1 << 22))
        )
        assert one.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_large_body_without_a_length_is_refused_too(server: Served) -> None:
    with connected(server) as one:
        one.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        answer = b""
        for _ in range(80):
            try:
                one.sendall(chunk)
            except OSError:
                break
        one.settimeout(HANG_S)
        try:
            answer = one.recv(100)
        except ConnectionResetError:
            # The connection ends while the rest is on its way.
            return
        assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_client_that_leaves_frees_its_slots(served_model: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with serving(served_model, patch=GATE, GATE=str(gate)) as server:
        for stream in (True, False):
            with connected(server) as one:
                one.sendall(raw(json.dumps({**LONG, "stream": stream}).encode()))
                while not server.metric("requests_active"):
                    time.sleep(0.01)
            while server.metric("requests_active"):
                time.sleep(0.01)
        assert server.metric("clients_left_total") == 2
        gate.touch()
        until_idle(server)
        # Of 30,720 that were asked for.
        assert server.metric("written_tokens_total") <= STEPS * server.metric("slots")
        assert server.complete(prompt="a", max_tokens=2)["choices"]


def test_a_client_that_does_not_read_stalls_nobody(server: Served) -> None:
    with connected(server) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        one.sendall(raw(json.dumps({**LONG, "stream": True, "logprobs": 20}).encode()))
        for _ in range(3):
            assert server.complete(prompt="the", max_tokens=5, temperature=0)["choices"]
    until_idle(server)


def test_a_client_that_sends_slowly_stalls_nobody(server: Served) -> None:
    with connected(server) as head, connected(server) as body:
        head.sendall(b"POST /v1/comple")
        body.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        assert server.complete(prompt="the", max_tokens=5)["choices"]


def test_more_requests_than_may_wait_are_refused(served_model: Path) -> None:
    with serving(served_model, "--slots", "1", "--max-queue", "1") as server:
        with connected(server) as first, connected(server) as second:
            for one in (first, second):
                one.sendall(raw(json.dumps({**LONG, "stream": True}).encode()))
                assert one.recv(12) == b"HTTP/1.1 200"
            answer = server.post("/v1/completions", {"prompt": "a"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
            assert answer.headers["retry-after"] == "1"
            assert server.client.get("/health").status_code == 200
        until_idle(server)
        assert server.complete(prompt="a", max_tokens=1)["choices"]


def test_time_is_limited(served_model: Path) -> None:
    with serving(served_model, "--slots", "1", "--timeout", "0.1") as server:
        body = {**LONG, "n": 4}
        answer = server.post("/v1/completions", body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "request_timeout")
        streamed = server.post("/v1/completions", {**body, "stream": True}).text
        assert "request_timeout" in streamed.rstrip().rpartition("\n")[2]
        assert "[DONE]" not in streamed
        until_idle(server)


def test_what_is_wrong_is_said_before_the_model_is_loaded(cli: Cli, served_model: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = cli("serve", served_model, "--port", taken.getsockname()[1])
    assert done.returncode == 1
    assert "address already in use" in done.stderr
    assert "--port" in done.stderr
    (tmp_path / "keys").write_text("# none\n")
    for words, code, what in (
        (["--host", "no such host"], 1, "no such address"),
        (["--port", "70000"], 2, "--port: "),
        (["--slots", "0"], 2, "--slots: "),
        (["--api-key-file", "keys"], 2, "found no key"),
        (["--allow-host", "box.local:8000"], 2, "--allow-host: found 'box.local:8000', expected a name"),
        (["--allow-host", "http://box"], 2, "--allow-host: "),
        (["--allow-host", "*"], 2, "--allow-host: "),
        (["--allow-origin", "example.org"], 2, "--allow-origin: found 'example.org', expected a scheme and a host"),
        (["--allow-origin", "*"], 2, "--allow-origin: "),
        (["--allow-origin", "https://example.org/app"], 2, "--allow-origin: "),
        (["--api-key-file", "missing"], 3, "missing: cannot read the file of keys"),
    ):
        done = cli("serve", "no-such-model", *words)
        assert (done.returncode, what in done.stderr) == (code, True), done.stderr
    assert cli("serve", "no-such-model", "--port", "0").returncode == 1
