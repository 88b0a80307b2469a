"""`symlm export`."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import click

from ..system.names import command_line
from .common import PATH, Command, checkpoint_option, say, tell

if TYPE_CHECKING:
    from ..export.source import Target
    from ..export.write import Exported


@click.command("export", cls=Command, short_help="Write a model for transformers, llama.cpp or Ollama.")
@click.argument("model", type=PATH, metavar="MODEL")
@click.option(
    "--to",
    required=True,
    type=click.Choice(["hf", "gguf", "ollama"]),
    help="hf: a folder for transformers; gguf: a file for llama.cpp; ollama: a folder with such a file.",
)
@click.option("-o", "--out", required=True, type=PATH, metavar="PATH", help="Folder to write; for gguf the file.")
@click.option(
    "--dtype",
    type=click.Choice(["f32", "f16", "bf16", "q8_0"]),
    default=None,
    help="Type of the weights; q8_0 not for hf.  [that of MODEL, f32 after training]",
)
@checkpoint_option
@click.option("--force", is_flag=True, help="Replace the file if it exists (gguf).")
def command(model: str, to: str, out: str, dtype: str | None, checkpoint: str, force: bool) -> None:
    """Write MODEL so that other programs load it as it is.

    What was written is read back and compared with MODEL before it gets its name. Folders must be empty or new.
    """
    from ..export.write import export

    done = export(
        model,
        cast("Target", to),
        out,
        dtype=dtype,
        checkpoint=checkpoint,
        force=force,
        report=lambda text: say(f"note: {text}"),
    )
    tell(f"wrote {done.path} ({done.bytes:,} bytes, {done.dtype})")
    click.echo(_compared(done))
    if to == "ollama":
        name = done.path.absolute().name
        tell(f"next: {command_line(['ollama', 'create', name, '-f', str(done.path / 'Modelfile')])}")


def _compared(done: Exported) -> str:
    line = f"read back: largest difference of a logit {done.difference:.3g} over {done.positions:,} positions"
    if not done.difference:
        return line
    return f"{line} (the error of {'8-bit' if done.dtype == 'q8_0' else done.dtype} weights)"
