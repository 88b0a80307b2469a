"""Flags that are made from the tables of settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import click

from ..config.options import PATH_KINDS, Spec, flag_of
from ..config.sections import SPECS
from .common import PATH

_METAVARS = {
    "int": "N", "float": "X", "str": "TEXT", "bool": None, "duration": "DURATION", "interval": "STEPS|DURATION",
    "auto_int": "auto|N", "path": "PATH", "paths": "PATH", "choice": None,
}  # fmt: skip


def default_text(spec: Spec) -> str:
    """The default, readable; empty where there is none."""
    if spec.default_text is not None:
        return spec.default_text
    if spec.default in (None, (), ""):
        return ""
    return f"{spec.default:g}" if isinstance(spec.default, float) else str(spec.default)


def setting_option(name: str, spec: Spec, text: str | None = None) -> click.Option:
    """The flag of a setting. Values stay text here: the configuration checks them, whatever source they come from.
    `text` is what the help says of the default, where that is not the one of the field."""
    text = default_text(spec) if text is None else text
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
        *(setting_option(name, SPECS[name], texts.get(name)) for name in names if not SPECS[name].hidden),
    ]
