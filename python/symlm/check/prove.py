"""A training run whose weights are known beforehand: `symlm doctor --prove`.

The text is made by arithmetic and every setting that bits depend on is written out, so the weights have the same hash
on every machine (docs/contract.md). It is the run of `tests/golden/run.json`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config.train_config import TrainConfig
from ..errors import DifferenceError
from ..layout import WEIGHTS
from ..system.files import file_hash, temporary_folder
from ..training.trainer import Trainer

EXPECTED = {
    "tied-wsd": "ed4f921a19dcf47d9a4f04ac0abb40644f6c01b2b057a6dfde1d547e9bda8daa",
    "untied-cosine": "0728a76901312e42dd69f6e622445c06d66e54379d0569c3580bddfa29314d68",
    "tied-width": "c0fba61589e06e499ff5ecd6a02e296ae360d625bcd31a659c372b639254dd0f",
}
"""sha256 of the weights after the last update, by run."""

_RUNS: dict[str, dict[str, Any]] = {
    "tied-wsd": {"tie_embeddings": True, "schedule": "wsd", "decay_start": 8},
    "untied-cosine": {"tie_embeddings": False, "schedule": "cosine"},
    "tied-width": {
        "tie_embeddings": True, "schedule": "wsd", "decay_start": 8, "initial_weights": "width",
        "embedding_lr_ratio": 0.3,
    },
}  # fmt: skip
_SETTINGS: dict[str, Any] = {
    "hidden_size": 72, "num_heads": 6, "num_kv_heads": 2, "intermediate_size": 100, "num_layers": 2, "seq_len": 37,
    "vocab_size": 301, "batch_size": 7, "max_steps": 12, "learning_rate": 3e-3, "warmup_steps": 3, "min_lr_ratio": 0.1,
    "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "grad_clip": 1.0, "embedding_lr_ratio": 1.0,
    "initial_weights": "gpt2",
    "seed": 20_240_229,
    "val_split": 0.0, "text_field": "text", "preset": "tiny",
    "eval_interval": 0, "sample_every": 0, "save_interval": 0, "log_interval": 1000, "progress": "off",
}  # fmt: skip
_SYLLABLES = ("ta", "ko", "ri", "ne", "mu", "sol", "ünd", "the", "an", "ж", "ing", "er", "—", "7", "42", "'s")


@dataclass(frozen=True)
class Proof:
    """Hashes of the weights that this machine computed, by run."""

    found: dict[str, str]

    @property
    def equal(self) -> bool:
        """Whether they are the expected ones."""
        return self.found == EXPECTED

    def line(self, facts: dict[str, Any]) -> str:
        """One line for a report, with facts of `machine_facts`."""
        what = "equal bits" if self.equal else "OTHER BITS"
        hashes = " ".join(value[:16] for value in self.found.values())
        cpu = facts["cpu"] or "unknown processor"
        return f"symlm {facts['symlm']}, {facts['platform']}, {cpu}, {facts['isa']}: {what} {hashes}"

    def check(self) -> None:
        """DifferenceError when they are not."""
        if not self.equal:
            wrong = ", ".join(name for name, value in self.found.items() if value != EXPECTED[name])
            raise DifferenceError(
                f"the weights of {wrong} are not those that every machine computes",
                "report the line above; SYMLM_ISA=portable shows whether the instruction set is at fault",
            )


def proof_text() -> str:
    """Some 4 kB in seven documents: words of random syllables, some with letters of two and three bytes."""
    state = 1

    def draw(below: int) -> int:
        nonlocal state
        state = (1_664_525 * state + 1_013_904_223) % 2**32
        return (state >> 16) % below

    # Drawn with a preference for its first words, so that there is something to merge and to learn.
    lexicon = ["".join(_SYLLABLES[draw(16)] for _ in range(1 + draw(4))) for _ in range(120)]
    lines = []
    for _ in range(7):
        words = [lexicon[min(draw(120), draw(120))] for _ in range(60 + draw(60))]
        lines.append(json.dumps({"text": " ".join(words) + ".\n"}, ensure_ascii=False))
    return "\n".join(lines) + "\n"


def prove(trained: Callable[[str], None] = lambda name: None) -> Proof:
    """Train in a temporary folder; `trained` hears of each run that is done."""
    found = {}
    with tempfile.TemporaryDirectory(dir=temporary_folder(), prefix="symlm-prove-") as name:
        folder = Path(name)
        (folder / "proof.jsonl").write_bytes(proof_text().encode("utf-8"))
        for run, settings in _RUNS.items():
            config = TrainConfig(**{**_SETTINGS, **settings, "out_dir": str(folder / run)})
            done = Trainer(config, data=[str(folder / "proof.jsonl")]).fit()
            found[run] = file_hash(done.path / "checkpoints" / f"step-{done.step:08d}" / WEIGHTS)
            trained(run)
    return Proof(found)
