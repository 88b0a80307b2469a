"""`symlm train`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from ..config.sources import Request, gather
from ..config.train_config import SPECS, TrainConfig
from ..errors import Interrupted
from ..ranks.launch import idle_rank
from ..run.metrics import to_line
from ..system.names import command_line
from .common import PATH, Command, put, say
from .flags import setting_options


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
        return 0 if idle_rank() else _dry_run(request)
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

    PATH is a file, a folder, a glob or - for standard input: .txt, .md, .py, .jsonl, .json, .csv, .tsv, also as .gz,
    .zst, .xz and .bz2; .parquet and folders saved by datasets (pip install 'symlm[data]'). Without a PATH the Python
    sources of the running interpreter's standard library are used, with preset tiny: about a minute.

    Every setting can also come from a TOML file (-c) or from the environment (SYMLM_BATCH_SIZE=16); the command line
    counts most, then the environment, then the file.""",
    short_help="Train a model from text.",
)
