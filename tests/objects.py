"""Files of short texts, examples and conversations, as objects of JSON."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

WORDS = ["garden", "bread", "snow", "river", "lamp", "blue", "seven", "the", "of", "and", "was", "under"]

Objects = Callable[[random.Random, int], list[dict[str, Any]]]
"""Makes so many of a kind."""


def words(draw: random.Random, most: int) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(1, most)))


def texts(draw: random.Random, count: int) -> list[dict[str, Any]]:
    return [{"text": words(draw, 25)} for _ in range(count)]


def examples(draw: random.Random, count: int) -> list[dict[str, Any]]:
    return [{"prompt": words(draw, 9), "completion": " " + words(draw, 4)} for _ in range(count)]


def conversations(draw: random.Random, count: int) -> list[dict[str, Any]]:
    """Of one to three turns, so that what is learnt lies in several places."""

    def turns() -> list[dict[str, str]]:
        roles = [role for _ in range(draw.randint(1, 3)) for role in ("user", "assistant")]
        return [{"role": role, "content": words(draw, 3)} for role in roles]

    return [{"messages": turns()} for _ in range(count)]


def write(path: Path, objects: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in objects), encoding="utf-8")
    return path
