"""The process that runs a template, from the outside: started, asked, and ended whatever it does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from typing import Any

from ..errors import DataError, UserError, reason, shown
from .conversation import Conversation, Message
from .masks import Marked
from .template import ChatTemplate
from .worker import BYTES, MESSAGES, MOST_TEXT, SECONDS

_OLDEST = (3, 1, 6)
"""Sandboxes of older versions of jinja2 let a template out."""

_LAST_SECONDS = 10
"""For a process that has closed its output to end."""

_INSTALL = "pip install 'symlm[chat]'"
_MASKS_HINT = (
    "put {% generation %} and {% endgeneration %} around the answers in the template, or learn only the last answer "
    "(--train-on last)"
)
_HINTS = {
    "syntax": "mend the template, or name another with --chat-template",
    "refused": "the template says so itself: change the conversation, or name another with --chat-template",
    "security": "the sandbox allows no attribute of Python's own; name another with --chat-template",
    "memory": f"a template has {BYTES >> 20} MiB; name another with --chat-template",
    "masks": _MASKS_HINT,
    "marks": "put {% generation %} outside of macros, {% set %} blocks, filters and calls in the template",
    "size": f"a conversation has at most {MOST_TEXT >> 20} MiB; leave it out or divide it",
    "failed": "mend the template or the conversation, or name another template with --chat-template",
}


class _Ended(Exception):
    """The process ended before it answered."""


class Renderer:
    """Runs one template. Close it, or use it as a context manager.

    UserError without a usable jinja2; DataError, which names the conversation, for whatever goes wrong in a template.
    """

    def __init__(self, template: ChatTemplate, seconds: float = SECONDS) -> None:
        """`seconds` of processor time are given to each conversation."""
        _check_library()
        self.template, self._seconds = template, seconds
        self._process: subprocess.Popen[bytes] | None = None
        self.has_generation = False
        """Whether the template marks what the model writes."""
        try:
            with self._said(f"the chat template ({template.origin})"):
                self._start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Renderer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            self._end(process)

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> int:
        """End a process; gives its exit code."""
        process.kill()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                # What was not written goes nowhere: the process is gone.
                with suppress(OSError):
                    stream.close()
        return process.wait()

    def text(self, messages: Sequence[Message], tools: Sequence[Any] | None = None, *, prompt: bool = False) -> str:
        """The text of a conversation; with `prompt`, up to where the model is to answer."""
        found = self._one({"render": [[list(messages), tools, prompt]]}, "the conversation")
        return str(found["text"])

    def tried(self, messages: Sequence[Message], *, prompt: bool = False) -> str | None:
        """The same; None where the template refuses or fails."""
        try:
            return self.text(messages, prompt=prompt)
        except DataError:
            return None

    def mark(
        self,
        conversations: Sequence[tuple[str, Conversation]],
        train_on: str,
        special: Sequence[str],
        most: int | None = None,
    ) -> list[Marked]:
        """The texts of conversations, each given with its place, and what of each is learnt; no window holds `most`
        characters."""

        def request(some: Sequence[tuple[str, Conversation]]) -> dict[str, Any]:
            items = [[conversation.messages, conversation.tools] for _, conversation in some]
            return {"mark": items, "train_on": train_on, "special": list(special), "most": most}

        try:
            answers = self._ask(request(conversations))
        except _Ended:
            # Which of them it was is found by asking for one at a time.
            answers = []
            for one in conversations:
                self.close()
                self._start()
                answers.append(self._one(request([one]), one[0]))
        found = []
        for (place, _), answer in zip(conversations, answers, strict=True):
            _check(answer, place)
            found.append(
                Marked(
                    answer["text"],
                    [(start, end) for start, end in answer["learn"]],
                    answer["cuts"],
                    answer["close"],
                    answer["open_end"],
                )
            )
        return found

    # --- the process ----------------------------------------------------------------------------------------------

    def _one(self, request: dict[str, Any], place: str) -> dict[str, Any]:
        if self._process is None:
            self._start()
        with self._said(place):
            answer: dict[str, Any] = self._ask(request)[0]
        _check(answer, place)
        return answer

    @contextmanager
    def _said(self, place: str) -> Iterator[None]:
        """Makes a sentence of the end of the process."""
        try:
            yield
        except _Ended as ended:
            raise DataError(f"{place}: {ended}", _HINTS["failed"]) from None

    def _start(self) -> None:
        if not sys.executable:
            raise UserError("no Python interpreter is known that a chat template could run in", "start symlm with one")
        places = os.pathsep.join(place for place in sys.path if place)
        command = [sys.executable, "-P", "-m", "symlm.chat.worker"]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": places},
                # Ctrl-C is for symlm, which then ends this process.
                start_new_session=True,
            )
        except OSError as error:
            raise UserError(f"cannot start a process for the chat template: {reason(error)}") from None
        first = self.template
        request = {"template": first.text, "variables": dict(first.variables), "now": first.now.isoformat()}
        answer = self._ask({**request, "seconds": self._seconds})
        _check(answer, f"the chat template ({first.origin})")
        self.has_generation = bool(answer["generation"])

    def _ask(self, request: dict[str, Any]) -> Any:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = b""
        except BaseException:
            # After Ctrl-C nobody waits for this answer, and the next request must not get it.
            self.close()
            raise
        if line.endswith(b"\n"):
            return json.loads(line)
        self._process = None
        # It has ended, or is about to: its own end is what counts.
        with suppress(subprocess.TimeoutExpired):
            process.wait(_LAST_SECONDS)
        code = self._end(process)
        if code == -signal.SIGPROF:
            raise _Ended(
                f"the chat template takes more than {self._seconds:g} seconds for one conversation (of up to "
                f"{MESSAGES} messages; longer ones have more)"
            )
        raise _Ended(f"the process of the chat template ended by itself (code {code})")


def _check(answer: dict[str, Any], place: str) -> None:
    if "error" not in answer:
        return
    kind = answer["kind"]
    what = {
        "syntax": "not a chat template",
        "refused": "the chat template refuses the conversation",
        "security": "the chat template reaches for what the sandbox does not allow",
        "memory": "the chat template takes too much memory",
        "masks": "what is learnt cannot be told",
        "marks": "what is learnt cannot be told",
        "size": "too long",
    }.get(kind, "the chat template fails")
    raise DataError(f"{place}: {what}: {answer['error']}", _HINTS[kind])


def _check_library() -> None:
    try:
        found = metadata.version("jinja2")
    except metadata.PackageNotFoundError:
        raise UserError("the package jinja2, which runs chat templates, is not installed", _INSTALL) from None
    numbers = tuple(int(part) for part in found.split(".")[:3] if part.isdigit())
    if numbers < _OLDEST:
        raise UserError(f"found jinja2 {shown(found)}, expected 3.1.6 or newer: its sandbox is not tight", _INSTALL)
