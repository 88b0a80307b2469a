"""`symlm generate`."""

from __future__ import annotations

import dataclasses
import random
import sys
import warnings
from typing import Any

import click

from ..config.sampling import SAMPLING_SPECS, Sampling
from .common import PATH, Command, checkpoint_flag, say, standard_input
from .flags import setting_option


def _flag(name: str) -> click.Option:
    """A sampling setting as a flag; the seed is random here."""
    spec = SAMPLING_SPECS[name]
    default = "random" if name == "seed" else f"default: {spec.default}"
    return setting_option(name, dataclasses.replace(spec, help=f"{spec.help}."), default)


def _run(
    model: str,
    checkpoint: str,
    prompt: str | None,
    stop: tuple[str, ...],
    num_samples: int,
    echo: bool,
    weights: str,
    **values: Any,
) -> None:
    given = {name: value for name, value in values.items() if value is not None}
    # Wrong settings are found before the model is loaded and before standard input is read.
    sampling = Sampling(**{"seed": random.SystemRandom().randrange(2**31), **given})
    from ..generate.generator import Generator

    generator = Generator.from_pretrained(model, checkpoint, weights=weights)
    if generator.note:
        say(f"note: {generator.note}")
    if prompt is None:
        prompt = "" if sys.stdin is None or sys.stdin.isatty() else _piped_prompt()
    say(f"seed: {sampling.seed}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        samples = generator.samples(prompt, num_samples, stop=stop, **dataclasses.asdict(sampling))
    for warning in caught:
        say(f"warning: {warning.message}")
    for index, pieces in enumerate(samples):
        if index:
            sys.stdout.write("\n---\n\n")
        if echo:
            _write(prompt)
        for piece in pieces:
            _write(piece)
        _write("\n")


def _piped_prompt() -> str:
    """Standard input without the line end that `echo` adds."""
    return standard_input().decode("utf-8", errors="replace").removesuffix("\n")


def _write(text: str) -> None:
    """Write UTF-8 whatever the locale says."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", errors="replace"))
    sys.stdout.buffer.flush()


command = Command(
    "generate",
    callback=_run,
    params=[
        click.Argument(["model"], type=PATH, metavar="MODEL"),
        checkpoint_flag(),
        click.Option(["-p", "--prompt"], help="Beginning of the text; without it standard input, if it is a pipe."),
        *(_flag(name) for name, spec in SAMPLING_SPECS.items() if not spec.hidden and name != "seed"),
        click.Option(
            ["--stop"], multiple=True, metavar="TEXT", help="End before this text; may be given several times."
        ),
        click.Option(
            ["--num-samples"],
            type=click.IntRange(1, 1_000_000),
            default=1,
            show_default=True,
            metavar="N",
            help="How many texts to write.",
        ),
        click.Option(
            ["--weights"],
            type=click.Choice(["f32", "q8"]),
            default="f32",
            show_default=True,
            help="Hold the weights in 8 bits: a quarter of the memory, and faster.",
        ),
        _flag("seed"),
        click.Option(
            ["--echo/--no-echo"], default=True, show_default=True, help="Write the prompt before its continuation."
        ),
    ],
    help="Write text with MODEL, a run folder or a checkpoint folder, as it is drawn.",
    short_help="Write text with a model.",
)
