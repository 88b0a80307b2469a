"""The process that runs a chat template. It reads one request on each line of standard input and answers on standard
output; the first one is the template.

    {"template": .., "variables": {..}, "now": "2026-01-31T00:00:00", "seconds": 10}   ->  {"generation": true}
    {"render": [[messages, tools, prompt], ..]}                          ->  [{"text": ..}, {"error": ..}]
    {"mark": [[messages, tools], ..], "train_on": .., "special": [..], "most": ..}
                                                                         ->  [{"text": .., "learn": .., ..}, ..]

Each conversation has so many seconds of processor time, and again as many for each further `MESSAGES`, after which the
kernel ends the process; that has `BYTES` of address space.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import resource
import signal
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from ..system.output import write_all

SECONDS = 10.0
MESSAGES = 500
"""A long conversation takes longer, and a log of a chat is not a template that hangs."""
BYTES = 1 << 30
MOST_TEXT = 4 << 20
"""Bytes of the text of one conversation."""

KINDS = {
    "TemplateSyntaxError": "syntax", "TemplateError": "refused", "SecurityError": "security", "MemoryError": "memory",
    "Disagreement": "masks", "LostMarks": "marks",
}  # fmt: skip
"""Name of an exception -> what an answer says about it; all others are `failed`."""


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _limit() -> None:
    """Bounds for the whole process. A signal that nobody catches ends it, wherever it is."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    for what, most in ((resource.RLIMIT_AS, BYTES), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(what)
        resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _failed(error: BaseException) -> dict[str, Any]:
    line = getattr(error, "lineno", None)
    where = f"line {line}: " if isinstance(line, int) else ""
    text = f"{where}{error or type(error).__name__}"
    return {"error": text[:500], "kind": KINDS.get(type(error).__name__, "failed")}


def _answered(template: Any, request: dict[str, Any], seconds: float) -> list[dict[str, Any]]:
    from .masks import marked

    answers: list[dict[str, Any]] = []
    for item in request.get("mark") or request.get("render") or []:
        try:
            with _limited(seconds * max(1.0, len(item[0]) / MESSAGES)):
                if "mark" in request:
                    most = request["most"]
                    found = marked(template, item[0], item[1], request["train_on"], request["special"], most)
                    answer = dataclasses.asdict(found)
                else:
                    answer = {"text": template.render(item[0], item[1], prompt=item[2])}
                size = len(answer["text"].encode())
                if size > MOST_TEXT:
                    answer = {
                        "error": f"found a text of {size:,} bytes, expected at most {MOST_TEXT:,}",
                        "kind": "size",
                    }
        except Exception as error:
            answer = _failed(error)
        answers.append(answer)
    return answers


def main() -> None:
    """Answer requests until standard input ends."""
    import jinja2.debug  # noqa: F401 - loaded now: later there may be no memory for it

    from .sandbox import Template

    _limit()
    template, seconds = None, SECONDS
    for line in sys.stdin.buffer:
        request = json.loads(line)
        answer: Any
        if template is None:
            seconds = request["seconds"]
            try:
                with _limited(seconds):
                    now = datetime.fromisoformat(request["now"])
                    template = Template(request["template"], request["variables"], now)
                answer = {"generation": template.has_generation}
            except Exception as error:
                answer = _failed(error)
        else:
            answer = _answered(template, request, seconds)
        write_all(sys.stdout.buffer, json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
