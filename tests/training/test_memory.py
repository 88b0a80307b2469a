"""What a process holds: few modules at its start, and the same memory after many epochs as after some."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import HANG_S

LOADED = "import sys; {}; print(*sorted(name for name in sys.modules if '.' not in name))"


def loaded_by(code: str) -> set[str]:
    """Top-level modules that are there after `code`, without what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED.format(code)], capture_output=True, text=True, check=True, timeout=HANG_S
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import symlm", {"numpy", "rich", "click", "matplotlib", "hashlib", "json", "tomllib"}),
        ("import symlm; symlm.TrainConfig(preset='3m')", {"numpy", "rich", "click", "matplotlib"}),
        (
            "import symlm.training.trainer, symlm.evaluation.scoring, symlm.generate.generator",
            {"numpy", "rich", "click", "matplotlib"},
        ),
        *(
            (f"from symlm.cli import main; main({words!r})", {"numpy", "rich", "matplotlib"})
            for words in (["--help"], ["--version"], ["train", "--help"], ["generate", "--help"], ["plot", "--help"])
        ),
    ],
)
def test_modules_are_imported_when_they_are_needed(code: str, absent: set[str]) -> None:
    loaded = loaded_by(code)
    assert "symlm" in loaded
    assert not loaded & absent


WARM, MEASURED = 30, 30
"""Epochs, of one update each, until everything was allocated once, and those over which nothing may grow."""

MOST = 384 * 1024
"""Bytes. The allocator moves by some 50 kB; a batch of tokens kept in each epoch would be 500 kB, a checkpoint 7 MB."""

RUN = f"""
import json
import symlm

def held():
    # Pages of the process itself: no mapped file counts, no page cache.
    with open("/proc/self/status") as lines:
        fields = dict(line.split(":", 1) for line in lines)
    return int(fields["RssAnon"].split()[0]) * 1024

class Watch(symlm.Callback):
    def __init__(self):
        self.held = []
    def on_save(self, step, path):
        self.held.append(held())

watch = Watch()
config = symlm.TrainConfig(
    preset="tiny", num_layers=1, num_heads=2, num_kv_heads=2, hidden_size=32, intermediate_size=64, vocab_size=300,
    seq_len=64, batch_size=64, max_steps={WARM + MEASURED}, eval_interval=1, save_interval=1, sample_every=1,
    log_interval=1, keep_last=1, threads=2, progress="off", out_dir="run",
)
run = symlm.Trainer(config, data=["text.txt"], callbacks=[watch]).fit()
start = next(json.loads(line) for line in open("run/metrics.jsonl"))
print(json.dumps({{"held": watch.held, "windows": start["train_tokens"] // config.seq_len}}))
"""


def test_memory_does_not_grow_over_epochs(tmp_path: Path, environment: dict[str, str]) -> None:
    """Each epoch has updates, an evaluation, a sample and a checkpoint."""
    words = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "sleeps", "near", "rivers"]
    lines = (" ".join(words[(i * k + k) % len(words)] for k in range(1, 12)) + "." for i in range(280))
    (tmp_path / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=HANG_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert len(report["held"]) == WARM + MEASURED
    # One update is about an epoch.
    assert 32 <= report["windows"] <= 96
    assert report["held"][-1] - report["held"][WARM - 1] < MOST
