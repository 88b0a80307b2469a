"""Who may ask, and what is never given out."""

from __future__ import annotations

import http.client
import os
from pathlib import Path

import pytest

from served import Served, serving


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("LOCALHOST:1", 200), ("127.0.0.1:80", 200), ("[::1]:9", 200), ("127.9.9.9", 200),
        ("evil.example", 403), ("localhost.evil.example", 403), ("10.0.0.1", 403), ("127.0.0.1.evil.example", 403),
        ("", 403), ("[::1", 200), ("a b", 403),
    ],
)  # fmt: skip
def test_only_names_of_this_machine_are_hosts(server: Served, host: str, status: int) -> None:
    answer = server.client.get("/v1/models", headers={"Host": host})
    assert answer.status_code == status
    if status == 403:
        assert answer.json()["error"]["code"] == "host_not_allowed"


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost.evil.example", "file://", "x"])
def test_pages_of_other_sites_may_not_ask(server: Served, origin: str) -> None:
    for method, path in (("POST", "/v1/completions"), ("GET", "/v1/models"), ("OPTIONS", "/v1/completions")):
        answer = server.client.request(method, path, headers={"Origin": origin}, json={"prompt": "a"})
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers


def test_the_page_itself_may_ask(server: Served) -> None:
    answer = server.post("/v1/completions", {"prompt": "a", "max_tokens": 1}, headers={"Origin": server.url})
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers


def test_every_answer_has_its_headers(server: Served) -> None:
    for path in ("/", "/page.js", "/health", "/no-such", "/v1/models"):
        headers = server.client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers


def test_paths_lead_nowhere_else(server: Served) -> None:
    tricks = (
        "/../../etc/passwd", "/page/../page.js", "/%2e%2e/%2e%2e/etc/passwd", "/page.js/", "//etc/passwd",
        "/page.js%00", "/v1/models/../../etc/passwd", "/..;/x", "/\\..\\x", "/page/index.html",
    )  # fmt: skip
    for path in tricks:
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.putrequest("GET", path, skip_host=True)
        connection.putheader("Host", "localhost")
        connection.endheaders()
        answer = connection.getresponse()
        assert answer.status == 404, path
        assert b"root:" not in answer.read()
        connection.close()


def test_keys(served_model: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# of the team\nfirst-key\n\n  second-key  \n")
    with serving(served_model, "--api-key-file", str(keys), SYMLM_API_KEY="of-the-variable") as server:
        for key, status in (
            ("first-key", 200),
            ("second-key", 200),
            ("of-the-variable", 401),
            ("x", 401),
            ("# of", 401),
        ):
            headers = {"Authorization": f"Bearer {key}"}
            for path in ("/v1/models", "/models", "/metrics", "/tokenizer_info", "/page/settings"):
                assert server.client.get(path, headers=headers).status_code == status, (key, path)
        answer = server.client.get("/v1/models")
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        for path in ("/", "/page.js", "/page.css", "/health"):
            assert server.client.get(path).status_code == 200
        command = Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
        assert b"first-key" not in command


def test_a_key_can_have_any_letters(served_model: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("schlüssel\nclé-à\n", encoding="utf-8")
    with serving(served_model, "--api-key-file", str(keys)) as server:
        for key, status in (("schlüssel", 200), ("clé-à", 200), ("clé-", 401), ("schlussel", 401)):
            headers = {b"Authorization": f"Bearer {key}".encode()}
            assert server.client.get("/v1/models", headers=headers).status_code == status, key


def test_the_key_of_the_variable(served_model: Path) -> None:
    with serving(served_model, SYMLM_API_KEY="secret") as server:
        assert server.client.get("/v1/models").status_code == 401
        assert server.client.get("/v1/models", headers={"Authorization": "bearer secret"}).status_code == 200
        assert not any("secret" in line for line in server.said)


def test_cors_is_for_the_sites_that_are_named(served_model: Path) -> None:
    site = "https://app.example"
    with serving(served_model, "--allow-origin", site, "--allow-host", "Box.local") as server:
        asks = {"Origin": site, "Access-Control-Request-Method": "POST"}
        before = server.client.options("/v1/completions", headers=asks)
        assert (before.status_code, before.headers["access-control-allow-origin"]) == (204, site)
        assert before.headers["access-control-allow-headers"] == "Authorization, Content-Type"
        # What OpenAI's client for JavaScript sends.
        named = "authorization,content-type,x-stainless-arch,x-stainless-os,x-stainless-retry-count"
        asks["Access-Control-Request-Headers"] = named
        before = server.client.options("/v1/completions", headers=asks)
        assert before.headers["access-control-allow-headers"] == named
        assert {"origin", "access-control-request-headers"} <= set(before.headers["vary"].lower().split(", "))
        answer = server.post("/v1/completions", {"prompt": "a", "max_tokens": 1}, headers={"Origin": site})
        assert answer.headers["access-control-allow-origin"] == site
        assert answer.headers["access-control-expose-headers"] == "Retry-After"
        other = {**asks, "Origin": "https://other.example"}
        assert "access-control-allow-headers" not in server.client.options("/v1/models", headers=other).headers
        assert server.client.get("/health", headers={"Origin": "https://other.example"}).status_code == 403
        assert server.client.get("/health", headers={"Host": "box.local:80"}).status_code == 200


def test_listening_to_a_network_without_a_key_is_a_warning(served_model: Path) -> None:
    with serving(served_model, "--host", "0.0.0.0") as server:
        assert any(line.startswith("warning: anyone who reaches this address") for line in server.said)
        assert server.client.get("/health", headers={"Host": "10.0.0.1"}).status_code == 200
        assert server.client.get("/health", headers={"Host": "evil.example"}).status_code == 403


def test_only_the_loopback_interface_is_bound(server: Served) -> None:
    listening = "0A"
    with Path(f"/proc/{server.process.pid}/net/tcp").open() as table:
        rows = [line.split() for line in table][1:]
    ours = [row[1] for row in rows if row[3] == listening and int(row[1].rpartition(":")[2], 16) == server.port]
    assert ours == [f"0100007F:{server.port:04X}"]
    assert os.path.isdir(f"/proc/{server.process.pid}")  # noqa: PTH112
