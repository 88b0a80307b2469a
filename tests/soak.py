"""`make soak`: many clients of one server for a while, at mixed lengths, a third of them leaving early.

Prints what was answered, how long the clients waited, and what the server held; fails on any error, and when memory or
files grow.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from served import CONTEXT, Served, serving, train
from symlm.units import parse_duration

CLIENTS = 64
LEAVING = 1 / 3
WARM_S = 10.0
"""At the most, until memory counts: pages and buffers are there by then."""
MOST_GROWTH, MOST_MORE = 1.15, 32 << 20
"""Of memory: what is imported late is part of it."""
MOST_THREADS = 64


class Tally:
    """What the clients saw."""

    def __init__(self) -> None:
        self.ended: Counter[str] = Counter()
        self.waits: list[float] = []
        self.errors: list[str] = []


async def client(number: int, url: str, end: float, tally: Tally) -> None:
    """Ask again and again."""
    chance = random.Random(number)
    async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as http:
        while time.monotonic() < end:
            leaves = chance.random() < LEAVING
            try:
                await one(http, chance, leaves, tally)
            except (httpx.HTTPError, AssertionError, ValueError) as error:
                tally.errors.append(f"{type(error).__name__}: {error}")


async def one(http: httpx.AsyncClient, chance: random.Random, leaves: bool, tally: Tally) -> None:
    """One request, read to its end or left in the middle."""
    prompt = [chance.randrange(1, 290) for _ in range(chance.randrange(1, CONTEXT // 2))]
    body: dict[str, Any] = {"prompt": prompt, "max_tokens": chance.randrange(1, CONTEXT // 2), "stream": True}
    if chance.random() < 0.3:
        body["logprobs"] = 3
    began, seen, last = time.monotonic(), 0, ""
    async with http.stream("POST", "/v1/completions", json=body) as answer:
        assert answer.status_code == 200, await answer.aread()
        async for line in answer.aiter_lines():
            if not line.startswith("data: "):
                continue
            if not seen:
                tally.waits.append(time.monotonic() - began)
            seen, last = seen + 1, line
            if leaves and seen > chance.randrange(4):
                tally.ended["left"] += 1
                return
            if line != "data: [DONE]":
                assert "error" not in json.loads(line.removeprefix("data: ")), line
    assert last == "data: [DONE]", last
    tally.ended["whole"] += 1


def held(server: Served) -> tuple[int, int, int]:
    """Bytes of memory, open files and threads of the server."""
    process = Path(f"/proc/{server.process.pid}")
    pages = int((process / "statm").read_text().split()[1])
    return pages * 4096, len(list((process / "fd").iterdir())), len(list((process / "task").iterdir()))


async def load(server: Served, seconds: float) -> tuple[Tally, tuple[int, int, int]]:
    """Run the clients; gives what they saw, and what the server held after a while."""
    tally, end = Tally(), time.monotonic() + seconds
    clients = [asyncio.create_task(client(number, server.url, end, tally)) for number in range(CLIENTS)]
    await asyncio.sleep(min(WARM_S, seconds / 3))
    warm = held(server)
    await asyncio.gather(*clients)
    return tally, warm


def idle(server: Served) -> bool:
    """Whether every slot becomes free, which takes a moment after the last client has left."""
    for _ in range(600):
        if (
            server.metric("sequences_running") + server.metric("sequences_waiting") + server.metric("requests_active")
            == 0
        ):
            return True
        time.sleep(0.1)
    return False


def main(duration: str) -> int:
    """Soak a server; gives the exit code."""
    with tempfile.TemporaryDirectory(prefix="symlm-soak-") as name:
        model = train(Path(name))
        with serving(model) as server:
            tally, warm = asyncio.run(load(server, parse_duration(duration)))
            free = idle(server)
            after = held(server)
            code = server.stop()
    waits = sorted(tally.waits)
    print(f"{CLIENTS} clients for {duration}: {tally.ended['whole']:,} whole, {tally.ended['left']:,} left early")
    print(f"first token after {statistics.median(waits):.3f} s (median), {waits[int(0.99 * len(waits))]:.3f} s (99 %)")
    for what, before, now in zip(("bytes of memory", "open files", "threads"), warm, after, strict=True):
        print(f"{what}: {before:,} after a while, {now:,} at the end")
    wrong = [f"{count} x {what}" for what, count in Counter(tally.errors).most_common(5)]
    if after[0] > MOST_GROWTH * warm[0] + MOST_MORE or after[1] > warm[1] or after[2] > MOST_THREADS:
        wrong.append("the server grew")
    if not free:
        wrong.append("slots are still taken")
    if code:
        wrong.append(f"the server ended with {code}")
    for line in wrong:
        print(f"error: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "10m"))
