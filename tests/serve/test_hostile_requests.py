"""Whatever is sent: an answer below 500 in OpenAI's form, and the server lives. SYMLM_HOSTILE_REQUESTS says how many
are tried (1,000 are enough for every day)."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from served import CONTEXT, HANG_S, Served

REQUESTS = int(os.environ.get("SYMLM_HOSTILE_REQUESTS", "1000"))
PATHS = (
    "/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize", "/completions", "/v1/models", "/",
    "/metrics", "/health", "/v1/models/x",
)  # fmt: skip
POSTS = PATHS[:5]
EVERY = settings(suppress_health_check=list(HealthCheck))

numbers = st.one_of(
    st.integers(-3, CONTEXT + 5), st.integers(), st.floats(), st.sampled_from([0, 1, 10**20, 10**400, -0.0, 1e308])
)
texts = st.one_of(st.text(max_size=30), st.sampled_from(["", "\ud800", "\0", "a" * 5000, "<|endoftext|>", "café"]))
values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(
        st.lists(inner, max_size=6), st.dictionaries(st.sampled_from(["role", "content", "type", "text", "x"]), inner)
    ),
    max_leaves=8,
)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.one_of(st.sampled_from(["user", "assistant", "system"]), values)},
        optional={"content": st.one_of(texts, values), "name": values},
    ),
    max_size=5,
)
few = st.integers(0, 6)
fields: dict[str, st.SearchStrategy[Any]] = {
    "prompt": st.one_of(texts, st.lists(texts, max_size=4), st.lists(st.integers(-1, 305), max_size=70), values),
    "messages": st.one_of(messages, values),
    "tokens": st.one_of(st.lists(st.integers(-1, 305), max_size=20), values),
    "max_tokens": st.one_of(few, values),
    "max_completion_tokens": st.one_of(few, values),
    "n": st.one_of(few, values),
    "logprobs": st.one_of(few, st.booleans(), values),
    "top_logprobs": st.one_of(few, values),
    "stop": st.one_of(texts, st.lists(texts, max_size=4), values),
    **{
        name: st.one_of(numbers, values)
        for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")
    },
    **{name: st.one_of(st.booleans(), values) for name in ("stream", "echo", "add_special_tokens")},
    **{
        name: values
        for name in ("model", "suffix", "best_of", "stream_options", "tools", "response_format", "logit_bias")
    },
    "user": values,
    "unknown": values,
}
bodies = st.lists(st.sampled_from(sorted(fields)), max_size=6, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: fields[name] for name in names})
)


def ask(
    server: Served, method: str, path: str, body: bytes, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    """Status and body of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=HANG_S)
    try:
        connection.request(method, path, body, {"Host": "localhost", **(headers or {})})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def check(status: int, body: bytes) -> None:
    assert 200 <= status < 500, body
    if status >= 400:
        error = json.loads(body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"].isprintable()


@pytest.fixture(autouse=True)
def alive(server: Served) -> None:
    assert server.process.poll() is None


def examples(share: float) -> Callable[[Any], Any]:
    return settings(EVERY, max_examples=max(int(REQUESTS * share), 10))


@examples(0.8)
@given(path=st.sampled_from(POSTS), body=bodies)
def test_any_fields(server: Served, path: str, body: dict[str, Any]) -> None:
    check(*ask(server, "POST", path, json.dumps(body).encode()))


@examples(0.1)
@given(
    path=st.sampled_from(POSTS), body=st.one_of(st.binary(max_size=300), values.map(lambda v: json.dumps(v).encode()))
)
def test_any_bytes(server: Served, path: str, body: bytes) -> None:
    check(*ask(server, "POST", path, body))


@examples(0.05)
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "X"]),
    path=st.one_of(
        st.sampled_from(PATHS), st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), max_size=40)
    ),
    origin=st.sampled_from(["", "null", "https://a.example", "http://localhost", "x" * 300]),
    key=st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=255), max_size=20),
)
def test_any_head(server: Served, method: str, path: str, origin: str, key: str) -> None:
    headers = {"Authorization": key or "x"} | ({"Origin": origin} if origin else {})
    path = "/" + path.lstrip("/")
    status, body = ask(server, method, path, b"{}", headers)
    assert 200 <= status < 500, body


@examples(0.05)
@given(
    data=st.one_of(
        st.binary(max_size=400),
        st.text(max_size=200).map(lambda text: f"GET /{text} HTTP/1.1\r\n\r\n".encode("utf-8", "replace")),
    )
)
def test_anything_but_http(server: Served, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=HANG_S) as one:
        one.sendall(data + b"\r\n\r\n\r\n")
        one.shutdown(socket.SHUT_WR)
        found = b""
        try:
            while part := one.recv(4096):
                found += part
        except ConnectionResetError:
            return
    assert not found or 400 <= int(found.split()[1]) < 500


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b"[" * 100_000, b'{"a":' * 50_000, b'{"prompt": ' + b"9" * 5000 + b"}",
        b'{"prompt": NaN}', b'{"temperature": Infinity, "prompt": ""}', b'\xff\xfe{"prompt": "a"}',
        b'{"prompt": "\xff"}', b'{"prompt": "\\ud83d"}', b'{"prompt": "a", "prompt": [1]}',
        b"\xef\xbb\xbf{\"prompt\": \"a\"}",
        b'{"prompt": "' + b"a" * 4_000_000 + b'"}', b'{"prompt": [' + b"5," * 1_000_000 + b"5]}",
        b'{"prompt": [' + b'"",' * 300_000 + b'""]}', b'{"stop": [' + b'"a",' * 300_000 + b'"a"]}',
        b'{"' + b"x" * 1_000_000 + b'": 1}', b"{" + b'"x": {},' * 200_000 + b'"y": 1}',
    ],
    ids=range(20),
)  # fmt: skip
@pytest.mark.parametrize("path", POSTS)
def test_bodies_of_bad_will(server: Served, path: str, body: bytes) -> None:
    check(*ask(server, "POST", path, body))
    assert server.client.get("/health").status_code == 200


def test_no_request_has_made_an_error_of_the_server(server: Served) -> None:
    server.process.send_signal(15)
    assert server.process.wait(HANG_S) == 0
    assert not any("Traceback" in line for line in server.said)
