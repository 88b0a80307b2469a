"""Python that runs first in a server's process (`serving(patch=...)`): it changes limits, and holds work back, so that
no test depends on how fast the machine is."""

from __future__ import annotations

HELD = """
import symlm.serve.jobs as jobs
jobs.Job._tell = lambda self, index, what: None
"""
"""No request for text is ever told a token, so none ends by itself."""

GATE = """
import os, time
import symlm.serve.scheduler as scheduler
orders, steps = scheduler.Scheduler._orders, 0
def gated(self):
    global steps
    steps += 1
    while steps > 4 and not os.path.exists(os.environ['GATE']):
        time.sleep(0.01)
    return orders(self)
scheduler.Scheduler._orders = gated
"""
"""The engine stops after four steps until the file of the variable GATE exists."""

STEPS = 4
"""Of `GATE`."""


def constants(**values: float) -> str:
    """Other values for constants of `symlm.serve`, as `connection__MOST=3`."""
    lines = []
    for name, value in values.items():
        module, _, constant = name.partition("__")
        # Read first: one that does not exist is an error.
        where = f"symlm.serve.{module}"
        lines.append(f"import {where}\n{where}.{constant}\n{where}.{constant} = {value}")
    return "\n".join(lines)
