"""What is counted, in the format that Prometheus reads."""

from __future__ import annotations

import re

from served import Served

LINE = re.compile(r'[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? [0-9.e+-]+')


def test_every_line_is_one_of_the_format(server: Served) -> None:
    server.complete(prompt="the", max_tokens=4, temperature=0)
    server.events("/v1/completions", {"prompt": "the", "max_tokens": 4})
    server.client.get("/no/such/path")
    answer = server.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.text.splitlines()
    assert all(line.startswith(("# HELP ", "# TYPE ")) or LINE.fullmatch(line) for line in lines)
    assert 'symlm_requests_total{path="/v1/completions",status="200"} 2' in lines
    assert 'symlm_requests_total{path="other",status="404"} 1' in lines
    assert "symlm_first_token_seconds_count 1" in lines
    assert "symlm_request_seconds_count 2" in lines


def test_tokens_are_counted(server: Served) -> None:
    names = ("prompt_tokens_total", "written_tokens_total")
    before = [server.metric(name) for name in names]
    usage = server.complete(prompt=["the", "a"], max_tokens=5)["usage"]
    counted = [server.metric(name) - was for name, was in zip(names, before, strict=True)]
    assert counted == [usage["prompt_tokens"], usage["completion_tokens"]]
    assert server.metric("sequences_running") == 0
