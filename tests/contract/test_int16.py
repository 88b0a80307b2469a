"""`--precision int16`: a whole run has the same bits on every machine, and what is computed outside of it is f32.

python tests/contract/test_int16.py write    rewrites golden/int16.json: only with a new version of the contract
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

import symlm
import test_golden_run as golden_run
from conftest import HANG_S
from int16_cases import CASES, GOLDEN, case, golden_hashes
from symlm import _symlm
from symlm.config.engine import engine_settings, made_from, settings_of
from symlm.config.train_config import TrainConfig
from symlm.errors import UsageError, UserError
from symlm.evaluation.windows import evaluate
from symlm.export import export
from symlm.run.checkpoint import State
from test_golden_run import SECTORS_IN_FLIGHT, SLOW, STOP_AT, THREADS, Job, fast_isas, golden_text, job

INSTRUCTIONS = {
    "avx512": ["avx512-vnni", "avx512-bw"],
    "avx2": ["avx-vnni", "avx2"],
}
"""What products of integers can use beside an instruction set."""


def train_elsewhere(jobs: list[Job], isa: str, folder: Path, instructions: str = "") -> list[str]:
    """As in the test of the golden run; `instructions` multiply the integers."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SYMLM_")}
    more = {"SYMLM_ISA": isa, "SYMLM_INT16": instructions, "SYMLM_CACHE_DIR": str(folder / "cache"), "PYTHONUTF8": "1"}
    done = subprocess.run(
        [sys.executable, golden_run.__file__, "train"], env={**kept, **more},
        cwd=folder, input=json.dumps(jobs), capture_output=True, text=True, timeout=HANG_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{isa} {instructions}: {done.stderr}"
    hashes = json.loads(done.stdout)
    assert isinstance(hashes, list)
    return hashes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "golden.jsonl").write_text(golden_text(), encoding="utf-8")
    return tmp_path


@pytest.fixture(scope="module")
def golden() -> dict[str, str]:
    return golden_hashes()


@pytest.mark.parametrize("isa", [pytest.param(isa, id=isa) for isa in fast_isas()])
def test_every_number_of_threads_has_the_same_bits(folder: Path, golden: dict[str, str], isa: str) -> None:
    turn = fast_isas().index(isa)
    cases = [("tied-wsd", threads, SECTORS_IN_FLIGHT[(i + turn) % 3]) for i, threads in enumerate(THREADS)]
    cases += [("untied-cosine", 3, SECTORS_IN_FLIGHT[turn % 3]), ("wide", 2, SECTORS_IN_FLIGHT[(turn + 1) % 3])]
    jobs = [case(folder, name, f"{name}-{t}-{s}", threads=t, sectors_in_flight=s) for name, t, s in cases]
    found = dict(zip(cases, train_elsewhere(jobs, isa, folder), strict=True))
    assert found == {key: golden[key[0]] for key in cases}


@pytest.mark.parametrize("isa", [pytest.param(isa, id=isa) for isa in (*fast_isas(), SLOW)])
def test_every_instruction_has_the_same_bits(folder: Path, golden: dict[str, str], isa: str) -> None:
    for number, instructions in enumerate(INSTRUCTIONS.get(isa, [isa])):
        if not available(instructions, isa):
            continue
        job = case(folder, "wide", f"wide-{number}", threads=2, sectors_in_flight="auto")
        assert train_elsewhere([job], isa, folder, instructions) == [golden["wide"]], instructions


def available(instructions: str, isa: str) -> bool:
    """Whether this machine has them."""
    names = "from symlm import _symlm; print(_symlm.integer_instructions())"
    env = {**os.environ, "SYMLM_ISA": isa, "SYMLM_INT16": instructions}
    done = subprocess.run([sys.executable, "-c", names], env=env, capture_output=True, text=True, check=False)
    return done.stdout.strip() == instructions


def test_stop_and_resume_elsewhere_has_the_same_bits(folder: Path, golden: dict[str, str]) -> None:
    isas = fast_isas()
    first = case(folder, "tied-wsd", "parts", threads=2, sectors_in_flight=12, stop_at_step=STOP_AT)
    (stopped,) = train_elsewhere([first], isas[0], folder)
    assert stopped != golden["tied-wsd"]
    second = case(folder, "tied-wsd", "parts", threads=5, sectors_in_flight=1, resume="auto")
    assert train_elsewhere([second], isas[-1], folder) == [golden["tied-wsd"]]


def test_adapters_have_the_same_bits(folder: Path) -> None:
    """A fine-tune of a model with adapters, on every instruction set and several numbers of threads."""
    base = job(folder, "untied-cosine", "base", threads=2, max_steps=4)
    train_elsewhere([base], fast_isas()[0], folder)
    start = {"init_from": str(folder / "base"), "lora_rank": 3, "precision": "int16"}
    shape = ["hidden_size", "num_heads", "num_kv_heads", "intermediate_size", "num_layers", "seq_len", "vocab_size"]
    gone = dict.fromkeys([*shape, "preset", "tie_embeddings"])
    hashes = set()
    for isa in fast_isas():
        jobs = [
            job(folder, "untied-cosine", f"lora-{isa}-{t}-{s}", threads=t, sectors_in_flight=s, **gone, **start)
            for t, s in ((1, 12), (5, 1))
        ]
        hashes |= set(train_elsewhere(jobs, isa, folder))
    assert len(hashes) == 1


def run_of(folder: Path, **settings: Any) -> symlm.Run:
    """A run in this process, with a held-out part."""
    made = case(folder, "tied-wsd", "run", threads=2, **settings)
    config = symlm.TrainConfig(**{**golden_run.SETTINGS, **golden_run.QUIET, "val_split": 0.2, **golden_run.RUNS["tied-wsd"], **made["settings"]})  # fmt: skip  # noqa: E501
    return symlm.Trainer(config, data=[made["data"]]).fit()


def events(run: symlm.Run, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


def test_the_end_has_both_figures_and_other_programs_compute_in_f32(folder: Path) -> None:
    run = run_of(folder, eval_interval=6)
    (end,) = events(run, "end")
    assert State.read(run.path / "checkpoints" / f"step-{run.step:08d}").config["train"]["precision"] == "int16"
    assert end["val_loss"] != end["val_loss_f32"] == pytest.approx(end["val_loss"], rel=1e-3)
    text = folder / "held.txt"
    text.write_text("the ta ko ri sol 42 ing er ünd " * 40, encoding="utf-8")
    # Nobody can see of an exported model what it was trained in.
    elsewhere = folder / "elsewhere"
    export(run.path, "hf", elsewhere, checkpoint="last")
    losses = [evaluate(model, str(text), checkpoint="last", progress="off").loss for model in (run.path, elsewhere)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_verify_and_replay_compute_in_the_precision_of_the_run(folder: Path) -> None:
    from symlm.check.verify import verify

    run = run_of(folder, save_interval=4, hash_interval=2)
    assert verify(run.path).steps > 0


def test_precision_cannot_change_on_resume(folder: Path) -> None:
    run = run_of(folder, stop_at_step=STOP_AT)
    with pytest.raises(UserError, match="--precision: the run has int16, asked for f32"):
        run_again = {**golden_run.SETTINGS, **golden_run.QUIET, "out_dir": str(run.path), "resume": "auto"}
        symlm.Trainer(symlm.TrainConfig(**run_again, precision="f32")).fit()


def test_a_configuration_without_the_key_is_f32() -> None:
    whole = {**made_from(engine_settings(TrainConfig(preset="tiny").with_model(), 1)), "threads": 1}
    del whole["train"]["precision"]
    assert settings_of(whole).train.precision == "f32"
    with pytest.raises(UsageError, match="precision: found 'bf16', expected f32 or int16"):
        settings_of({**whole, "train": {**whole["train"], "precision": "bf16"}})


def test_integers_take_less_memory() -> None:
    def bytes_of(precision: str) -> float:
        config = TrainConfig(preset="3m", precision=precision).with_model()  # type: ignore[arg-type]
        plan = _symlm.memory_plan(engine_settings(config, 2))
        return sum(part.bytes for part in plan.engine)

    assert bytes_of("int16") < bytes_of("f32")


def test_unknown_instructions_are_refused() -> None:
    names = "from symlm import _symlm; _symlm.integer_instructions()"
    env = {**os.environ, "SYMLM_INT16": "mmx"}
    done = subprocess.run([sys.executable, "-c", names], env=env, capture_output=True, text=True, check=False)
    assert 'SYMLM_INT16 is "mmx", symlm has' in done.stderr


def write_golden() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "golden.jsonl").write_text(golden_text(), encoding="utf-8")
        jobs = [case(folder, name, name, threads=1, sectors_in_flight=12) for name in CASES]
        found = dict(zip(CASES, train_elsewhere(jobs, "portable", folder), strict=True))
    GOLDEN.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] == ["write"]:
        write_golden()
    else:
        sys.exit(__doc__)
