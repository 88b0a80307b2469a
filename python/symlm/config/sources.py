"""Where settings come from: command line over environment `SYMLM_*` over TOML file over preset; and the TOML writer."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import UsageError
from ..system.names import storable
from ..units import did_you_mean
from .options import convert, flag_of
from .sections import FLAGS, HOMES, INVOCATION_FIELDS, LIMIT_FIELDS, REQUEST_FIELDS, SECTIONS, SPECS
from .toml import REQUESTED, TomlSettings, name_hint, read_toml
from .train_config import TrainConfig

ENV_PREFIX = "SYMLM_"
OTHER_ENVIRONMENT = ("SYMLM_ISA", "SYMLM_CACHE_DIR", "SYMLM_API_KEY")
"""Variables of symlm that are not settings of a training run."""

DERIVED_FIELDS = ("max_steps", "warmup_steps", "decay_start")
"""Numbers that are fixed when a run starts, from the limits and the schedule asked for."""

_CAUSES = (*LIMIT_FIELDS, "decay_frac", "schedule")


@dataclass(frozen=True)
class Gathered:
    """Explicit settings of all sources, merged; defaults and presets are not in here."""

    values: dict[str, Any]
    warnings: list[str] = field(default_factory=list)

    def config(self) -> TrainConfig:
        """The configuration that these settings make."""
        return TrainConfig(**self.values)


def gather(cli: Mapping[str, Any], environ: Mapping[str, str] | None = None, file: str | None = None) -> Gathered:
    """Merge the sources. `cli` maps field names to values given on the command line; later sources win."""
    parsed = read_toml(file) if file is not None else TomlSettings({})
    from_env, warnings = read_environment(os.environ if environ is None else environ)
    higher = {**from_env, **checked(cli)}
    lower = dict(parsed.values)
    if parsed.requested is not None and any(name in higher for name in _CAUSES):
        # The file's numbers followed from limits that are now different: go back to what was asked for.
        for name in DERIVED_FIELDS:
            lower.pop(name, None)
        lower.update(parsed.requested)
    return Gathered({**lower, **higher}, warnings)


def checked(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert and check each value by its description; UsageError for a name that does not exist."""
    result = {}
    for name, raw in values.items():
        if name not in SPECS:
            raise UsageError(f'unknown setting "{name}"', name_hint(name, SPECS))
        result[name] = convert(name, SPECS[name], raw)
    return result


def read_environment(environ: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """Settings in `SYMLM_*` variables, and warnings about names that are none.

    A name that is nearly that of a setting is an error.
    """
    values: dict[str, Any] = {}
    warnings = []
    for key in sorted(environ):
        if not key.startswith(ENV_PREFIX) or key in OTHER_ENVIRONMENT:
            continue
        name = key[len(ENV_PREFIX) :].lower()
        name = FLAGS.get(flag_of(name), name)
        if name not in SPECS:
            near = did_you_mean(key[len(ENV_PREFIX) :], _environment_names())
            if near is not None:
                raise UsageError(
                    f"environment variable {key} is not a setting", f"did you mean {ENV_PREFIX}{near}? else unset it"
                )
            warnings.append(f"environment variable {key} is not a setting")
            continue
        if name in values:
            raise UsageError(f"environment variable {key}: {flag_of(name)} is set twice", "unset one of the two")
        raw: Any = environ[key].split(os.pathsep) if SPECS[name].kind == "paths" else environ[key]
        try:
            values[name] = convert(name, SPECS[name], raw)
        except UsageError as error:
            raise UsageError(f"environment variable {key}: {error.message}", error.hint) from None
    return values, warnings


def _environment_names() -> list[str]:
    """What may stand after `SYMLM_`."""
    settings = [*SPECS, *(flag[2:].replace("-", "_") for flag in FLAGS)]
    return [*(name.upper() for name in settings), *(name[len(ENV_PREFIX) :] for name in OTHER_ENVIRONMENT)]


def to_toml(config: TrainConfig, requested: Mapping[str, Any] | None = None) -> str:
    """The configuration as TOML that `parse_toml` reads back to equal values; None values are left out.

    With `requested` it is the file of a run: what belongs to one call and not to the run is left out too.
    """
    lines = ["# symlm training configuration; use it again with: symlm train --config THIS_FILE"]
    heading = ""
    for name, spec in SPECS.items():
        value = getattr(config, name)
        if value is None or (requested is not None and name in INVOCATION_FIELDS):
            continue
        if SECTIONS[HOMES[name]].heading != heading:
            heading = SECTIONS[HOMES[name]].heading
            lines += ["", f"# {heading}"]
        lines.append(f"{name} = {_toml_value(value)}  # {spec.help}")
    if requested is not None:
        lines += [
            "",
            "# What was asked for; the step numbers above follow from it. Counts only when one of them changes.",
        ]
        lines.append(f"[{REQUESTED}]")
        lines += [f"{name} = {_toml_value(value)}" for name, value in requested.items() if value is not None]
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        if not math.isfinite(value):
            raise UsageError(f"a setting must be finite, found {value}")
        return repr(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    # JSON and TOML escape alike, except for DEL, which TOML allows only escaped.
    return json.dumps(storable(str(value)), ensure_ascii=False).replace("\x7f", "\\u007f")


@dataclass(frozen=True)
class Conflict:
    """One setting that a resumed run may not change."""

    name: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{flag_of(self.name)}: the run has {_plain(self.old)}, asked for {_plain(self.new)}"


def _plain(value: Any) -> str:
    return "nothing" if value is None else str(value)


@dataclass(frozen=True)
class Request:
    """What is asked of a training run: the configuration that a new one would have, and the names of the settings that
    were given explicitly. Only these count where a run exists already."""

    config: TrainConfig
    given: frozenset[str]

    @classmethod
    def of(cls, config: TrainConfig) -> Request:
        """A configuration that was made as a whole: all that it holds was given."""
        return cls(
            config, frozenset(name for name, value in config.values().items() if value is not None and value != ())
        )

    def values(self) -> dict[str, Any]:
        """The settings that were given."""
        return {name: value for name, value in self.config.values().items() if name in self.given}


def conflicts(run: TrainConfig, requested: Mapping[str, Any], given: Mapping[str, Any]) -> list[Conflict]:
    """Settings among `given` that differ from the resolved configuration `run` and are not free to change.

    None means "as the run has it". A limit may be repeated as it was asked for when the run started.
    """
    found = []
    for name, new in given.items():
        old = getattr(run, name)
        if SPECS[name].free or new is None or new == old or (name in REQUEST_FIELDS and new == requested.get(name)):
            continue
        if name in LIMIT_FIELDS and requested.get(name) is not None:
            old = requested[name]
        found.append(Conflict(name, old, new))
    return found


def resumed(run: TrainConfig, given: Mapping[str, Any]) -> TrainConfig:
    """The run's configuration with what is free to change among `given`, and with what belongs to this call."""
    values = run.values()
    for name, new in given.items():
        if SPECS[name].free and new is not None and not (SPECS[name].kind == "paths" and not new):
            values[name] = new
    values |= {name: given.get(name) for name in ("resume", "stop_at_step", "trace")}
    values["extend_steps"] = None
    return TrainConfig(**values)
