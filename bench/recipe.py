"""Which settings teach more in the same number of tokens? Screens candidates against today's defaults, and stacks.

Usage: recipe.py TEXT --runs FOLDER [--preset 3m] [--updates 600] [--held-out 1000000] [--only "NAME;NAME"]
                 [--time] [--report]

The last --held-out bytes of TEXT are the development split; nothing trains on them. Every candidate of `CANDIDATES` is
one run of --updates updates with one seed; the baseline has three, whose spread (standard deviation) says which gain is
more than chance. A candidate that gains more than twice the spread gets two more seeds. Each run adds a line to
FOLDER/recipe.jsonl, and a run that has its line is not done again, so the command can be stopped and repeated.

Runs have equal tokens; --time measures the price of an update on this machine, in turns with the baseline's, for
candidates with another batch, vocabulary or precision, and gives these as many updates as take the baseline's time.
Bits do not depend on the load of a machine, prices do: measure those on a quiet one. --report only prints the page.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import symlm
from symlm import _symlm
from symlm.config.engine import engine_settings
from symlm.config.presets import PRESETS
from symlm.layout import METRICS
from symlm.run.metrics import read_lines

BASE = "defaults"
BASE_SEEDS = (1, 2, 3)
LINES, PRICES = "recipe.jsonl", "prices.json"
TURNS = 7

Line = dict[str, Any]


@dataclass(frozen=True)
class Candidate:
    """A change of the defaults, and what it should bring."""

    name: str
    why: str
    """Expected gain and its source."""
    settings: dict[str, Any] = field(default_factory=dict)
    rate: float = 1.0
    """Factor of the preset's learning rate."""
    windows: float = 1.0
    """Factor of the windows in a batch; updates are divided by it, so that the tokens are the same."""
    vocab: float = 1.0
    """Factor of the vocabulary."""


CANDIDATES = (
    Candidate(BASE, "today's defaults"),
    Candidate("rate x 0.5", "start values were never swept beyond 3m", rate=0.5),
    Candidate("rate x 1.5", "the same", rate=1.5),
    Candidate("rate x 2", "the same", rate=2.0),
    Candidate("cosine", "0 to 0.5 %; the usual schedule", {"schedule": "cosine"}),
    Candidate("linear to 0", "0.5 to 1 %; Bergsma et al. 2025", {"schedule": "linear", "min_lr_ratio": 0.0}),
    Candidate("wsd to 0", "0.3 to 0.8 %; Haegele et al. 2024", {"min_lr_ratio": 0.0}),
    Candidate("wsd to 0, 40 %", "the same; longer decays gain in short runs", {"min_lr_ratio": 0.0, "decay_frac": 0.4}),
    Candidate("half batch", "1 to 2 % in tokens; Marek et al. 2025: small batches are more robust", windows=0.5),
    Candidate("quarter batch", "the same", windows=0.25),
    Candidate("beta2 0.98", "0 to 0.5 %; a half-life in tokens like that of larger batches", {"beta2": 0.98}),
    Candidate("beta2 0.99", "the same", {"beta2": 0.99}),
    Candidate("beta1 0.95", "0 to 0.3 %", {"beta1": 0.95}),
    Candidate("no weight decay", "short runs hardly feel it", {"weight_decay": 0.0}),
    Candidate("weight decay 0.3", "the same", {"weight_decay": 0.3}),
    Candidate("embedding rate x 0.3", "0 to 1 %; the tied head wants smaller steps", {"embedding_lr_ratio": 0.3}),
    Candidate("embedding rate x 3", "0.5 to 1 %; modded-nanogpt has it larger", {"embedding_lr_ratio": 3.0}),
    Candidate("warm-up 30", "more updates at the peak", {"warmup_steps": 30}),
    Candidate("half the vocabulary", "cheaper head, more tokens a byte", vocab=0.5),
    Candidate("twice the vocabulary", "fewer tokens a byte, dearer head", vocab=2.0),
    Candidate("int16", "no loss in bits; half the time where products dominate", {"precision": "int16"}),
)  # fmt: skip


def config_of(asked: argparse.Namespace, candidate: Candidate, **more: Any) -> symlm.TrainConfig:
    """The configuration of a run of a candidate."""
    preset = PRESETS[asked.preset]
    return symlm.TrainConfig(**{
        "preset": asked.preset, "learning_rate": preset.learning_rate * candidate.rate,
        "batch_size": max(1, round(asked.batch_size * candidate.windows)),
        "vocab_size": round(preset.vocab_size * candidate.vocab), "eval_interval": 0,
        "eval_batches": 0, "sample_every": 0, "keep_last": 1, "progress": "plain", "threads": asked.threads,
        "val_data": [str(Path(asked.runs) / "held-out.txt")], **candidate.settings, **more,
    })  # fmt: skip


def setup(asked: argparse.Namespace) -> str:
    """What runs must have in common to be compared."""
    equal = "equal time" if asked.time else "equal tokens"
    return f"{Path(asked.text).name} but its last {asked.held_out:,} bytes, batches of {asked.batch_size}, {equal}"


def updates_of(asked: argparse.Namespace, candidate: Candidate, prices: dict[str, float]) -> int:
    """As many updates as read the baseline's tokens, or take its time."""
    price = prices.get(candidate.name, candidate.windows)
    return max(1, round(asked.updates / price))


def split(asked: argparse.Namespace) -> None:
    """Cut the development split off the text."""
    folder = Path(asked.runs)
    folder.mkdir(parents=True, exist_ok=True)
    raw = Path(asked.text).read_bytes()
    cut = len(raw) - asked.held_out
    for name, part in (("train.txt", raw[:cut]), ("held-out.txt", raw[cut:])):
        path = folder / name
        if not path.exists():
            path.write_bytes(part.decode("utf-8", errors="ignore").encode("utf-8"))


def one(asked: argparse.Namespace, candidate: Candidate, seed: int, updates: int) -> Line:
    """Train a run, or resume it; what its line says."""
    folder = Path(asked.runs)
    name = f"{asked.preset}-{candidate.name}-{asked.batch_size}-{updates}-{seed}".replace(" ", "-").replace(",", "")
    config = config_of(asked, candidate, seed=seed, max_steps=updates, out_dir=str(folder / name), resume="auto")
    run = symlm.Trainer(config, data=[folder / "train.txt"]).fit()
    end = next(line for line in read_lines(run.path / METRICS) if line["event"] == "end")
    return {
        "candidate": candidate.name, "preset": asked.preset, "seed": seed, "updates": updates, "tokens": end["tokens"],
        "bits_per_byte": end.get("val_bpb_f32", end["val_bpb"]), "base_updates": asked.updates, "setup": setup(asked),
        "version": symlm.__version__,
    }  # fmt: skip


# --- prices -----------------------------------------------------------------------------------------------------------


def engine_of(asked: argparse.Namespace, candidate: Candidate, folder: str) -> _symlm.Engine:
    """An engine that trains on random tokens for ever."""
    config = config_of(asked, candidate, schedule="constant", warmup_steps=0, learning_rate=1e-4)
    model, count = config.model, 2**20
    shards = _symlm.Shards.random(str(Path(folder) / f"{candidate.name}.ids"), model.vocab_size, count, 1)
    return _symlm.Engine(engine_settings(config, asked.threads, max_steps=10**6), shards)


def seconds_of(engine: _symlm.Engine, updates: int) -> float:
    """Seconds that an update takes."""
    until, began = engine.step + updates, time.perf_counter()
    engine.run_until(until)
    while (report := engine.poll(60.0)) is None or report.step < until:
        pass
    return (time.perf_counter() - began) / updates


def price(asked: argparse.Namespace, candidate: Candidate) -> float:
    """Time of an update over that of the baseline, the median of turns."""
    with tempfile.TemporaryDirectory() as folder:
        base, other = (engine_of(asked, each, folder) for each in (CANDIDATES[0], candidate))
        for engine in (base, other):
            seconds_of(engine, 2)
        ratios = []
        for turn in range(TURNS):
            found = {id(each): seconds_of(each, 2) for each in ((base, other) if turn % 2 else (other, base))}
            ratios.append(found[id(other)] / found[id(base)])
        base.close()
        other.close()
    return statistics.median(ratios)


def measured_prices(asked: argparse.Namespace, chosen: tuple[Candidate, ...]) -> dict[str, float]:
    """Prices of candidates that cost more or less than the baseline, from the file or from now."""
    path = Path(asked.runs) / PRICES
    known: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for candidate in chosen:
        moves = candidate.windows != 1 or candidate.vocab != 1 or "precision" in candidate.settings
        if moves and candidate.name not in known:
            known[candidate.name] = price(asked, candidate)
            path.write_text(json.dumps(known, indent=1), encoding="utf-8")
    return known


# --- the page ---------------------------------------------------------------------------------------------------------


def read(path: Path) -> list[Line]:
    """The lines so far."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def results(lines: list[Line], preset: str, base_updates: int, common: str) -> dict[str, dict[int, float]]:
    """Bits per byte of each candidate by seed, of the runs with this setup."""
    found: dict[str, dict[int, float]] = {}
    for line in lines:
        if (line["preset"], line["base_updates"], line["setup"]) == (preset, base_updates, common):
            found.setdefault(line["candidate"], {})[line["seed"]] = line["bits_per_byte"]
    return found


def spread_of(found: dict[str, dict[int, float]]) -> float | None:
    """Standard deviation of the baseline over its seeds."""
    values = list(found.get(BASE, {}).values())
    return statistics.stdev(values) if len(values) > 1 else None


def gain_of(found: dict[str, dict[int, float]], name: str) -> float | None:
    """How many bits per byte lower than the baseline, over the seeds that both have."""
    common = found.get(BASE, {}).keys() & found.get(name, {}).keys()
    return statistics.fmean(found[BASE][seed] - found[name][seed] for seed in common) if common else None


def report(lines: list[Line]) -> None:
    """Print a table for each preset and length."""
    for preset, updates, common in sorted({(line["preset"], line["base_updates"], line["setup"]) for line in lines}):
        found = results(lines, preset, updates, common)
        spread = spread_of(found)
        print(f"\npreset {preset}, {updates} updates of the baseline ({common}), bits per byte of held-out text\n")
        if spread is not None:
            print(f"Spread of the baseline over {len(found[BASE])} seeds (standard deviation): {spread:.4f}.\n")
        print("| candidate | expected | bits per byte | seeds | gain | more than twice the spread |")
        print("|---|---|---|---|---|---|")
        for candidate in CANDIDATES:
            values = found.get(candidate.name)
            if values is None:
                continue
            gain = gain_of(found, candidate.name)
            of_base = "" if gain is None else f"{100 * gain / statistics.fmean(found[BASE].values()):+.2f} %"
            kept = "" if gain is None or spread is None else ("yes" if gain > 2 * spread else "no")
            row = (
                candidate.name,
                candidate.why,
                f"{statistics.fmean(values.values()):.4f}",
                str(len(values)),
                of_base,
                kept,
            )
            print("| " + " | ".join(row) + " |")


def main() -> None:
    """Train what is missing, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="?")
    parser.add_argument("--runs", required=True, help="folder of the runs, of recipe.jsonl and prices.json")
    parser.add_argument("--preset", default="3m")
    parser.add_argument("--updates", type=int, default=600)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--held-out", type=int, default=1_000_000)
    parser.add_argument("--only", help="names of candidates, with semicolons")
    parser.add_argument("--time", action="store_true", help="equal time instead of equal tokens")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--report", action="store_true", help="train nothing")
    asked = parser.parse_args()
    path = Path(asked.runs) / LINES
    if not asked.report:
        if asked.text is None:
            parser.error("TEXT is missing")
        names = None if asked.only is None else {BASE, *(name.strip() for name in asked.only.split(";"))}
        unknown = (names or set()) - {candidate.name for candidate in CANDIDATES}
        if unknown:
            parser.error(f"no candidate is called {', '.join(sorted(unknown))}")
        chosen = tuple(each for each in CANDIDATES if names is None or each.name in names)
        split(asked)
        train_all(asked, chosen, path)
    report(read(path))


def train_all(asked: argparse.Namespace, chosen: tuple[Candidate, ...], path: Path) -> None:
    """The runs that have no line yet: one seed of each, two more of what gains."""
    prices = measured_prices(asked, chosen) if asked.time else {}
    for candidate in chosen:
        for seed in BASE_SEEDS:
            found = results(read(path), asked.preset, asked.updates, setup(asked))
            if seed in found.get(candidate.name, {}):
                continue
            gain, spread = gain_of(found, candidate.name), spread_of(found)
            if candidate.name != BASE and seed != BASE_SEEDS[0] and not (gain and spread and gain > 2 * spread):
                break
            line = one(asked, candidate, seed, updates_of(asked, candidate, prices))
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
