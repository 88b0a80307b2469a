"""`symlm generate`."""

from __future__ import annotations

import dataclasses
import random
import sys
import warnings
from typing import TYPE_CHECKING, Any

import click

from ..config.sampling import SAMPLING_SPECS, Sampling
from ..errors import UsageError
from ..system.output import write_all
from .common import PATH, Command, checkpoint_flag, say, standard_input, weights_flag
from .flags import setting_option

if TYPE_CHECKING:
    from ..generate.generator import Generator


def new_seed() -> int:
    """A seed that nobody chose."""
    return random.SystemRandom().randrange(2**31)


def sampling_flag(name: str) -> click.Option:
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
    chat: bool,
    chat_template: str | None,
    system: str | None,
    **values: Any,
) -> None:
    given = {name: value for name, value in values.items() if value is not None}
    # Wrong settings are found before the model is loaded and before standard input is read.
    sampling = Sampling(**{"seed": new_seed(), **given})
    if not chat and (chat_template is not None or system is not None):
        raise UsageError("--chat-template and --system are for conversations", "add --chat, or leave them out")
    from ..generate.generator import Generator

    generator = Generator.from_pretrained(model, checkpoint, weights=weights)
    if generator.note:
        say(f"note: {generator.note}")
    if prompt is None:
        prompt = "" if sys.stdin is None or sys.stdin.isatty() else _piped_prompt()
    say(f"seed: {sampling.seed}")
    if chat:
        _answer(generator, prompt, stop, num_samples, sampling, chat_template, system)
        return
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


def _answer(
    generator: Generator,
    prompt: str,
    stop: tuple[str, ...],
    num_samples: int,
    sampling: Sampling,
    template: str | None,
    system: str | None,
) -> None:
    """Write answers to a message, each in a new conversation."""
    from ..generate.chat import Chat

    with Chat(generator, template, system) as chat:
        for index in range(num_samples):
            settings = dataclasses.asdict(dataclasses.replace(sampling, sample_index=index))
            if index:
                sys.stdout.write("\n---\n\n")
            chat.reset()
            for piece in chat.stream(prompt, stop=stop, **settings):
                _write(piece)
            _write("\n")


def _piped_prompt() -> str:
    """Standard input without the line end that `echo` adds."""
    return standard_input().decode("utf-8", errors="replace").removesuffix("\n")


def _write(text: str) -> None:
    """Write UTF-8 whatever the locale says."""
    sys.stdout.flush()
    write_all(sys.stdout.buffer, text.encode("utf-8", errors="replace"))


command = Command(
    "generate",
    callback=_run,
    params=[
        click.Argument(["model"], type=PATH, metavar="MODEL"),
        checkpoint_flag(),
        click.Option(["-p", "--prompt"], help="Beginning of the text; without it standard input, if it is a pipe."),
        *(sampling_flag(name) for name, spec in SAMPLING_SPECS.items() if not spec.hidden and name != "seed"),
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
        weights_flag(),
        sampling_flag("seed"),
        click.Option(["--chat"], is_flag=True, help="Take the prompt as a message, and write the answer alone."),
        click.Option(
            ["--chat-template"],
            type=PATH,
            metavar="FILE|chatml|NAME",
            help="With --chat: the chat template.  [the model's own]",
        ),
        click.Option(["--system"], metavar="TEXT", help="With --chat: what the system says before the message."),
        click.Option(
            ["--echo/--no-echo"], default=True, show_default=True, help="Write the prompt before its continuation."
        ),
    ],
    help="Write text with MODEL, a run folder or a checkpoint folder, as it is drawn.",
    short_help="Write text with a model.",
)
