"""Quality of `--precision int16` beside f32: pairs of runs that differ in nothing else, seed by seed.

Usage: precision.py TEXT --runs FOLDER [--preset tiny] [--seeds 1-10] [--tokens 1000000] [--learning-rate X]
                    [--init-from MODEL [--lora-rank N]]
With --init-from the runs are fine-tunes of a model, or adapters beside it. Each run adds a line to
FOLDER/precision.jsonl: what it is, seed, precision, tokens, final bits per byte in f32 and in the precision of the run.
A run that has its line is not done again, so the command can be stopped and repeated. Ends with the tables of
docs/precision.md: for each kind of run the mean of the paired differences of the f32 figures, its standard error, and
the upper bound of a one-sided interval of 95 % (Student's t); --report only prints them. A run whose loss stops being
finite has no figure.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
from pathlib import Path
from typing import Any

import symlm
from symlm.layout import METRICS
from symlm.run.metrics import read_lines

PRECISIONS = ("f32", "int16")
T_95 = (
    6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812, 1.796, 1.782, 1.771, 1.761, 1.753,
    1.746, 1.740, 1.734, 1.729, 1.725, 1.721, 1.717, 1.714, 1.711, 1.708, 1.706, 1.703, 1.701, 1.699,
)  # fmt: skip
"""Quantile 0.95 of Student's t for 1 to 29 degrees of freedom."""

Line = dict[str, Any]


def seeds_of(text: str) -> list[int]:
    """`1-10` or `1,4,7`."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def kind_of(asked: argparse.Namespace) -> str:
    """What all runs of a call have in common."""
    name = f"preset {asked.preset}"
    if asked.init_from is not None:
        start = asked.init_from
        name = f"adapters of rank {asked.lora_rank} of {start}" if asked.lora_rank else f"fine-tune of {start}"
    name += f", batches of {asked.batch_size} x {config_of(asked).model.seq_len}"
    return name if asked.learning_rate is None else f"{name}, learning rate {asked.learning_rate:g}"


def config_of(asked: argparse.Namespace, **changes: Any) -> symlm.TrainConfig:
    """The configuration of the runs of a call."""
    common: dict[str, Any] = {
        "batch_size": asked.batch_size, "schedule": "cosine", "val_split": 0.02, "eval_interval": 0,
        "eval_batches": asked.eval_batches, "sample_every": 0, "keep_last": 1, "progress": "plain",
        "threads": asked.threads, **changes,
    }  # fmt: skip
    if asked.learning_rate is not None:
        common["learning_rate"] = asked.learning_rate
    if asked.init_from is None:
        return symlm.TrainConfig(preset=asked.preset, **common)
    return symlm.finetune_config(asked.init_from, lora_rank=asked.lora_rank, seq_len=asked.seq_len, **common)


def updates_of(asked: argparse.Namespace) -> int:
    """As many as read the tokens that were asked for."""
    return math.ceil(asked.tokens / (asked.batch_size * config_of(asked).model.seq_len))


def one(asked: argparse.Namespace, seed: int, precision: str) -> Line:
    """Train a run, or resume it; what its line says."""
    kind, updates = kind_of(asked), updates_of(asked)
    name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{kind}-{updates}-{seed}-{precision}")
    folder = Path(asked.runs) / name
    config = config_of(asked, max_steps=updates, seed=seed, precision=precision, out_dir=str(folder), resume="auto")
    line = {
        "kind": kind, "seed": seed, "precision": precision, "tokens": asked.tokens, "updates": updates,
        "batch_size": asked.batch_size, "version": symlm.__version__,
    }  # fmt: skip
    try:
        run = symlm.Trainer(config, data=[asked.text]).fit()
    except symlm.errors.NanError:
        return {**line, "bits_per_byte": None, "bits_per_byte_in_precision": None}
    end = next(line for line in read_lines(run.path / METRICS) if line["event"] == "end")
    return {
        **line, "bits_per_byte": end.get("val_bpb_f32", end["val_bpb"]), "bits_per_byte_in_precision": end["val_bpb"],
    }  # fmt: skip


def read(path: Path) -> list[Line]:
    """The lines so far."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def report(lines: list[Line]) -> None:
    """Print a table for each kind of run and number of tokens."""
    for kind, tokens in sorted({(line["kind"], line["tokens"]) for line in lines}):
        found = {(n["seed"], n["precision"]): n for n in lines if (n["kind"], n["tokens"]) == (kind, tokens)}
        pairs = [(seed, found[seed, "f32"], found[seed, "int16"]) for seed, precision in sorted(found)
                 if precision == "f32" and (seed, "int16") in found]  # fmt: skip
        print(f"\n{kind}, {tokens:,} tokens, bits per byte of held-out text in f32\n")
        print("| seed | f32 | int16 | int16 less f32 | int16 evaluated in int16 |")
        print("|---|---|---|---|---|")
        finite = []
        for seed, f32, int16 in pairs:
            a, b, own = f32["bits_per_byte"], int16["bits_per_byte"], int16["bits_per_byte_in_precision"]
            if a is None or b is None:
                print(f"| {seed} | {figure(a)} | {figure(b)} | | {figure(own)} |")
            else:
                finite.append((a, b))
                print(f"| {seed} | {figure(a)} | {figure(b)} | {b - a:+.4f} | {figure(own)} |")
        if 1 < len(finite) == len(pairs) <= len(T_95) + 1:
            summary([a for a, _ in finite], [b for _, b in finite])


def figure(value: float | None) -> str:
    """Bits per byte."""
    return "not finite" if value is None else f"{value:.4f}"


def summary(f32: list[float], int16: list[float]) -> None:
    """The last lines of a table."""
    differences = [b - a for a, b in zip(f32, int16, strict=True)]
    mean, count, usual = statistics.fmean(differences), len(differences), statistics.fmean(f32)
    error = statistics.stdev(differences) / math.sqrt(count)
    bound = mean + T_95[count - 2] * error
    print(f"| mean | {usual:.4f} | {statistics.fmean(int16):.4f} | {mean:+.4f} | |\n")
    print(f"Spread of f32 over seeds (standard deviation): {statistics.stdev(f32):.4f}.")
    print(
        f"Paired difference of {count} seeds: mean {mean:+.4f}, standard error {error:.4f}, upper bound of 95 % "
        f"{bound:+.4f} bits per byte; of f32 {100 * mean / usual:+.2f} %, {100 * error / usual:.2f} %, "
        f"{100 * bound / usual:+.2f} %."
    )


def main() -> None:
    """Train what is missing, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="?")
    parser.add_argument("--runs", required=True, help="folder of the runs and of precision.jsonl")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--init-from", help="model that is fine-tuned, instead of a preset")
    parser.add_argument("--lora-rank", type=int, default=0)
    parser.add_argument("--seq-len", type=int, default=128, help="window of a fine-tune")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--seeds", type=seeds_of, default=seeds_of("1-10"))
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--batch-size", type=int, default=12)
    parser.add_argument("--eval-batches", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--report", action="store_true", help="train nothing")
    asked = parser.parse_args()
    path = Path(asked.runs) / "precision.jsonl"
    if not asked.report:
        if asked.text is None:
            parser.error("TEXT is missing")
        path.parent.mkdir(parents=True, exist_ok=True)
        done = {(line["kind"], line["updates"], line["seed"], line["precision"]) for line in read(path)}
        for seed in asked.seeds:
            for precision in PRECISIONS:
                if (kind_of(asked), updates_of(asked), seed, precision) not in done:
                    line = one(asked, seed, precision)
                    with path.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(line) + "\n")
    report(read(path))


if __name__ == "__main__":
    main()
