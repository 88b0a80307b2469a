"""`symlm doctor`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..errors import UserError
from .common import Command


@click.command("doctor", cls=Command, short_help="The machine and versions, for bug reports.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
@click.option("--prove", is_flag=True, help="Train three small models and compare their weights with known hashes.")
def command(as_json: bool, prove: bool) -> None:
    """Show what symlm sees of this machine: instruction set, threads, limits, versions, folders.

    It works on a machine where nothing else does, and says what is wrong with what it cannot find. With --prove it
    shows that this machine computes the same bits as all others, in one line to paste into a report.
    """
    from ..ranks.launch import describe
    from ..run.metrics import to_document
    from ..system.machine import gather_facts, gib, machine_facts
    from ..system.mpi import describe_mpi
    from ..system.peak import fma_peak
    from .common import tell

    if prove:
        _prove(as_json)
        return
    facts, problems = gather_facts(machine_facts() | _FOLDERS | {"mpi": describe_mpi, "ranks": describe})
    threads = facts["threads_auto"] or 1
    peak, more = gather_facts({"fma_peak_gflops": lambda: fma_peak(threads)})
    facts, problems = facts | peak, problems | more
    if as_json:
        click.echo(to_document(facts | {"problems": problems}), nl=False)
        return

    def row(name: str, *needed: str, text: Callable[[], str]) -> tuple[str, str]:
        wrong = [problems[key] for key in needed if key in problems]
        return name, f"unknown: {wrong[0]}" if wrong else text()

    rows = [
        row("symlm", "symlm", text=lambda: facts["symlm"]),
        row("python", "python", text=lambda: f"{facts['python']} ({facts['implementation']})"),
        row("system", "platform", text=lambda: facts["platform"]),
        row("processor", "cpu", text=lambda: facts["cpu"] or "unknown"),
        row(
            "instruction set", "isa", "isa_available",
            text=lambda: f"{facts['isa']} (available: {', '.join(facts['isa_available'])})",
        ),
        row("integer products", "integer_instructions", text=lambda: facts["integer_instructions"]),
        row("threads", "threads_auto", text=lambda: f"{threads} ({facts['threads_auto_rule']})"),
        row("cpus", "cpus_online", "cpus_in_affinity_mask", text=lambda: _cpus(facts)),
        row("fma peak", "fma_peak_gflops", text=lambda: f"{facts['fma_peak_gflops']} GFLOP/s with {threads} threads"),
        row("memory", "memory_available_bytes", text=lambda: _memory(facts["memory_available_bytes"], gib)),
        *((f"cgroup {key}", value) for key, value in (facts["cgroup"] or {}).items()),
        row("token cache", "cache", text=lambda: facts["cache"]),
        row("temporary files", "temporary", text=lambda: facts["temporary"]),
        row("mpi", "mpi", text=lambda: _mpi(facts["mpi"])),
        row("ranks", "ranks", text=lambda: facts["ranks"]),
    ]  # fmt: skip
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        tell(f"{name:<{width}}  {value}")


def _prove(as_json: bool) -> None:
    from ..check.prove import EXPECTED, prove
    from ..run.metrics import to_document
    from ..system.machine import describe
    from .common import tell

    facts, proof = describe(), prove()
    if as_json:
        told = {"equal": proof.equal, "found": proof.found, "expected": EXPECTED, "machine": facts}
        click.echo(to_document(told), nl=False)
    else:
        tell(proof.line(facts))
    proof.check()


def _cpus(facts: dict[str, Any]) -> str:
    return f"{facts['cpus_online']} online, {facts['cpus_in_affinity_mask']} in the affinity mask"


def _memory(available: int | None, gib: Callable[[float], str]) -> str:
    return "unknown" if available is None else f"{gib(available)} available"


def _mpi(found: dict[str, Any] | None) -> str:
    from ..system.mpi import MISSING

    if found is None:
        return f"none, needed only for several machines ({MISSING})"
    launchers = ", ".join(found["launchers"].values()) or "no launcher found (mpirun, mpiexec, srun)"
    return f"mpi4py {found['mpi4py']}, {found['library']}, {launchers}"


def _cache() -> str:
    from ..text.corpus import cache_dir

    folder = cache_dir()
    # It is made when it is needed.
    there = next((place for place in (folder, *folder.parents) if place.exists()), folder)
    return _writable(folder, there, "set SYMLM_CACHE_DIR to a folder that may be written to")


def _temporary() -> str:
    from ..system.files import temporary_folder

    # Nothing makes this one.
    folder = Path(temporary_folder())
    return _writable(folder, folder, "set TMPDIR to a folder that exists and may be written to")


def _writable(folder: Path, there: Path, hint: str) -> str:
    """The folder; UserError when no files can be made in `there`, which is it or will hold it."""
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{folder} cannot be written to", hint)
    return str(folder)


_FOLDERS: dict[str, Callable[[], Any]] = {"cache": _cache, "temporary": _temporary}
