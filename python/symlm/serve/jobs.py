"""One request: its sequences from the first to the last token."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from .. import _symlm
from ..errors import SymlmError
from . import logprobs, writing
from .forms import Prompt, Wanted
from .problems import Problem, of_error
from .prompts import Served
from .scheduler import Scheduler, Sequenced, Told
from .writing import Piece, Writing

MOST_WAITING = 8192
"""Texts that may wait for a slot, those of all requests together, if as many requests may wait."""


@dataclass(frozen=True)
class Shown:
    """A piece of one of the texts."""

    index: int
    piece: Piece
    finish: str | None = None
    """Why the text ends here: `stop` or `length`."""


class Job:
    """The texts that one request asked for, piece by piece. Close it: that frees its slots."""

    def __init__(self, wanted: Wanted, served: Served, scheduler: Scheduler, scoring: ThreadPoolExecutor) -> None:
        self.wanted = wanted
        self._served, self._scheduler, self._scoring = served, scheduler, scoring
        self._told: asyncio.Queue[tuple[int, Told]] = asyncio.Queue()
        self._sequences: dict[int, Sequenced] = {}
        self._writings: list[Writing] = []
        self.tokens = 0
        """Tokens that were written."""

    def begin(self) -> None:
        """Hand the sequences over."""
        wanted = self.wanted
        for index in range(len(wanted.prompts) * wanted.n):
            prompt = wanted.prompts[index // wanted.n]
            self._writings.append(
                Writing(wanted.stop, offset=len(prompt.text), keep_tokens=wanted.top is not None, strip=wanted.strip)
            )
            if wanted.max_tokens:
                told: Callable[[Told], None] = partial(self._tell, index)
                behind = prompt.text if prompt.is_text else prompt.ids
                self._sequences[index] = Sequenced(behind, self._settings(index % wanted.n), wanted.top, told)
        self._scheduler.add(list(self._sequences.values()))

    def close(self) -> None:
        """End what has not ended."""
        for sequence in self._sequences.values():
            self._scheduler.leave(sequence)
        self._sequences.clear()

    def _tell(self, index: int, what: Told) -> None:
        self._told.put_nowait((index, what))

    def _settings(self, sample: int) -> _symlm.SampleSettings:
        options = dataclasses.asdict(dataclasses.replace(self.wanted.sampling, sample_index=sample))
        return _symlm.SampleSettings(**options, stop_ids=self.wanted.ends)

    async def pieces(self) -> AsyncIterator[Shown]:
        """What can be shown, as it comes, of all texts."""
        wanted = self.wanted
        echoed = [await self._echo(prompt) for prompt in wanted.prompts] if wanted.echo else []
        for index in range(len(self._writings)):
            if echoed:
                yield Shown(index, echoed[index // wanted.n])
            if not wanted.max_tokens:
                yield Shown(index, Piece(), "length")
        while self._sequences:
            index, what = await self._told.get()
            if index in self._sequences:
                yield self._after(index, what)

    def _after(self, index: int, what: Told) -> Shown:
        if isinstance(what, Exception):
            raise of_error(what) if isinstance(what, SymlmError) else what
        text, piece, end = self._writings[index], Piece(), None
        if what.why == "stop":
            # As lm-eval counts on: each token that was drawn has its logprobs. Chats tell only what is content.
            end = None if self.wanted.is_chat else what.token
        elif what.token is not None:
            data, sequence = self._served.token_bytes(what.token), self._sequences[index]
            new = data[sequence.repeated :]
            repeats = data[: len(data) - len(new)]
            sequence.repeated -= len(repeats)
            # A token that only repeats the prompt is not one of the text.
            if new or not data:
                self.tokens += 1
                piece = text.feed(what.token, new, logprobs.of_drawn(what), repeats)
        if text.stopped:
            return self._ended(index, piece, "stop")
        if not what.finished:
            return Shown(index, piece)
        rest = text.finish(end, logprobs.of_drawn(what))
        whole = Piece(piece.text + rest.text, piece.tokens + rest.tokens)
        return self._ended(index, whole, "stop" if text.stopped or what.why == "stop" else "length")

    def _ended(self, index: int, piece: Piece, finish: str) -> Shown:
        self._scheduler.leave(self._sequences.pop(index))
        return Shown(index, piece, finish)

    async def _echo(self, prompt: Prompt) -> Piece:
        """The prompt itself, with its logprobs where these are asked for."""
        if self.wanted.top is None:
            return Piece(prompt.text)
        score = partial(
            logprobs.of_prompt,
            self._served.generator.engine,
            prompt.ids,
            self.wanted.top,
            self._served.generator.model.vocab_size,
        )
        try:
            scored = await asyncio.get_running_loop().run_in_executor(self._scoring, score)
        except SymlmError as error:
            raise of_error(error) from None
        raw = [self._served.token_bytes(id_) for id_ in prompt.ids]
        # What begins every text is a token of the prompt, but not of its text.
        hidden = len(b"".join(raw)) - len(prompt.text.encode())
        if hidden > 0 and self._served.text(prompt.ids) != prompt.text:
            raw = _without(raw, hidden)
        return Piece(prompt.text, writing.places(prompt.ids, raw, scored))


def _without(raw: list[bytes], count: int) -> list[bytes]:
    """The bytes of tokens without the first `count` of them."""
    found = []
    for data in raw:
        found.append(data[count:])
        count = max(count - len(data), 0)
    return found


def _busy(why: str) -> Problem:
    return Problem(f"the server is busy: {why}", status=429, code="queue_full", headers={"Retry-After": "1"})


class Jobs:
    """All requests for text: how many there may be, and what they share."""

    def __init__(self, served: Served, scheduler: Scheduler, most: int) -> None:
        self._served, self._scheduler, self._most = served, scheduler, most
        self._scoring = ThreadPoolExecutor(1, thread_name_prefix="symlm-score")
        self.active = 0

    def begin(self, wanted: Wanted) -> Job:
        """Begin a job; 429 when there are too many. `end` it."""
        if self.active >= self._most:
            raise _busy(f"{self.active} requests are under way or wait")
        # A request can have many texts: one with a single text may always wait with the others.
        waiting = self._scheduler.waiting
        if waiting + len(wanted.prompts) * wanted.n > max(MOST_WAITING, self._most):
            raise _busy(f"{waiting} texts wait")
        job = Job(wanted, self._served, self._scheduler, self._scoring)
        job.begin()
        self.active += 1
        return job

    def end(self, job: Job) -> None:
        """End a job, finished or not."""
        job.close()
        self.active -= 1

    def close(self) -> None:
        """End the thread that scores prompts."""
        self._scoring.shutdown(cancel_futures=True)
