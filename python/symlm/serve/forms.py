"""What a request asks for: read from its JSON, checked, and ready to be written."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..config.options import convert, flag_of
from ..config.sampling import SAMPLING_SPECS, Sampling
from ..errors import UsageError, shown
from .fields import Request
from .problems import Problem, too_long
from .prompts import Served

MOST_TOP = 20
"""Alternatives of a token."""

MOST_STOPS = 64
MOST_SEQUENCES = 256
"""Of one request."""

MOST_TOKENS = 1 << 18
"""Of all sequences of one request, prompts and texts together."""

_SPACE = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
"""White space (`\\s` of the contract)."""

_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")

_IGNORED = (
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    "prompt_cache_options",
    "parallel_tool_calls",
)  # fmt: skip
"""Fields that say nothing about the text."""

SHARED = (
    "model", "max_tokens", "n", "stop", "stream", "stream_options", "logprobs", "frequency_penalty", "presence_penalty",
    "logit_bias", *_SAMPLING, *_IGNORED,
)  # fmt: skip
"""Fields that completions and chats have in common."""


@dataclass(frozen=True)
class Prompt:
    """What a sequence continues."""

    ids: list[int]
    text: str
    is_text: bool = False
    """Whether white space at its end begins the first tokens of what follows; else all of it is read as it is."""


@dataclass(frozen=True)
class Wanted:
    """A request for text: `n` texts behind each of the prompts."""

    prompts: list[Prompt]
    n: int
    sampling: Sampling
    """With as many new tokens as there may be."""
    ends: list[int]
    """Tokens that end a text."""
    stop: list[str]
    top: int | None
    """Alternatives of each token; None without logprobs."""
    stream: bool
    include_usage: bool
    echo: bool = False
    strip: bool = False
    """Whether white space at the beginning of a text is left out."""
    is_chat: bool = False

    @property
    def max_tokens(self) -> int:
        """Most tokens of a text."""
        return self.sampling.max_new_tokens

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompts, each counted once."""
        return sum(len(prompt.ids) for prompt in self.prompts)


@dataclass(frozen=True)
class Shared:
    """What completions and chats say in the same way."""

    n: int
    sampling: dict[str, Any]
    stop: list[str]
    stream: bool
    include_usage: bool


def check_model(request: Request, served: Served) -> None:
    """404 for any model but the one that is served."""
    if "model" in request and request.text("model") not in served.names:
        raise Problem(
            f"found no model {shown(request.text('model'))}, this server has {served.name}",
            status=404,
            parameter="model",
            code="model_not_found",
        )


def read_shared(request: Request, served: Served, defaults: Sampling) -> Shared:
    """The fields that completions and chats have in common; `defaults` count for what a request leaves open."""
    check_model(request, served)
    for name in ("frequency_penalty", "presence_penalty"):
        request.refuse(name, 0, 0.0, why="repetition_penalty makes tokens less likely that occurred before")
    request.refuse("logit_bias", {}, why="logits are those of the model")
    sampling = {name: getattr(defaults, name) for name in _SAMPLING}
    sampling["seed"] = random.SystemRandom().randrange(2**31)
    for name in _SAMPLING:
        if name in request:
            sampling[name] = _setting(request, name)
    return Shared(
        n=request.whole("n", 1, 1, MOST_SEQUENCES),
        sampling=sampling,
        stop=request.texts("stop", MOST_STOPS),
        stream=request.flag("stream"),
        include_usage=_include_usage(request),
    )


def _setting(request: Request, name: str) -> Any:
    value = request.value(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise request.wrong(name, "a number")
    try:
        return convert(name, SAMPLING_SPECS[name], value)
    except UsageError as error:
        hint = f" ({error.hint})" if error.hint else ""
        raise Problem((error.message + hint).replace(flag_of(name), name), parameter=name) from None


def _include_usage(request: Request) -> bool:
    options = request.value("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict):
        raise request.wrong("stream_options", "an object")
    if not request.flag("stream"):
        raise Problem("stream_options: only a request with stream has them", parameter="stream_options")
    return Request(options, ("include_usage", "include_obfuscation")).flag("include_usage")


def room_for(prompts: Sequence[Prompt], asked: int | None, usual: int, served: Served, where: str) -> int:
    """Most new tokens behind any of the prompts: as many as are asked for, else as usual and as there is room for.
    `where` is the field with the prompts."""
    longest = max(len(prompt.ids) for prompt in prompts)
    if longest + (1 if asked is None else asked) > served.context:
        raise too_long(longest, asked or 0, served.context, where)
    return min(usual, served.context - longest) if asked is None else asked


def as_it_fits(prompt: Prompt, new: int, served: Served) -> Prompt:
    """The prompt, to be read as it is where the tokens that repeat its last white space could leave no room for `new`
    further ones: each may hold one byte of it alone."""
    if not prompt.is_text:
        return prompt
    head = prompt.text.rstrip(_SPACE)
    space = len(prompt.text.encode()) - len(head.encode())
    if not head:
        # Of white space alone they also repeat what the tokenizer puts before a text.
        space = max(space, sum(len(served.token_bytes(id_)) for id_ in prompt.ids))
    if not space or max(len(served.prompt_ids(head)), 1) + space + new <= served.context:
        return prompt
    return dataclasses.replace(prompt, is_text=False)


def check_size(prompts: Sequence[Prompt], n: int, new: int, top: int | None, echo: bool = False) -> None:
    """400 for a request that is more work than one may be. The alternatives of a token count like tokens."""
    if len(prompts) * n > MOST_SEQUENCES:
        raise Problem(f"found {len(prompts):,} prompts with {n} texts each, expected at most {MOST_SEQUENCES} texts")
    each = 1 + (top or 0)
    total = n * sum(len(prompt.ids) * (each if echo else 1) + new * each for prompt in prompts)
    if total > MOST_TOKENS:
        what = "tokens and alternatives" if each > 1 else "tokens"
        raise Problem(f"found {total:,} {what} in all prompts and texts, expected at most {MOST_TOKENS:,}")
