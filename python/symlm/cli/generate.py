"""`symlm generate`."""

from __future__ import annotations

import random
import sys
import warnings

import click

from ..config import sampling as defaults
from ..config.options import flag_of
from ..errors import UsageError
from .common import PATH, Command, checkpoint_option, say, standard_input


@click.command("generate", cls=Command, short_help="Write text with a model.")
@click.argument("model", type=PATH, metavar="MODEL")
@checkpoint_option
@click.option("-p", "--prompt", default=None, help="Beginning of the text; without it standard input, if it is a pipe.")
@click.option(
    "-n",
    "--max-new-tokens",
    type=int,
    default=defaults.MAX_NEW_TOKENS,
    show_default=True,
    metavar="N",
    help="Most tokens to write.",
)
@click.option(
    "--temperature",
    type=float,
    default=defaults.TEMPERATURE,
    show_default=True,
    metavar="X",
    help="0 always takes the most likely token.",
)
@click.option(
    "--top-k",
    type=int,
    default=defaults.TOP_K,
    show_default=True,
    metavar="N",
    help="Draw from the N most likely tokens; 0 is off.",
)
@click.option(
    "--top-p",
    type=float,
    default=defaults.TOP_P,
    show_default=True,
    metavar="X",
    help="Draw from the most likely tokens that add up to X; 1 is off.",
)
@click.option(
    "--min-p",
    type=float,
    default=defaults.MIN_P,
    show_default=True,
    metavar="X",
    help="Leave out tokens less likely than X times the most likely; 0 is off.",
)
@click.option(
    "--repetition-penalty",
    type=float,
    default=defaults.REPETITION_PENALTY,
    show_default=True,
    metavar="X",
    help="Above 1: tokens that occurred before become less likely.",
)
@click.option("--stop", multiple=True, metavar="TEXT", help="End before this text; may be given several times.")
@click.option(
    "--num-samples",
    type=click.IntRange(1, 1_000_000),
    default=1,
    show_default=True,
    metavar="N",
    help="How many texts to write.",
)
@click.option(
    "--seed",
    type=int,
    default=None,
    metavar="N",
    help="The same seed gives the same text; printed when not given.  [random]",
)
@click.option("--echo/--no-echo", default=True, show_default=True, help="Write the prompt before its continuation.")
def command(
    model: str,
    checkpoint: str,
    prompt: str | None,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    repetition_penalty: float,
    stop: tuple[str, ...],
    num_samples: int,
    seed: int | None,
    echo: bool,
) -> None:
    """Write text with MODEL, a run folder or a checkpoint folder, as it is drawn."""
    if seed is None:
        seed = random.SystemRandom().randrange(2**31)
    # Wrong settings are found before the model is loaded and before standard input is read.
    try:
        defaults.sampling_options(
            max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
            repetition_penalty=repetition_penalty, seed=seed, sample_index=0,
        )  # fmt: skip
    except UsageError as error:
        raise _as_flag(error) from None
    from ..generate.generator import Generator

    generator = Generator.from_pretrained(model, checkpoint)
    if generator.note:
        say(f"note: {generator.note}")
    if prompt is None:
        prompt = "" if sys.stdin is None or sys.stdin.isatty() else _piped_prompt()
    say(f"seed: {seed}")
    for index in range(num_samples):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pieces = generator.stream(
                prompt,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                min_p=min_p,
                repetition_penalty=repetition_penalty,
                seed=seed,
                sample_index=index,
                stop=stop,
            )
        if index:
            sys.stdout.write("\n---\n\n")
        else:
            for warning in caught:
                say(f"warning: {warning.message}")
        if echo:
            _write(prompt)
        for piece in pieces:
            _write(piece)
        _write("\n")


_TAKES = {
    "--max-new-tokens": "0 or more, such as 200",
    "--temperature": "0 (always the most likely token) to 1000; usual are 0.5 to 1.2",
    "--top-k": "0 (off) or more, such as 40",
    "--top-p": "a number above 0, at most 1 (off), such as 0.95",
    "--min-p": "a number from 0 (off) to 1, such as 0.05",
    "--repetition-penalty": "a number from 0.01 to 100; 1 is off, 1.1 is usual",
    "--seed": f"a whole number from 0 to {2**63 - 1:,}",
}


def _as_flag(error: UsageError) -> UsageError:
    """An error about a setting of `Generator.stream`, under the name that it has here."""
    name, colon, rest = error.message.partition(": ")
    flag = name if name.startswith("--") else flag_of(name)
    takes = f"{flag} takes {_TAKES[flag]}" if flag in _TAKES else None
    return UsageError(f"{flag}{colon}{rest}" if takes else error.message, error.hint or takes)


def _piped_prompt() -> str:
    """Standard input without the line end that `echo` adds."""
    return standard_input().decode("utf-8", errors="replace").removesuffix("\n")


def _write(text: str) -> None:
    """Write UTF-8 whatever the locale says."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", errors="replace"))
    sys.stdout.buffer.flush()
