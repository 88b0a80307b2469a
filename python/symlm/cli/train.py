"""`symlm train`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click

from ..config.options import PATH_KINDS, Spec, flag_of
from ..config.sources import Request, gather
from ..config.train_config import SPECS, TrainConfig
from ..errors import Interrupted
from ..run.metrics import to_line
from ..system.names import command_line
from .common import PATH, Command, put, say

_METAVARS = {
    "int": "N", "float": "X", "str": "TEXT", "bool": None, "duration": "DURATION", "interval": "STEPS|DURATION",
    "auto_int": "auto|N", "path": "PATH", "paths": "PATH", "choice": None,
}  # fmt: skip


def _default_text(cls: type, name: str, spec: Spec) -> str:
    if spec.default_text is not None:
        return spec.default_text
    default = cls.__dataclass_fields__[name].default  # type: ignore[attr-defined]
    if default is None or default == () or default == "":
        return ""
    return f"{default:g}" if isinstance(default, float) else str(default)


def setting_option(cls: type, name: str, spec: Spec, text: str | None = None) -> click.Option:
    """The flag of a field of the dataclass `cls`. Values stay text here: the configuration checks them, whatever
    source they come from. `text` is what the help says of the default, where that is not the one of the field."""
    text = _default_text(cls, name, spec) if text is None else text
    summary = spec.help[0].upper() + spec.help[1:] + (f"  [{text}]" if text else "") + ("" if text else ".")
    if spec.kind == "bool":
        return click.Option([f"{flag_of(name)}/--no-{flag_of(name)[2:]}"], default=None, help=summary)
    kind = PATH if spec.kind in PATH_KINDS else str
    metavar = "|".join(spec.choices) if spec.choices else spec.metavar or _METAVARS[spec.kind]
    return click.Option(
        [flag_of(name), *spec.aliases, name], default=None, metavar=metavar, help=summary, type=kind,
        multiple=spec.kind == "paths",
    )  # fmt: skip


def setting_options(names: Iterable[str], texts: Mapping[str, str] | None = None) -> list[click.Parameter]:
    """The flags of a command that trains, for these settings; `texts` are defaults that are not those of the fields."""
    texts = texts or {}
    return [
        click.Option(
            ["-c", "--config", "config_file"], type=PATH, metavar="FILE", help="Read settings from a TOML file."
        ),
        click.Option(
            ["--dry-run"],
            is_flag=True,
            help="Print what the training will take (memory, disk, time) and leave; nothing is written.",
        ),
        *(setting_option(TrainConfig, name, SPECS[name], texts.get(name)) for name in names if not SPECS[name].hidden),
    ]


def _run(**values: Any) -> int:
    return train_as(values)


def train_as(values: dict[str, Any], complete: Callable[[Mapping[str, Any]], dict[str, Any]] = dict) -> int:
    """Train as the flags in `values` say; `complete` adds the defaults of a command to what was given explicitly."""
    from ..training.trainer import train

    file, dry_run = values.pop("config_file"), values.pop("dry_run")
    given = {name: value for name, value in values.items() if value is not None and value != ()}
    gathered = gather(given, file=file)
    for warning in gathered.warnings:
        _note("warning", warning, values["progress"])
    request = Request(TrainConfig(**complete(gathered.values)), frozenset(gathered.values))
    if dry_run:
        return _dry_run(request)
    try:
        run = train(request)
    except Interrupted as stopped:
        # Saved well, or nothing to save; what would be an abort elsewhere is the documented exit code here.
        return 128 + stopped.signum
    progress = run.config.progress
    if progress != "off":
        metrics = run.metrics
        quality = "" if metrics.get("val_bpb") is None else f", {metrics['val_bpb']:.4f} bits per byte"
        state = "finished" if run.finished else "stopped"
        for line in (
            f"{state} at step {run.step:,}{quality}",
            f"try it: {command_line(['symlm', 'generate', str(run.path)])}",
        ):
            _note("message", line, progress)
    return 0


def _dry_run(request: Request) -> int:
    from ..training.plan import make_plan, refuse_what_cannot_fit
    from .plan_table import print_plan

    plan = make_plan(request)
    print_plan(plan, as_json=plan.config.progress == "json")
    refuse_what_cannot_fit(plan)
    return 0


def _note(event: str, text: str, progress: str | None) -> None:
    """Something to know, beside what the display shows, in its form."""
    if progress == "json":
        put(to_line({"event": event, "text": text}))
    else:
        say(f"warning: {text}" if event == "warning" else text)


command = Command(
    "train",
    callback=_run,
    params=[
        click.Argument(["data"], nargs=-1, type=PATH, metavar="[PATH]..."),
        *setting_options(name for name in SPECS if name != "data"),
    ],
    help="""Train a model from text.

    PATH is a file, a folder, a glob or - for standard input; .txt, .md, .py, .jsonl, .json, and .gz of these. Without a
    PATH the Python sources of the running interpreter's standard library are used, with preset tiny: about a minute.

    Every setting can also come from a TOML file (-c) or from the environment (SYMLM_BATCH_SIZE=16); the command line
    counts most, then the environment, then the file.""",
    short_help="Train a model from text.",
)
