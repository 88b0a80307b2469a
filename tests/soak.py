"""`make soak`: many clients of one server for a while, at mixed lengths, a third of them leaving early.

Prints what was answered, how long the clients waited, and what the server held; fails on any error, and when memory or
files grow.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import httpx

from served import CONTEXT, Served, serving, train
from symlm.units import parse_duration

CLIENTS = 64
LEAVING = 1 / 3
WARM_S = 10.0
"""At the most, before memory counts: pages, buffers and late imports are there by then."""
LEAST_REQUESTS = 1000
"""At the least; a slow machine takes longer for them."""
MOST_GROWTH, MOST_MORE = 1.15, 16 << 20
"""Of memory, idle at the end against idle after a while."""
QUARTERS, LEAST_LOOKS = 4, 60
"""Parts of the time, and looks at the memory in each that say something of it."""
MOST_LATE_GROWTH = 1.05
"""Of memory under load, the last quarter of the time against the one before: what is cached is there by then."""
WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "café")
MOST_THREADS = 64
TICK_S, STOPPED_S = 0.5, 5.0
"""How often the clients look at the clock, and what is more than a busy machine."""


class Tally:
    """What the clients saw."""

    def __init__(self) -> None:
        self.ended: Counter[str] = Counter()
        self.waits: list[float] = []
        self.errors: list[str] = []
        self.stops: list[float] = []
        """Seconds for which the system did not let the clients run. A client that is stopped for longer than the server
        waits for the head of a request loses its connection, which counts as an error like any other."""
        self.memory: list[int] = []
        """Bytes of the server under load, every `TICK_S`."""

    def memory_by_quarters(self) -> list[float]:
        """Mean bytes of the server in each quarter of the time; nothing of a time too short for that."""
        if len(self.memory) < LEAST_LOOKS * QUARTERS:
            return []
        ends = [len(self.memory) * quarter // QUARTERS for quarter in range(QUARTERS + 1)]
        return [statistics.fmean(self.memory[a:b]) for a, b in itertools.pairwise(ends)]


async def client(number: int, url: str, end: float, least: int, tally: Tally) -> None:
    """Ask again and again."""
    chance = random.Random(number)
    async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as http:
        while time.monotonic() < end or tally.ended.total() + len(tally.errors) < least:
            leaves = chance.random() < LEAVING
            try:
                await one(http, chance, leaves, tally)
            except (httpx.HTTPError, AssertionError, ValueError) as error:
                tally.errors.append(f"{type(error).__name__}: {error}")


async def clock(server: Served, tally: Tally) -> None:
    """Notice when the system does not let the clients run, and look at the memory of the server."""
    last = time.monotonic()
    while True:
        await asyncio.sleep(TICK_S)
        now = time.monotonic()
        tally.memory.append(held(server)[0])
        if now - last > STOPPED_S:
            tally.stops.append(now - last)
        last = now


def drawn(chance: random.Random) -> tuple[str, dict[str, Any]]:
    """Path and body of a request of any kind: text, ids or chat, logprobs, echo, one text or some."""
    ids = [chance.randrange(1, 290) for _ in range(chance.randrange(1, CONTEXT // 2))]
    text = " ".join(chance.choice(WORDS) for _ in range(chance.randrange(1, 5))) + chance.choice(("", " ", "\n"))
    body: dict[str, Any] = {"max_tokens": chance.randrange(1, CONTEXT // 3), "n": chance.choice((1, 1, 1, 4))}
    body["temperature"] = chance.choice((0, 0.8, 2))
    if chance.random() < 0.2:
        if chance.random() < 0.3:
            body |= {"logprobs": True, "top_logprobs": 3}
        return "/v1/chat/completions", {**body, "messages": [{"role": "user", "content": text}]}
    if chance.random() < 0.3:
        body["logprobs"] = chance.choice((0, 3, 20))
    if chance.random() < 0.2:
        body["echo"] = True
    body["prompt"] = chance.choice((ids, text, [text, "a"], [ids, ids[:1]]))
    return "/v1/completions", body


async def one(http: httpx.AsyncClient, chance: random.Random, leaves: bool, tally: Tally) -> None:
    """One request, read to its end or left in the middle."""
    path, body = drawn(chance)
    if chance.random() < 0.3:
        await whole(http, path, body, 0.2 * chance.random() if leaves else None, tally)
    else:
        await streamed(http, path, {**body, "stream": True}, chance.randrange(4) if leaves else None, tally)


async def whole(
    http: httpx.AsyncClient, path: str, body: dict[str, Any], leaves_after: float | None, tally: Tally
) -> None:
    """One answer as a whole, if the client waits for it; `leaves_after` are seconds."""
    try:
        answer = await asyncio.wait_for(http.post(path, json=body), leaves_after)
    except TimeoutError:
        tally.ended["left"] += 1
        return
    assert answer.status_code == 200, answer.text
    prompts = body.get("prompt", "")
    several = len(prompts) if isinstance(prompts, list) and not isinstance(prompts[0], int) else 1
    assert len(answer.json()["choices"]) == body["n"] * several, answer.text
    tally.ended["whole"] += 1


async def streamed(
    http: httpx.AsyncClient, path: str, body: dict[str, Any], leaves_after: int | None, tally: Tally
) -> None:
    """One answer event by event, up to its end or so many of them."""
    began, seen, last = time.monotonic(), 0, ""
    async with http.stream("POST", path, json=body) as answer:
        assert answer.status_code == 200, await answer.aread()
        async for line in answer.aiter_lines():
            if not line.startswith("data: "):
                continue
            if not seen:
                tally.waits.append(time.monotonic() - began)
            seen, last = seen + 1, line
            if leaves_after is not None and seen > leaves_after:
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


async def load(server: Served, seconds: float, least: int = 0) -> Tally:
    """Run the clients for a while, until there were at least so many requests; gives what they saw."""
    tally, end = Tally(), time.monotonic() + seconds
    ticking = asyncio.create_task(clock(server, tally))
    await asyncio.gather(*(client(number, server.url, end, least, tally) for number in range(CLIENTS)))
    ticking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await ticking
    return tally


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


@dataclass
class Held:
    """What a server holds while nobody asks it for anything."""

    memory: int
    files: int
    threads: int


@dataclass
class Soaked:
    """What a server was seen to do under load, and before and after it."""

    tally: Tally
    warm: Held
    after: Held
    free: bool
    """Whether every slot became free when the clients had left."""

    def wrong(self) -> list[str]:
        """What must not be."""
        quarters = self.tally.memory_by_quarters()
        found = [f"{count} x {what}" for what, count in Counter(self.tally.errors).most_common(5)]
        if self.after.memory > MOST_GROWTH * self.warm.memory + MOST_MORE:
            found.append("the server has grown")
        if quarters and quarters[-1] > MOST_LATE_GROWTH * quarters[-2]:
            found.append("the server was still growing")
        if self.after.files > self.warm.files or self.after.threads > MOST_THREADS:
            found.append("the server has more files or threads than before")
        if not self.free:
            found.append("slots are still taken")
        return found


def soak(server: Served, seconds: float, warm_seconds: float, requests: int) -> Soaked:
    """Load a server twice, for a while and with at least so many requests. Idle against idle: both times it has had
    this load, and holds nothing for anyone."""
    asyncio.run(load(server, warm_seconds, requests))
    free = idle(server)
    warm = Held(*held(server))
    tally = asyncio.run(load(server, seconds, requests))
    free &= idle(server)
    return Soaked(tally, warm, Held(*held(server)), free)


def main(duration: str) -> int:
    """Soak a server; gives the exit code."""
    with tempfile.TemporaryDirectory(prefix="symlm-soak-") as name:
        model = train(Path(name))
        with serving(model) as server:
            seconds = parse_duration(duration)
            soaked = soak(server, seconds, min(WARM_S, seconds / 3), LEAST_REQUESTS)
            code = server.stop()
    tally = soaked.tally
    waits = sorted(tally.waits)
    print(f"{CLIENTS} clients for {duration}: {tally.ended['whole']:,} whole, {tally.ended['left']:,} left early")
    print(f"first token after {statistics.median(waits):.3f} s (median), {waits[int(0.99 * len(waits))]:.3f} s (99 %)")
    if tally.stops:
        print(f"stopped by the system {len(tally.stops)} times, {max(tally.stops):.0f} s at the longest")
    if quarters := ", ".join(f"{mean:,.0f}" for mean in tally.memory_by_quarters()):
        print(f"bytes of memory under load, by quarters of the time: {quarters}")
    for what in fields(Held):
        before, now = getattr(soaked.warm, what.name), getattr(soaked.after, what.name)
        print(f"{what.name}: {before:,} idle after a while, {now:,} idle at the end")
    wrong = soaked.wrong() + ([f"the server ended with {code}"] if code else [])
    for line in wrong:
        print(f"error: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "10m"))
