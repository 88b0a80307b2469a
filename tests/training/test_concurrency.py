"""What the threads of a training run must survive: forks, trainers side by side, oversubscription, starts and stops."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

import symlm
from conftest import HANG_S
from symlm.system.files import file_hash


def train(text: Path, out_dir: Path, threads: int) -> str:
    config = symlm.TrainConfig(
        preset="tiny", vocab_size=300, seq_len=32, batch_size=4, max_steps=12, eval_interval=5, sample_every=0,
        progress="off", threads=threads, out_dir=str(out_dir),
    )  # fmt: skip
    run = symlm.Trainer(config, data=[text]).fit()
    return file_hash(run.path / "checkpoints" / "step-00000012" / "model.safetensors")


FORK = """
import json, os, signal, sys
from symlm import _symlm
from symlm.config.train_config import TrainConfig
from symlm.errors import InternalError
from symlm.config.engine import engine_settings

corpus = _symlm.Corpus.open([sys.argv[1]])
shards = corpus.prepare(corpus.train_tokenizer(300, 1, None), sys.argv[2], 0.0, 32, 1, None).train
config = TrainConfig(preset="tiny", vocab_size=300, seq_len=32, batch_size=4, max_steps=10**6, warmup_steps=0)
engine = _symlm.Engine(engine_settings(config.with_model(), 2), shards)
engine.run_until(10**6)
CALLS = [
    lambda: engine.run_until(5), lambda: engine.poll(60.0), lambda: engine.evaluate(shards, 1, None),
    lambda: engine.save_begin(sys.argv[2]), lambda: engine.snapshot(), engine.worker_stats, engine.take_trace,
]


def in_child():
    for call in CALLS:
        try:
            call()
        except InternalError as error:
            assert "not in this fork" in str(error), error
            assert "each process" in error.hint, error.hint
        else:
            raise AssertionError("no error")
    engine.request_stop(), engine.step, engine.queue_fill
    engine.close()


for _ in range(40):
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        try:
            in_child()
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        # The usual end of a process, with all destructors.
        del engine
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status == 0, status
    engine.poll(0.001)
engine.request_stop()
while engine.poll(0.2) is not None:
    pass
engine.save_begin(sys.argv[2]).finish()
engine.close()
print("survived")
"""


def test_a_fork_of_a_training_is_refused_and_hangs_nowhere(
    text: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK, str(text), str(tmp_path)],
        env=environment, capture_output=True, text=True, timeout=HANG_S, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "survived\n"), done.stderr


def test_trainers_side_by_side_write_what_they_write_alone(
    text: Path, tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMLM_CACHE_DIR", environment["SYMLM_CACHE_DIR"])
    alone = train(text, tmp_path / "alone", 2)
    found: dict[int, str] = {}

    def one(threads: int) -> None:
        found[threads] = train(text, tmp_path / f"run-{threads}", threads)

    # Many more workers than processors.
    trainers = [threading.Thread(target=one, args=(threads,)) for threads in (1, 7, 24)]
    for trainer in trainers:
        trainer.start()
    for trainer in trainers:
        trainer.join(120)
    assert found == dict.fromkeys((1, 7, 24), alone)


def test_trainers_leave_no_thread_and_no_file_behind(
    text: Path, tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMLM_CACHE_DIR", environment["SYMLM_CACHE_DIR"])
    train(text, tmp_path / "first", 3)

    def count() -> tuple[int, int]:
        return len(list(Path("/proc/self/task").iterdir())), len(list(Path("/proc/self/fd").iterdir()))

    before = count()
    for turn in range(5):
        train(text, tmp_path / f"run-{turn}", 3)
    assert count() == before


def test_a_training_that_cannot_begin_leaves_none_either(
    text: Path, tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even while the error is held, and with it everything on the way to it."""
    monkeypatch.setenv("SYMLM_CACHE_DIR", environment["SYMLM_CACHE_DIR"])

    def workers() -> list[str]:
        names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
        return [name for name in names if name.startswith("symlm-")]

    def no_log(path: Path) -> None:
        assert workers()
        raise symlm.UserError(f"{path}: cannot write: no space left on device")

    monkeypatch.setattr("symlm.training.journal.LineLog", no_log)
    with pytest.raises(symlm.UserError, match="cannot write") as held:
        train(text, tmp_path / "run", 3)
    assert held.value is not None
    assert workers() == []
