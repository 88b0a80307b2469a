"""Settings of a benchmark, beside those of the model, which are the ones of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config.options import Settings, Spec, convert, flag_of, option, specs
from ..config.train_config import MODEL_FIELDS, SPECS, TrainConfig
from ..errors import UsageError, shown
from ..units import format_count, whole_number

BENCH_PRESET = "3m"
MODEL_SETTINGS = ("preset", *MODEL_FIELDS, "batch_size", "threads", "sectors_in_flight", "precision", "tokenizer")
"""Settings of a training run that a benchmark has too."""

ROUNDS, QUICK_ROUNDS = 9, 3
TURN_SECONDS, QUICK_TURN_SECONDS = 0.5, 0.25
LEAST_UPDATES, MOST_UPDATES = 1, 50
LINK_GBIT = (1.0, 10.0, 25.0)
LINK_LATENCY_US = 50.0
MOST_GBIT = 10_000.0


@dataclass(frozen=True, kw_only=True)
class BenchConfig(Settings):
    """What is measured and how long. Values are checked when the object is made."""

    quick: bool = option(False, Spec("fewer and shorter turns, for a first look", "bool", default_text=""))
    rounds: int | None = option(
        None,
        Spec(
            "rounds in which everything takes its turn; figures are medians over them",
            "int",
            low=1,
            high=1000,
            default_text=f"{ROUNDS}, with --quick {QUICK_ROUNDS}",
        ),
    )
    updates: int | None = option(
        None,
        Spec(
            "updates in a turn",
            "int",
            low=1,
            high=100_000,
            default_text=f"as many as take {TURN_SECONDS:g} s, but {LEAST_UPDATES} to {MOST_UPDATES}",
        ),
    )
    scaling: str | None = option("1,2,4,8,16,32,63", Spec("numbers of threads to compare", "str", metavar="N,N,.."))
    switches: bool = option(True, Spec("compare each optimisation with its baseline", "bool", default_text="yes"))
    simulate: bool = option(
        False, Spec("replay a recorded update on 1 to 128 simulated workers", "bool", default_text="")
    )
    simulate_network: bool = option(
        False,
        Spec("predict the speed on 1 to 12 machines from a recorded update and a link", "bool", default_text=""),
    )
    link_gbit: str | None = option(
        None,
        Spec(
            "rates of the simulated links in Gbit/s", "str", metavar="N,N,..", default_text="1,10,25",
            takes="numbers above 0",
        ),
    )  # fmt: skip
    link_latency: float | None = option(
        None,
        Spec(
            "microseconds that a message takes on the simulated link beside its bytes", "float", low=0, high=1e6,
            default_text=f"{LINK_LATENCY_US:g}",
        ),
    )  # fmt: skip
    decode: str | None = option(
        None,
        Spec(
            "measure how fast this model writes text, and nothing else: a run folder, a model folder or a GGUF file",
            "path",
            metavar="MODEL",
        ),
    )
    peers: str | None = option(
        None,
        Spec(
            "also time another library on the same model: torch, or with --decode llama.cpp", "choice",
            choices=("torch", "llama.cpp"),
        ),
    )  # fmt: skip
    torch_python: str | None = option(
        None, Spec("interpreter that has torch", "path", metavar="PATH", default_text="the one that runs symlm")
    )
    json: str | None = option(None, Spec("write the figures to this file as well", "path", metavar="FILE"))
    out_dir: str | None = option(
        None, Spec("folder for bench.json and the charts", "path", metavar="PATH", default_text="runs/bench-<size>")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.thread_counts
        _ = self.link_rates
        for name in ("link_gbit", "link_latency"):
            if getattr(self, name) is not None and not self.simulate_network:
                flag = flag_of(name)
                raise UsageError(f"{flag} without --simulate-network", f"add --simulate-network, or leave {flag} out")
        if self.peers is not None and (self.peers == "llama.cpp") != (self.decode is not None):
            raise UsageError(
                f"--peers {self.peers} {'without' if self.decode is None else 'with'} --decode",
                "torch trains, llama.cpp writes: --decode MODEL --peers llama.cpp",
            )
        if self.torch_python is not None and self.peers != "torch":
            raise UsageError("--torch-python without --peers torch", "add --peers torch, or leave it out")

    @property
    def thread_counts(self) -> list[int]:
        """Numbers of threads to compare, ascending; 1 is always among them. Empty: no comparison."""
        if self.scaling is None:
            return []
        # Here and not above, since help needs no extension module.
        from .. import _symlm

        counts, most = {1}, int(_symlm.limits("threads").high)
        for part in self.scaling.split(","):
            count = whole_number(part.strip())
            if count is None or not 1 <= count <= most:
                raise UsageError(
                    f"--scaling: expected whole numbers from 1 to {most:,}, found {shown(part)}",
                    "such as --scaling 1,2,4,8",
                )
            counts.add(count)
        return sorted(counts)

    @property
    def link_rates(self) -> list[float]:
        """Rates of the simulated links in Gbit/s, ascending."""
        if self.link_gbit is None:
            return list(LINK_GBIT)
        rates = set()
        for part in self.link_gbit.split(","):
            try:
                rate = float(part)
            except ValueError:
                rate = 0.0
            if not 0 < rate <= MOST_GBIT:
                raise UsageError(
                    f"--link-gbit: expected numbers above 0, at most {MOST_GBIT:,.0f}, found {shown(part)}",
                    "such as --link-gbit 1,2.5,10",
                )
            rates.add(rate)
        return sorted(rates)

    @property
    def link_seconds(self) -> float:
        """Latency of the simulated links."""
        return (LINK_LATENCY_US if self.link_latency is None else self.link_latency) / 1e6

    @property
    def round_count(self) -> int:
        """Rounds to do."""
        return self.rounds or (QUICK_ROUNDS if self.quick else ROUNDS)

    def updates_for(self, seconds: float) -> int:
        """Updates in a turn of something that takes `seconds` for one."""
        if self.updates is not None:
            return self.updates
        budget = QUICK_TURN_SECONDS if self.quick else TURN_SECONDS
        return min(max(round(budget / seconds), LEAST_UPDATES), MOST_UPDATES) if seconds > 0 else MOST_UPDATES


BENCH_SPECS: dict[str, Spec] = specs(BenchConfig)
"""Field name -> description of every setting, in the order of the help text."""


def model_settings(data: tuple[str, ...], given: dict[str, Any]) -> TrainConfig:
    """The training that is timed. `given` maps names of `MODEL_SETTINGS` to values from the command line."""
    values = {name: convert(name, SPECS[name], value) for name, value in given.items()}
    if "tokenizer" in values and not data:
        raise UsageError("--tokenizer without a PATH", "name a text, or leave it out: the tokens are random then")
    return TrainConfig(data=data, **{"preset": BENCH_PRESET, **values})


def default_out_dir(config: TrainConfig, base: Path = Path("runs")) -> Path:
    """`runs/bench-<preset>`, or with the number of parameters where the shape is another one; -2, -3, .. when that is
    taken."""
    model, preset = config.model, config.preset_name
    size = preset if model == TrainConfig(preset=preset).model else format_count(model.parameters)
    number, path = 1, base / f"bench-{size}"
    while path.exists():
        number += 1
        path = base / f"bench-{size}-{number}"
    return path
