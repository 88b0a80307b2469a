"""Description of one configuration field: help text, kind of value, limits. One description serves the command
line, the environment, the TOML file and the checks."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

from ..errors import UsageError, shown
from ..system.names import path_of, text_of
from ..system.values import is_path, plain, several
from ..units import did_you_mean, parse_count, parse_duration

T = TypeVar("T")

Kind = Literal["int", "float", "bool", "str", "choice", "auto_int", "duration", "interval", "path", "paths"]
"""How a value is written: `auto_int` is a number or `auto`, `duration` is `10m`, `interval` is steps or a duration.
Only `path` and `paths` may hold bytes that are not UTF-8."""

PATH_KINDS = ("path", "paths")

_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")


@dataclass(frozen=True)
class Spec:
    """What is known about one field; stored in the metadata of the dataclass field."""

    help: str
    kind: Kind
    low: float | None = None
    high: float | None = None
    above: float | None = None
    core: str | None = None
    """The setting whose limits the extension module has. They count where `low`, `high` and `above` say nothing."""
    choices: tuple[str, ...] = ()
    free: bool = False
    aliases: tuple[str, ...] = ()
    metavar: str | None = None
    default_text: str | None = None
    takes: str | None = None
    """What it takes, for hints, where kind and limits do not say it all; `{low}` and `{high}` are the limits."""
    hidden: bool = False
    """Whether it has no flag: only the file of a run holds it."""
    since: str | None = None
    """The version that brought it, where that is not the first one."""
    before: Any = None
    """What runs of the versions before `since` did. It counts where the file of a run lacks the setting, whatever the
    default is now. The file of a run names all that is not None, so a setting with a value here has a default that is
    not None either."""
    default: Any = None
    """Filled in by `option`."""


def option(default: T, spec: Spec) -> T:
    """A dataclass field with a default value and its description."""
    return dataclasses.field(default=default, metadata={"spec": dataclasses.replace(spec, default=default)})


def flag_of(name: str) -> str:
    """The command line spelling of a field: `batch_size` -> `--batch-size`."""
    return "--" + name.replace("_", "-")


def specs(cls: type) -> dict[str, Spec]:
    """Field name -> description, in declaration order."""
    return {f.name: f.metadata["spec"] for f in dataclasses.fields(cls) if "spec" in f.metadata}


class Settings:
    """A frozen dataclass of options. Values are converted and checked when the object is made. None is the default,
    except where the type has it too: there it stays None."""

    def __post_init__(self) -> None:
        cls: type = type(self)
        for field in dataclasses.fields(cls):
            spec: Spec | None = field.metadata.get("spec")
            if spec is None:
                continue
            value = getattr(self, field.name)
            if value is not None:
                object.__setattr__(self, field.name, convert(field.name, spec, value))
            elif not str(field.type).endswith("| None"):
                object.__setattr__(self, field.name, spec.default)


class Section(Settings):
    """A part of the settings of a training run."""

    heading: ClassVar[str]
    """What stands above its settings in a TOML file."""


def name_of(name: str, spec: Spec) -> str:
    """How messages call a setting: by its flag if it has one."""
    return name if spec.hidden else flag_of(name)


def limited(spec: Spec) -> Spec:
    """The same description with its limits, wherever they are."""
    if spec.core is None:
        return spec
    # Here and not above, since help needs no extension module.
    from .. import _symlm

    core = _symlm.limits(spec.core)
    low, above = (None, core.low) if core.above else (core.low, None)
    return dataclasses.replace(
        spec,
        core=None,
        low=low if spec.low is None else spec.low,
        above=above if spec.above is None else spec.above,
        high=core.high if spec.high is None else spec.high,
    )


def convert(name: str, spec: Spec, raw: Any) -> Any:
    """Turn a value from any source into the type of the field and check its limits; UsageError if that fails."""
    raw = plain(raw)
    try:
        value = _CONVERT[spec.kind](spec, raw)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{name_of(name, spec)}: {error}", _hint(name, spec, raw)) from None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        _check_limits(name, spec, value)
    return value


def _check_limits(name: str, spec: Spec, value: float) -> None:
    spec = limited(spec)
    expected = None
    if isinstance(value, float) and not math.isfinite(value):
        expected = "a finite number"
    elif spec.low is not None and value <= 0 < spec.low < 1e-30:
        # The least number that an f32 holds is not what somebody wants to know who wrote 0.
        expected = "a number above 0"
    elif spec.low is not None and value < spec.low:
        expected = f"at least {_bound(spec.low)}"
    elif spec.above is not None and value <= spec.above:
        expected = f"a number above {_bound(spec.above)}"
    elif spec.high is not None and value > spec.high:
        expected = f"at most {_bound(spec.high)}"
    if expected is not None:
        found = f"{value:,}" if abs(value) < 1e18 else shown(value)
        raise UsageError(f"{name_of(name, spec)}: expected {expected}, found {found}", _hint(name, spec, value))


def _bound(value: float) -> str:
    """A limit, readable: all digits of a whole number, and no more of another than it was written with."""
    return f"{int(value):,}" if value == int(value) else repr(value)


def _range(spec: Spec) -> str:
    high = "" if spec.high is None else _bound(spec.high)
    # The least number that an f32 holds is as good as 0 to a reader.
    above = 0 if spec.low is not None and 0 < spec.low < 1e-30 else spec.above
    if above is not None:
        return f" above {_bound(above)}" + (f", at most {high}" if high else "")
    if spec.low is not None:
        return f" from {_bound(spec.low)} to {high}" if high else f" of at least {_bound(spec.low)}"
    return f" of at most {high}" if high else ""


def takes(spec: Spec) -> str:
    """What a setting takes, readable."""
    spec = limited(spec)
    if spec.takes is not None:
        low, high = ("" if limit is None else _bound(limit) for limit in (spec.low, spec.high))
        return spec.takes.format(low=low, high=high)
    return {
        "int": f"a whole number{_range(spec)}",
        "float": f"a number{_range(spec)}",
        "bool": "true or false",
        "str": "text; in a TOML file it stands in quotes",
        "choice": f"one of {', '.join(spec.choices)}",
        "auto_int": f"auto or a whole number{_range(spec)}",
        "duration": "a time such as 25s, 10m or 2h, up to about 30 years",
        "interval": "a number of steps such as 500, or a time such as 10m",
        "path": "the name of a file or folder, or one of the words of its help; in a TOML file it stands in quotes",
        "paths": "files, folders, globs or -; in a TOML file a list of them in quotes",
    }[spec.kind]


def _hint(name: str, spec: Spec, raw: Any) -> str:
    near = did_you_mean(raw.strip().lower(), spec.choices) if isinstance(raw, str) else None
    called = name_of(name, spec)
    return f"did you mean {called} {near}?" if near else f"{called} takes {takes(spec)}"


def _integer(_: Spec, raw: Any) -> int:
    if isinstance(raw, str):
        return parse_count(raw)
    if isinstance(raw, bool) or not isinstance(raw, (int, float)) or raw != raw or raw in (math.inf, -math.inf):
        raise ValueError(f"expected a whole number, found {shown(raw)}")
    if raw != int(raw):
        raise ValueError(f"expected a whole number, found {shown(raw)}")
    return int(raw)


def _number(_: Spec, raw: Any) -> float:
    if isinstance(raw, str):
        try:
            return float(raw)
        except ValueError:
            raise ValueError(f'expected a number, found "{raw[:80]}"') from None
    if isinstance(raw, bool) or not isinstance(raw, (int, float)):
        raise ValueError(f"expected a number, found {shown(raw)}")
    return float(raw)


def _boolean(_: Spec, raw: Any) -> bool:
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, str) and raw.strip().lower() in _TRUE:
        return True
    if isinstance(raw, str) and raw.strip().lower() in _FALSE:
        return False
    raise ValueError(f"expected true or false, found {shown(raw)}")


def _string(_: Spec, raw: Any) -> str:
    if not isinstance(raw, str):
        raise ValueError(f"expected text, found {shown(raw)}")
    if "\0" in raw:
        raise ValueError("expected text without NUL characters")
    return text_of(raw)


def _choice(spec: Spec, raw: Any) -> str:
    text = _string(spec, raw).strip().lower()
    if text in spec.choices:
        return text
    raise ValueError(f'expected one of {", ".join(spec.choices)}, found "{text[:80]}"')


def _auto_integer(spec: Spec, raw: Any) -> int | str:
    if isinstance(raw, str) and raw.strip().lower() == "auto":
        return "auto"
    try:
        return _integer(spec, raw)
    except ValueError:
        raise ValueError(f"expected auto or a whole number, found {shown(raw)}") from None


def _duration(spec: Spec, raw: Any) -> float:
    """Seconds; a plain number is seconds too."""
    if isinstance(raw, str):
        try:
            return float(raw)
        except ValueError:
            return parse_duration(raw)
    return _number(spec, raw)


def _interval(spec: Spec, raw: Any) -> int | str:
    """A number of steps stays a number, a duration stays text (`10m`), so that both survive a round trip."""
    if isinstance(raw, str):
        try:
            # "m" is minutes here, so only a plain number is a number of steps.
            return parse_count(raw) if raw.strip()[-1:].isdigit() else _checked_duration(raw)
        except ValueError:
            raise ValueError(f'expected steps (500) or a duration (10m), found "{raw[:80]}"') from None
    return _integer(spec, raw)


def _checked_duration(raw: str) -> str:
    parse_duration(raw)
    return raw.strip().lower().replace(" ", "")


def _path(_: Spec, raw: Any) -> str:
    return path_of(raw)


def _paths(_: Spec, raw: Any) -> tuple[str, ...]:
    return tuple(map(path_of, (raw,) if is_path(raw) else several(raw, "a path or a list of paths")))


_CONVERT = {
    "int": _integer,
    "float": _number,
    "bool": _boolean,
    "str": _string,
    "choice": _choice,
    "auto_int": _auto_integer,
    "duration": _duration,
    "interval": _interval,
    "path": _path,
    "paths": _paths,
}
