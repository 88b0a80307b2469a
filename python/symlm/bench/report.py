"""The figures as tables."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from ..units import count_of, format_count
from .figures import Figures
from .network import NetworkRow
from .record import Row
from .tasks import Decoding

LEAST_WIDTH = 100
CHAIN_KINDS = 4
NO_FIGURE = "-"


def _number(value: float | None) -> str:
    return NO_FIGURE if value is None else f"{value:,.0f}"


def _share(value: float | None) -> str:
    return NO_FIGURE if value is None else f"{value:.1%}"


def _factor(value: float | None) -> str:
    return NO_FIGURE if value is None else f"{value:.2f} x"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.2f}"


def _table(title: str, *columns: str) -> Table:
    """A table with its first column to the left."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    return table


def end_to_end(figures: Figures) -> Table:
    """symlm as training uses it, and the peers. Busy is the part of the time that workers are inside tasks."""
    integers = figures.medians(figures.base)["integer_peak_frac"] is not None
    peaks = ("FMA peak", "integer peak") if integers else ("FMA peak",)
    table = _table("End to end", "", "tokens/s", "GFLOP/s", *peaks, "busy", "symlm is")
    names: list[tuple[str, str, float | None]] = [
        (figures.base, f"symlm, {count_of(figures.plan.base.threads, 'thread')}, {figures.plan.base.isa}", None)
    ]
    names += [(ratio.to, ratio.to, ratio.factor) for ratio in figures.peers()]
    for name, label, factor in names:
        found = figures.medians(name)
        shares = [found["peak_frac"], *([found["integer_peak_frac"]] if integers else [])]
        table.add_row(
            label, _number(found["tok_s"]), _number(found["gflops"]), *map(_share, shares),
            _share(found["busy_frac"]), "" if name == figures.base else _factor(factor),
        )  # fmt: skip
    return table


def against_peers(figures: Figures) -> Table:
    """Tokens a second of each side over its turns, with the peak that was measured beside them."""
    columns = ("best", "upper quartile", "median", "lower quartile", "FMA peak, GFLOP/s")
    table = _table("Turns, tokens/s", "", *columns)
    for name, label in ((figures.base, "symlm"), *((ratio.to, ratio.to) for ratio in figures.peers())):
        spread, found = figures.spread(name), figures.medians(name)
        values = [None] * 4 if spread is None else [spread.best, spread.upper, spread.median, spread.lower]
        table.add_row(label, *map(_number, values), _number(found["peak_gflops"]))
    return table


def factors_of_peers(figures: Figures) -> Table:
    """How many times as fast symlm is: in each round, and the best turn against the best."""
    columns = ("upper quartile", "median", "lower quartile", "best of best", "rounds")
    table = _table("Speed of symlm, in multiples of", "", *columns)
    for ratio in figures.peers():
        spread = ratio.spread
        values = [None] * 3 if spread is None else [spread.upper, spread.median, spread.lower]
        table.add_row(ratio.to, *map(_factor, [*values, ratio.of_best]), str(len(ratio.rounds)))
    return table


PEER_NOTE = (
    "A factor is taken within each round. Peers are stopped outside their turns, and the peak is measured after each"
    " turn with the same threads."
)


def decoding(measured: Decoding) -> Table:
    """Tokens a second of each task, the share of the read bandwidth that one text takes, and a peer's best."""
    table = _table("Generation", "", "threads", "tokens/s", "GB/s read", "of the bandwidth", "llama.cpp", "symlm is")
    labels = {"decode": "one text", "batch": "32 texts", "prefill": "prompt"}
    for weights, bandwidth in measured.bandwidth.items():
        for task, label in labels.items():
            own, peer = measured.best("symlm", weights, task), measured.best("llama.cpp", weights, task)
            if own is None or own.tok_s is None:
                continue
            read = None if own.bytes is None else own.bytes * own.tok_s
            other = None if peer is None else peer.tok_s
            table.add_row(
                f"{weights}, {label}", str(own.threads), _number(own.tok_s),
                NO_FIGURE if read is None else f"{read / 1e9:.1f}", _share(None if read is None else read / bandwidth),
                NO_FIGURE if peer is None else f"{_number(other)} ({peer.threads})",
                _factor(None if other is None else own.tok_s / other),
            )  # fmt: skip
    return table


def scaling(figures: Figures, cores: int) -> Table:
    """Speed over threads; the efficiency is per processor in use."""
    integers = figures.medians(figures.base)["integer_peak_frac"] is not None
    peak, key = ("integer peak", "integer_peak_frac") if integers else ("FMA peak", "peak_frac")
    table = _table("Threads", "threads", "tokens/s", "speed-up", "efficiency", peak, "busy")
    for case, ratio in figures.scaling():
        found, factor = figures.medians(case.name), ratio.factor
        efficiency = None if factor is None else factor / min(case.threads, cores)
        busy = found["busy_frac"] if case.threads <= cores else None
        table.add_row(
            str(case.threads), _number(found["tok_s"]), _factor(factor), _share(efficiency),
            _share(found[key]), _share(busy),
        )  # fmt: skip
    return table


def comparisons(figures: Figures) -> Table:
    """Each optimisation against its baseline."""
    table = _table("Optimisations", "", "all others on", "all others off")
    rows: dict[str, dict[str, str]] = {}
    for name, rest, ratio in figures.comparisons():
        rows.setdefault(name, {})[rest] = _factor(ratio.factor)
    for name, found in rows.items():
        table.add_row(name, found.get("on", found.get("")), found.get("off", ""))
    return table


def simulation(rows: list[Row], figures: Figures, cores: int) -> Table:
    """The replay on more workers."""
    table = _table(
        "Simulated workers", "workers", "ms", "speed-up", "efficiency", "work ms", "chain ms", "limit", "measured"
    )
    for row in rows:
        found, workers = row.prediction, row.prediction.workers
        measured = figures.measured_speedup(workers) if workers <= cores else None
        table.add_row(
            str(workers), _milliseconds(found.seconds), _factor(row.speedup), _share(row.efficiency),
            _milliseconds(found.work / workers), _milliseconds(found.chain), found.limit, _factor(measured),
        )  # fmt: skip
    return table


def network(rows: list[NetworkRow]) -> Table:
    """Predicted speed on several machines, a pair of columns for each rate."""
    rates = list(dict.fromkeys(row.gbit_s for row in rows))
    columns = [text for rate in rates for text in (f"{rate:g} Gbit/s", "speed-up")]
    table = _table("Simulated machines, tokens/s", "machines", "MB sent", *columns)
    for machines in dict.fromkeys(row.forecast.machines for row in rows):
        found = [row for row in rows if row.forecast.machines == machines]
        cells = [cell for row in found for cell in (_number(row.tok_s), _factor(row.speedup))]
        table.add_row(str(machines), f"{found[0].sent_bytes / 1e6:,.1f}", *cells)
    return table


def network_pays(rows: list[NetworkRow], batch: int) -> Table:
    """From which batch, and from which model size with this batch, so many machines pay."""
    rates = list(dict.fromkeys(row.gbit_s for row in rows))
    columns = [text for rate in rates for text in (f"{rate:g} Gbit/s", f"with {batch:,}")]
    title = "More than half of each machine is used from a batch of .. windows, with this batch from .. parameters"
    table = _table(title, "machines", *columns)
    for machines in [count for count in dict.fromkeys(row.forecast.machines for row in rows) if count > 1]:
        cells = []
        for row in rows:
            if row.forecast.machines == machines:
                least = row.pays_from_parameters
                cells.append("never" if row.pays_from_batch is None else f"{row.pays_from_batch:,}")
                cells.append("never" if least is None else format_count(least) if least else "any size")
        table.add_row(str(machines), *cells)
    return table


def network_notes(latency: float) -> str:
    """What the prediction leaves out."""
    return (
        "Every machine is taken to be like this one, at a switch that carries all links at full rate; a message takes"
        f" {latency * 1e6:g} us beside its bytes. The measured speed of this machine is multiplied by the predicted"
        " speed-up. Data, checkpoints and evaluation are left out."
    )


def show_network(rows: list[NetworkRow], batch: int, latency: float) -> None:
    """Print the prediction for several machines to standard output."""
    console = _console()
    console.print(network(rows))
    console.print(network_pays(rows, batch))
    console.print(network_notes(latency), highlight=False)


def _console() -> Console:
    console = Console()
    # A file or a pipe has no width, and a table must not be cut there.
    return console if console.is_terminal else Console(width=LEAST_WIDTH)


def chain_text(row: Row) -> str:
    """The longest chain by kinds, with the share of each."""
    total = sum(seconds for _, _, seconds in row.chain)
    if total <= 0:
        return "nothing"
    parts = [f"{count} x {kind} {seconds / total:.0%}" for kind, count, seconds in row.chain[:CHAIN_KINDS]]
    rest = sum(seconds for _, _, seconds in row.chain[CHAIN_KINDS:])
    return ", ".join([*parts, f"other {rest / total:.0%}"] if rest > 0 else parts)


def simulation_notes(rows: list[Row], cores: int) -> str:
    """What limits the simulated update in the end, and what the simulation leaves out."""
    last = rows[-1]
    limited = next((row for row in rows if row.prediction.limit == "chain"), None)
    start = (
        "no number of workers here" if limited is None else f"from {count_of(limited.prediction.workers, 'worker')} on"
    )
    *fewer, most = sorted({row.recorded_with for row in rows})
    real = " and ".join([*map(str, fewer), count_of(most, "worker")])
    return (
        f"The longest chain limits {start}; that of {last.prediction.workers} workers: {chain_text(last)}. Each row has"
        " the plan that symlm makes for so many workers; no update is shorter than the work of each worker or the"
        f" longest chain. The times of the tasks were recorded with {real} on the"
        f" {count_of(cores, 'processor')} of this machine: caches, memory bandwidth and clock are theirs, and taking,"
        " stealing and waking cost nothing. So the speed-up over the first row is an upper bound."
    )


def show(figures: Figures, rows: list[Row], cores: int) -> None:
    """Print everything that was measured to standard output."""
    console = _console()
    console.print(end_to_end(figures))
    if figures.peers():
        console.print(against_peers(figures))
        console.print(factors_of_peers(figures))
        console.print(PEER_NOTE, highlight=False)
    if figures.plan.scaling:
        console.print(scaling(figures, cores))
    if figures.plan.comparisons:
        console.print(comparisons(figures))
    if rows:
        console.print(simulation(rows, figures, cores))
        console.print(simulation_notes(rows, cores), highlight=False)
