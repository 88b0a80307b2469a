"""`bench/first_difference.py`: runs with the same bits, and runs that part in the optimizer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import symlm
from console import ROOT


def train(text: Path, out: Path, eps: float = 1e-8) -> Path:
    config = symlm.TrainConfig(
        out_dir=str(out), preset="tiny", vocab_size=300, seq_len=16, batch_size=2, max_steps=3, log_interval=1,
        hash_interval=1, save_interval=1, keep_last=10, eval_interval=0, sample_every=0, threads=1, progress="off",
        eps=eps,
    )  # fmt: skip
    return symlm.Trainer(config, data=[text]).fit().path


def compare(a: Path, b: Path) -> tuple[int, list[str]]:
    script = ROOT / "bench" / "first_difference.py"
    done = subprocess.run([sys.executable, script, a, b], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, [" ".join(line.split()) for line in done.stdout.splitlines()]


def test_it_says_where_two_runs_part(text: Path, tmp_path: Path) -> None:
    a, b = train(text, tmp_path / "a"), train(text, tmp_path / "b")
    code, lines = compare(a, b)
    assert code == 0
    assert [line.split()[1] for line in lines] == ["equal"] * 6

    # The optimizer alone sees it: the first loss and norm are those of the weights before.
    code, lines = compare(a, train(text, tmp_path / "c", eps=1e-3))
    assert code == 1
    assert lines[:6] == [
        "train_sha256 equal",
        "tokenizer_sha256 equal",
        "lr equal",
        "loss differs from step 2 on",
        "grad_norm differs from step 2 on",
        "weights_sha256 differs from step 1 on",
    ]
    assert lines[6].startswith("step-00000001/model.safetensors: model.")
