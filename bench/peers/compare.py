"""symlm against PyTorch on the reference model, in turns, so that a change of the machine's speed meets both.

Usage: compare.py TEXT --torch PYTHON [--rounds 5]. PYTHON is an interpreter that has torch; this one has symlm.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path


def torch_speed(python: str, *flags: str) -> float:
    """Tokens per second of one run of torch_step.py."""
    script = Path(__file__).with_name("torch_step.py")
    out = subprocess.run([python, str(script), *flags], check=True, capture_output=True, text=True).stdout
    return float(json.loads(out)["tokens_per_second"])


def symlm_speed(text: str, tokenizer: str | None, folder: Path) -> tuple[float, float]:
    """Tokens per second (median of the log lines after the first) and share of the FMA peak of one short training."""
    command = [sys.executable, "-m", "symlm", "train", text, "--preset", "3m", "--threads", "2", "--max-steps", "40"]
    command += ["--log-interval", "5", "--eval-interval", "0", "--val-split", "0", "--out-dir", str(folder)]
    command += ["--progress", "off"] + (["--tokenizer", tokenizer] if tokenizer else [])
    subprocess.run(command, check=True, capture_output=True)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    train = [line for line in lines if line["event"] == "train"][2:]
    return statistics.median(x["tok_s"] for x in train), statistics.median(x["peak_frac"] for x in train)


def main() -> None:
    """Print each round and the medians of the ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("text")
    parser.add_argument("--torch", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    tokenizer, rows = None, []
    with tempfile.TemporaryDirectory() as temporary:
        for number in range(options.rounds):
            folder = Path(temporary) / str(number)
            own, peak = symlm_speed(options.text, tokenizer, folder)
            tokenizer = str(folder / "tokenizer.json")
            eager, compiled = torch_speed(options.torch), torch_speed(options.torch, "--compile")
            rows.append((own / eager, own / compiled))
            print(
                f"symlm {own:,.0f} tok/s ({peak:.0%} of peak), eager {eager:,.0f}, compiled {compiled:,.0f}", flush=True
            )
    eager, compiled = (statistics.median(column) for column in zip(*rows, strict=True))
    print(f"median ratio to eager {eager:.2f}, to compiled {compiled:.2f}")


if __name__ == "__main__":
    main()
