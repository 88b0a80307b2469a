"""`docs/settings.md`, made from the tables of settings: `python -m symlm.cli.reference > docs/settings.md`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping

from ..bench.settings import BENCH_SPECS
from ..config.options import Spec, flag_of, specs, takes
from ..config.sampling import SAMPLING_SPECS
from ..config.sections import INVOCATION_FIELDS, SECTIONS
from ..system.output import write_all
from .finetune import DEFAULT_TEXTS
from .flags import default_text

_FLAG = re.compile(r"(?<!`)--[a-z][a-z0-9-]*")

_SHORT = {"str": "text", "path": "a path", "paths": "paths", "bool": "yes or no"}
"""Where the text for hints says more than a table needs."""

_INTRO = """\
# Settings

<!-- Made by: python -m symlm.cli.reference > docs/settings.md. Change the tables in python/symlm, not this file. -->

Every setting, what it takes and its default. The [guide](guide.md) explains what they are for.

## Training

These are the flags of `symlm train`, and of `symlm finetune` except for the shape of the model. Each is also a key of a
TOML file (`batch_size = 16`), a variable (`SYMLM_BATCH_SIZE=16`), and an argument and attribute of `symlm.TrainConfig`.

"Resume" says whether a run may be resumed with another value. A setting marked "once" belongs to one call: the
`config.toml` of the run does not keep it.
"""

_SAMPLING = """\
## Sampling

The flags of `symlm generate`. Each is also an argument of `Generator.generate` and `Generator.stream`.
"""

_BENCH = """\
## Measuring

The flags of `symlm bench`, beside those of the model that is timed.
"""


def reference() -> str:
    """The text of `docs/settings.md`."""
    parts = [_INTRO]
    for heading, settings in _by_heading().items():
        rows = (
            [_flags(name, spec), f"`{name}`", _takes(spec), _default(name, spec), _resume(name, spec), _meaning(spec)]
            for name, spec in settings.items()
            if not spec.hidden
        )
        parts.append(f"### {heading.capitalize()}\n")
        parts.append(_table(["flag", "key", "takes", "default", "resume", "meaning"], rows))
    parts += [_SAMPLING, _flag_table(SAMPLING_SPECS, "argument"), _BENCH, _flag_table(BENCH_SPECS)]
    return "\n".join(parts)


def _by_heading() -> dict[str, dict[str, Spec]]:
    """The settings of a training run under the headings of a TOML file."""
    found: dict[str, dict[str, Spec]] = {}
    for section in SECTIONS.values():
        found.setdefault(section.heading, {}).update(specs(section))
    return found


def _flag_table(settings: Mapping[str, Spec], argument: str | None = None) -> str:
    head = ["flag", *([argument] if argument else []), "takes", "default", "meaning"]
    rows = (
        [
            "" if spec.hidden else _flags(name, spec),
            *([f"`{name}`"] if argument else []),
            _takes(spec),
            _cell(default_text(spec)),
            _meaning(spec),
        ]
        for name, spec in settings.items()
    )
    return _table(head, rows)


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |\n" for cells in (head, *rows)]
    return "".join([lines[0], "|---" * len(head), "|\n", *lines[1:]])


def _flags(name: str, spec: Spec) -> str:
    if name == "data":
        return "`PATH`"
    names = [flag_of(name), *spec.aliases]
    if spec.kind == "bool":
        names.append(f"--no-{flag_of(name)[2:]}")
    return ", ".join(f"`{flag}`" for flag in names)


def _takes(spec: Spec) -> str:
    return _cell(_SHORT.get(spec.kind) or takes(spec))


def _default(name: str, spec: Spec) -> str:
    usual, tuned = default_text(spec), DEFAULT_TEXTS.get(name)
    return _cell(usual if tuned is None else f"{usual or 'none'}; `symlm finetune`: {tuned}")


def _resume(name: str, spec: Spec) -> str:
    return "once" if name in INVOCATION_FIELDS else "may change" if spec.free else ""


def _meaning(spec: Spec) -> str:
    return _cell(spec.help if spec.since is None else f"{spec.help} (since {spec.since})")


def _cell(text: str) -> str:
    """Text in which nothing ends a cell or begins a tag, and flags are code."""
    return _FLAG.sub(r"`\g<0>`", text.replace("|", "\\|").replace("<", "&lt;"))


if __name__ == "__main__":
    write_all(sys.stdout.buffer, reference().encode("utf-8"))
