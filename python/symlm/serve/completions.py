"""`/v1/completions`."""

from __future__ import annotations

from typing import Any

from ..config.sampling import Sampling
from ..errors import shown
from .fields import Request, checked_text
from .forms import MOST_SEQUENCES, MOST_TOP, SHARED, Prompt, Wanted, as_it_fits, check_size, read_shared, room_for
from .problems import Problem
from .prompts import Served

USUAL_TOKENS = 16
"""New tokens where a request does not say how many, as OpenAI has it."""

FIELDS = (*SHARED, "prompt", "echo", "suffix", "best_of")


def read_completion(raw: dict[str, Any], served: Served, defaults: Sampling) -> Wanted:
    """The completion that a request asks for."""
    request = Request(raw, FIELDS)
    shared = read_shared(request, served, defaults)
    request.refuse("suffix", "", why="the model writes what follows a prompt, and knows nothing of what comes later")
    request.refuse("best_of", 1, why="ask for n texts with logprobs, and choose the best")
    prompts = _prompts(request, served)
    asked = request.whole("max_tokens", 0, 0, 10**9) if "max_tokens" in request else None
    room = room_for(prompts, asked, USUAL_TOKENS, served, "prompt")
    top = request.whole("logprobs", 0, 0, MOST_TOP) if "logprobs" in request else None
    echo = request.flag("echo")
    check_size(prompts, shared.n, room, top, echo)
    return Wanted(
        prompts=[as_it_fits(prompt, room, served) for prompt in prompts],
        n=shared.n,
        sampling=Sampling(**shared.sampling, max_new_tokens=room),
        ends=list(served.generator.model.eos_token_ids),
        stop=shared.stop,
        top=top,
        stream=shared.stream,
        include_usage=shared.include_usage,
        echo=echo,
    )


def _prompts(request: Request, served: Served) -> list[Prompt]:
    """A text, a list of texts, a list of ids, or a list of lists of ids; nothing is the beginning of a document."""
    value = request.value("prompt") if "prompt" in request else ""
    if isinstance(value, str):
        return [_of_text(value, served)]
    if not isinstance(value, list):
        raise request.wrong("prompt", "a text, token ids, or a list of either")
    if not value:
        raise Problem('prompt: found an empty list, expected a prompt ("" begins a document)', parameter="prompt")
    if all(type(item) is int for item in value):
        return [_of_ids(value, served)]
    if len(value) > MOST_SEQUENCES:
        raise Problem(f"prompt: found {len(value):,} prompts, expected at most {MOST_SEQUENCES}", parameter="prompt")
    if all(isinstance(item, str) for item in value):
        return [_of_text(item, served) for item in value]
    if all(isinstance(item, list) for item in value):
        return [_of_ids(item, served) for item in value]
    raise request.wrong("prompt", "a text, token ids, or a list of either")


def _of_text(text: str, served: Served) -> Prompt:
    return Prompt(served.prompt_ids(checked_text(text, "prompt")), text, is_text=True)


def _of_ids(ids: list[Any], served: Served) -> Prompt:
    return Prompt(checked_ids(ids, served, "prompt"), served.text(ids))


def checked_ids(ids: list[Any], served: Served, name: str) -> list[int]:
    """Token ids of the model's vocabulary, at least one."""
    most = served.generator.model.vocab_size
    for id_ in ids:
        if type(id_) is not int or not 0 <= id_ < most:
            raise Problem(f"{name}: found {shown(id_)}, expected token ids from 0 to {most - 1}", parameter=name)
    if not ids:
        raise Problem(f"{name}: found no token, expected at least one", parameter=name)
    return ids
