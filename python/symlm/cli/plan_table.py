"""A plan as a table: drawn by Rich on a terminal, lines of text elsewhere."""

from __future__ import annotations

import sys

import click

from ..errors import printable
from ..run.metrics import to_line
from ..system.machine import gib
from ..training.plan import Plan
from ..units import count_of, format_count, format_duration, format_short_duration

Row = tuple[str, str, str]
"""What, how much, remark."""


def rows(plan: Plan) -> list[tuple[str, list[Row]]]:
    """Sections of a plan with their rows."""
    memory, disk, config = plan.memory, plan.disk, plan.config
    model = config.model
    available = "unknown" if memory.available is None else gib(memory.available)
    in_memory: list[Row] = [(name, gib(size), "") for name, size in memory.engine.items()]
    in_memory += [(name, gib(size), "for a while") for name, size in memory.beside.items()]
    in_memory += [(name, gib(size), "at the end, without the others") for name, size in memory.at_end.items()]
    in_memory += [("needed", gib(memory.needed), ""), ("available", available, memory.rule)]
    each = gib(disk.checkpoint_bytes)
    remark = f"{count_of(disk.checkpoints, 'checkpoint')} of {each}, one of them being written"
    on_disk: list[Row] = [
        ("checkpoints", gib(disk.needed), remark),
        ("free", gib(disk.free), str(disk.folder)),
        (
            "encoded text",
            f"about {gib(disk.shard_bytes)}",
            f"in {disk.cache}, once for each text and tokenizer",
        ),
    ]
    in_time: list[Row] = [
        ("text", f"{format_count(plan.text_bytes)} bytes", f"about {format_count(plan.tokens)} tokens"),
        ("updates", f"{plan.updates:,}", plan.decided_by),
        (
            "an update",
            f"about {format_short_duration(plan.seconds_per_update)}",
            f"at {100 * plan.part_of_peak:.0f} % of the {plan.peak_name}",
        ),
        ("training", f"about {format_duration(plan.seconds)}", "an estimate; other work on the machine adds to it"),
    ]
    origin = config.origin if config.init_from else f"preset {config.origin}"
    what: list[Row] = [
        ("model", f"{format_count(plan.parameters)} parameters", origin),
        ("batch", f"{config.batch_size:,} windows", f"of {model.seq_len:,} tokens"),
        ("sectors", str(config.sectors_in_flight), "in flight"),
        ("threads", str(plan.threads), plan.threads_rule),
    ]
    if plan.ranks > 1:
        sent = f"up to {format_count(plan.sent_bytes)} bytes leave each in an update"
        what.append(("ranks", str(plan.ranks), sent))
    return [("training", what), ("memory", in_memory), ("disk", on_disk), ("time", in_time)]


def print_plan(plan: Plan, *, as_json: bool = False) -> None:
    """Write a plan to standard output."""
    if as_json:
        click.echo(to_line(plan.as_dict()))
    elif sys.stdout is not None and sys.stdout.isatty():
        _draw(plan)
    else:
        for section, lines in rows(plan):
            click.echo(section)
            for name, value, remark in lines:
                click.echo(printable(f"  {name:<18} {value:>18}  {remark}".rstrip()))


def _draw(plan: Plan) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim", overflow="fold")
    for section, lines in rows(plan):
        table.add_row(Text(section, style="bold"), "", "")
        for name, value, remark in lines:
            table.add_row(Text(f"  {name}"), Text(value), Text(printable(remark)))
    Console().print(table)
