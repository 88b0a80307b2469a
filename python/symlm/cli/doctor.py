"""`symlm doctor`."""

from __future__ import annotations

import json
from typing import Any

import click

from .common import Command


@click.command("doctor", cls=Command, short_help="The machine and versions, for bug reports.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
def command(as_json: bool) -> None:
    """Show what symlm sees of this machine: instruction set, threads, limits, versions."""
    from .. import _symlm
    from ..system.machine import describe, gib
    from ..text.corpus import cache_dir

    facts: dict[str, Any] = describe()
    threads = facts["threads_auto"]
    facts["fma_peak_gflops"] = round(_symlm.fma_peak(threads, 0.3), 1)
    facts["cache"] = str(cache_dir())
    if as_json:
        click.echo(json.dumps(facts, indent=1))
        return
    available = facts["memory_available_bytes"]
    rows = [
        ("symlm", facts["symlm"]),
        ("python", f"{facts['python']} ({facts['implementation']})"),
        ("system", facts["platform"]),
        ("processor", facts["cpu"] or "unknown"),
        ("instruction set", f"{facts['isa']} (available: {', '.join(facts['isa_available'])})"),
        ("threads", f"{threads} ({facts['threads_auto_rule']})"),
        ("cpus", f"{facts['cpus_online']} online, {facts['cpus_in_affinity_mask']} in the affinity mask"),
        ("fma peak", f"{facts['fma_peak_gflops']} GFLOP/s with {threads} threads"),
        ("memory", "unknown" if available is None else f"{gib(available)} available"),
        *((f"cgroup {key}", value) for key, value in facts["cgroup"].items()),
        ("token cache", facts["cache"]),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"{name:<{width}}  {value}")
