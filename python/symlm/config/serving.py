"""How a model is served: the settings of `symlm serve` and their defaults."""

from __future__ import annotations

from dataclasses import dataclass

from .options import Settings, Spec, option, specs

_LONGEST = 604_800.0
"""Seconds of a week."""


@dataclass(frozen=True, kw_only=True)
class Serving(Settings):
    """How a model is served. Each field is a flag of `symlm serve`.

    Values are checked when the object is made; UsageError names the one that is wrong.
    """

    host: str = option("127.0.0.1", Spec("address to listen at; 0.0.0.0 is every network of this machine", "str"))
    port: int = option(
        8000, Spec("port to listen at; 0 takes a free one", "int", low=0, high=65535, takes="0 (a free one) to 65535")
    )
    slots: int = option(16, Spec("sequences that are written at the same time", "int", low=1, high=1024))
    threads: int | str = option("auto", Spec("threads that compute", "auto_int", core="threads", metavar="auto|N"))
    prefix_cache: int = option(
        64 << 20,
        Spec(
            "most bytes that are kept of finished sequences, for prompts that begin alike", "int", low=0, high=1 << 40,
            default_text="67108864",
        ),
    )  # fmt: skip
    max_queue: int = option(
        256, Spec("requests that may wait for a slot; more are refused (429)", "int", low=0, high=10**6)
    )
    max_body: int = option(
        4 << 20, Spec("most bytes of a request", "int", low=1024, high=1 << 30, default_text="4194304")
    )
    timeout: float = option(
        600.0,
        Spec(
            "time after which a request ends, waiting included", "duration", low=0.1, high=_LONGEST, default_text="10m"
        ),
    )
    drain: float = option(
        30.0,
        Spec("time that requests have to end after SIGTERM", "duration", low=0.1, high=_LONGEST, default_text="30s"),
    )
    api_key_file: str | None = option(
        None, Spec("keys that clients need, one a line; without it the variable SYMLM_API_KEY", "path", metavar="FILE")
    )


SERVING_SPECS: dict[str, Spec] = specs(Serving)
"""Field name -> description of every setting, in the order of the help text."""
