"""`symlm bench`."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from ..bench.settings import BENCH_PRESET, BENCH_SPECS, MODEL_SETTINGS, BenchConfig, model_settings
from ..config.options import Spec
from ..config.sections import SPECS
from ..errors import UsageError
from .common import PATH, Command
from .flags import setting_option


def _model_spec(name: str) -> Spec:
    spec = SPECS[name]
    return dataclasses.replace(spec, default_text=BENCH_PRESET) if name == "preset" else spec


def _run(data: tuple[str, ...], no_scaling: bool, **values: Any) -> int:
    given = {name: value for name, value in values.items() if value is not None}
    bench = BenchConfig(**{name: value for name, value in given.items() if name in BENCH_SPECS})
    if no_scaling:
        if "scaling" in given:
            raise UsageError(f"--scaling {given['scaling']} and --no-scaling", "leave one of them out")
        bench = dataclasses.replace(bench, scaling=None)
    if bench.decode is not None:
        from ..bench.decode import DecodeBench

        if data:
            raise UsageError(f"--decode beside {data[0]}", "the tokens of --decode need no text")
        return DecodeBench(bench).run()
    train = model_settings(data, {name: value for name, value in given.items() if name in MODEL_SETTINGS})
    from ..bench.run import Bench

    return Bench(bench, train).run()


command = Command(
    "bench",
    callback=_run,
    params=[
        click.Argument(["data"], nargs=-1, type=PATH, metavar="[PATH]..."),
        *(setting_option(name, _model_spec(name)) for name in MODEL_SETTINGS),
        *(setting_option(name, spec) for name, spec in BENCH_SPECS.items()),
        click.Option(["--no-scaling"], is_flag=True, help="Do not compare numbers of threads."),
    ],
    help="""Measure the speed of training on this machine.

    Tokens per second and the share of the processor's peak; the same on 1, 2, 4, .. threads; each optimisation against
    its baseline. Everything takes turns, round after round, and the figures are medians over the rounds. Tables go to
    standard output, bench.json and charts into a folder. Ctrl-C ends it with what was measured so far.

    With --decode MODEL the speed of writing text instead: one text, 32 together, reading a prompt, with weights in f32
    and in 8 bits, beside what the memory of the machine allows.

    Without a PATH the tokens are random: speed does not depend on the text.""",
    short_help="Speed of training, and what each optimisation brings.",
)
