"""`symlm serve`."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from ..config.sampling import SAMPLING_SPECS, Sampling
from ..config.serving import SERVING_SPECS, Serving
from .common import PATH, Command, checkpoint_flag, say, weights_flag
from .flags import setting_option

_DEFAULTS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


def _run(
    model: str,
    checkpoint: str,
    weights: str,
    allow_host: tuple[str, ...],
    allow_origin: tuple[str, ...],
    **values: Any,
) -> int:
    given = {name: value for name, value in values.items() if value is not None}
    settings = Serving(**{name: value for name, value in given.items() if name in SERVING_SPECS})
    defaults = Sampling(**{name: value for name, value in given.items() if name in _DEFAULTS})
    from ..serve.server import serve

    return serve(model, checkpoint, weights, settings, defaults, hosts=allow_host, origins=allow_origin, say=say)


def _serving(name: str) -> click.Option:
    spec = SERVING_SPECS[name]
    return setting_option(name, dataclasses.replace(spec, help=f"{spec.help}."))


def _sampling(name: str) -> click.Option:
    """What a request that leaves a sampling setting open gets."""
    spec = SAMPLING_SPECS[name]
    return setting_option(name, dataclasses.replace(spec, help=f"{spec.help}."), f"default: {spec.default}")


command = Command(
    "serve",
    callback=_run,
    params=[
        click.Argument(["model"], type=PATH, metavar="MODEL"),
        checkpoint_flag(),
        weights_flag(),
        *(
            setting_option(name, dataclasses.replace(spec, help=f"{spec.help}."))
            for name, spec in SERVING_SPECS.items()
        ),
        click.Option(
            ["--allow-host"], multiple=True, metavar="NAME", help="Further name of this server; may be repeated."
        ),
        click.Option(
            ["--allow-origin"],
            multiple=True,
            metavar="ORIGIN",
            help="Site whose pages may use this server, such as https://example.org; may be repeated.",
        ),
        *(_sampling(name) for name in _DEFAULTS),
    ],
    help="""Serve MODEL: OpenAI's interface under /v1, and a page to try it at /.

    Sampling flags are for requests that leave these settings open. SIGTERM or Ctrl-C ends the server when the requests
    under way are answered.""",
    short_help="Serve a model: OpenAI's interface, and a page.",
)
