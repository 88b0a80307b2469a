"""The promise of docs/contract.md: a whole training has the bits of tests/golden/run.json, on every machine.

A small model of awkward shapes is trained on a text made by arithmetic, for every instruction set of this machine,
many numbers of threads and several splits of the batch, and with a stop and resume between them.

    python tests/test_golden_run.py write    rewrites run.json: only together with a new version of the contract
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

import symlm
from conftest import HANG_S
from symlm import _symlm

GOLDEN = Path(__file__).parent / "golden" / "run.json"
THREADS = (1, 2, 3, 5, 12, 63)
SECTORS_IN_FLIGHT = (1, 4, 12)
SLOW = "portable-soft"
STOP_AT = 5

# Everything that bits depend on is written out, so that no default can move them.
SETTINGS: dict[str, Any] = {
    "hidden_size": 72, "num_heads": 6, "num_kv_heads": 2, "intermediate_size": 100, "num_layers": 2, "seq_len": 37,
    "vocab_size": 301, "batch_size": 7, "max_steps": 12, "learning_rate": 3e-3, "warmup_steps": 3, "min_lr_ratio": 0.1,
    "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "grad_clip": 1.0, "seed": 20_240_229,
    "val_split": 0.0, "text_field": "text", "preset": "tiny", "embedding_lr_ratio": 1.0,
    "initial_weights": "gpt2",
}  # fmt: skip
RUNS: dict[str, dict[str, Any]] = {
    "tied-wsd": {"tie_embeddings": True, "schedule": "wsd", "decay_start": 8},
    "untied-cosine": {"tie_embeddings": False, "schedule": "cosine"},
    "tied-width": {
        "tie_embeddings": True, "schedule": "wsd", "decay_start": 8, "initial_weights": "width",
        "embedding_lr_ratio": 0.3,
    },
}  # fmt: skip
QUIET: dict[str, Any] = {
    "eval_interval": 0, "sample_every": 0, "save_interval": 0, "log_interval": 1000, "progress": "off",
}  # fmt: skip

Job = dict[str, Any]


def golden_text() -> str:
    """Some 4 kB in seven documents, about half of what the training reads: words of random syllables, some with
    letters of two and three bytes."""
    syllables = ["ta", "ko", "ri", "ne", "mu", "sol", "ünd", "the", "an", "ж", "ing", "er", "—", "7", "42", "'s"]
    state = 1

    def draw(below: int) -> int:
        nonlocal state
        state = (1_664_525 * state + 1_013_904_223) % 2**32
        return (state >> 16) % below

    # A small lexicon, drawn with a preference for its first words, so that there is something to merge and to learn.
    lexicon = ["".join(syllables[draw(len(syllables))] for _ in range(1 + draw(4))) for _ in range(120)]
    lines = []
    for _ in range(7):
        words = [lexicon[min(draw(120), draw(120))] for _ in range(60 + draw(60))]
        lines.append(json.dumps({"text": " ".join(words) + ".\n"}, ensure_ascii=False))
    return "\n".join(lines) + "\n"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def train(job: Job) -> str:
    """Do one job in this process; gives the hash of the weights that it ends with."""
    config = symlm.TrainConfig(**{**SETTINGS, **QUIET, **RUNS[job["run"]], **job["settings"]})
    run = symlm.Trainer(config, data=[job["data"]]).fit()
    return sha256(run.path / "checkpoints" / f"step-{run.step:08d}" / "model.safetensors")


def train_elsewhere(jobs: list[Job], isa: str, folder: Path) -> list[str]:
    """Do jobs one after the other in a separate process with this instruction set."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SYMLM_")}
    done = subprocess.run(
        [sys.executable, __file__, "train"],
        env={**kept, "SYMLM_ISA": isa, "SYMLM_CACHE_DIR": str(folder / "cache"), "PYTHONUTF8": "1"},
        cwd=folder, input=json.dumps(jobs), capture_output=True, text=True, timeout=HANG_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{isa}: {done.stderr}"
    hashes = json.loads(done.stdout)
    assert isinstance(hashes, list)
    return hashes


def job(folder: Path, run: str, name: str, **settings: Any) -> Job:
    return {"run": run, "data": str(folder / "golden.jsonl"), "settings": {"out_dir": str(folder / name), **settings}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "golden.jsonl").write_text(golden_text(), encoding="utf-8")
    return tmp_path


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    loaded = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def fast_isas() -> list[str]:
    return [isa for isa in _symlm.available_isas() if isa != SLOW]


def test_the_text_and_its_tokenizer_are_the_golden_ones(folder: Path, golden: dict[str, Any]) -> None:
    assert sha256(folder / "golden.jsonl") == golden["text_sha256"]
    corpus = _symlm.Corpus.open([str(folder / "golden.jsonl")])
    for threads in (1, 3):
        tokenizer = corpus.train_tokenizer(SETTINGS["vocab_size"], threads, None)
        assert tokenizer.sha256 == golden["tokenizer_sha256"]


@pytest.mark.parametrize("isa", [pytest.param(isa, id=isa) for isa in fast_isas()])
def test_every_number_of_threads_has_the_golden_bits(folder: Path, golden: dict[str, Any], isa: str) -> None:
    # Each pair of thread count and split, of instruction set and split, and of the two others occurs.
    turn = fast_isas().index(isa)
    cases = [("tied-wsd", threads, SECTORS_IN_FLIGHT[(i + turn) % 3]) for i, threads in enumerate(THREADS)]
    cases += [(run, 3, SECTORS_IN_FLIGHT[turn % 3]) for run in RUNS if run != "tied-wsd"]
    jobs = [job(folder, run, f"{run}-{t}-{s}", threads=t, sectors_in_flight=s) for run, t, s in cases]
    found = dict(zip(cases, train_elsewhere(jobs, isa, folder), strict=True))
    assert found == {case: golden["model_sha256"][case[0]] for case in cases}


def test_emulated_fma_has_the_golden_bits(folder: Path, golden: dict[str, Any]) -> None:
    jobs = [job(folder, "tied-wsd", "soft", threads=2, sectors_in_flight="auto")]
    assert train_elsewhere(jobs, SLOW, folder) == [golden["model_sha256"]["tied-wsd"]]


def test_stop_and_resume_elsewhere_has_the_golden_bits(folder: Path, golden: dict[str, Any]) -> None:
    """Stops on one instruction set, resumes on another, with other threads and another split."""
    isas = fast_isas()
    first = job(folder, "tied-wsd", "parts", threads=2, sectors_in_flight=12, stop_at_step=STOP_AT)
    (stopped,) = train_elsewhere([first], isas[0], folder)
    assert stopped != golden["model_sha256"]["tied-wsd"]
    second = job(folder, "tied-wsd", "parts", threads=5, sectors_in_flight=1, resume="auto")
    assert train_elsewhere([second], isas[-1], folder) == [golden["model_sha256"]["tied-wsd"]]


def write_golden() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "golden.jsonl").write_text(golden_text(), encoding="utf-8")
        corpus = _symlm.Corpus.open([str(folder / "golden.jsonl")])
        jobs = [job(folder, run, run, threads=1, sectors_in_flight=12) for run in RUNS]
        found = {
            "contract": _symlm.CONTRACT_VERSION,
            "text_sha256": sha256(folder / "golden.jsonl"),
            "tokenizer_sha256": corpus.train_tokenizer(SETTINGS["vocab_size"], 1, None).sha256,
            "model_sha256": dict(zip(RUNS, train_elsewhere(jobs, "portable", folder), strict=True)),
        }
    GOLDEN.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] == ["train"]:
        print(json.dumps([train(job) for job in json.load(sys.stdin)]))
    elif sys.argv[1:] == ["write"]:
        write_golden()
    else:
        sys.exit(__doc__)
