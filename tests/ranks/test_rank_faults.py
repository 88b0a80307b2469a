"""What goes wrong on one rank ends all of them, in time, with an error that says where and what."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from conftest import Cli
from mpirun import LIMIT_S, LONG, SETTINGS, environment, hashes, mpirun, needs_mpi, run, with_one_process
from symlm.ranks.launch import here
from symlm.system.machine import resolve_threads

RANK = "int(os.environ.get('PMI_RANK') or os.environ.get('OMPI_COMM_WORLD_RANK') or 0)"
HEAD = f"import os, signal, sys\nfrom symlm.cli import main\nRANK = {RANK}\n"
TAIL = "\nsys.exit(main())\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text and the run of one process."""
    return with_one_process(tmp_path_factory.mktemp("faults"))


def changed(place: Path, ranks: int, code: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A run of `symlm WORDS` on so many ranks, with `code` before it; `RANK` is the rank in it."""
    script = place / "changed.py"
    script.write_text(HEAD + code + TAIL, encoding="utf-8")
    command = mpirun(ranks, *words)
    at = command.index("-m")
    return run(place, [*command[:at], str(script), *command[at + 2 :]], **variables)


@needs_mpi
def test_a_rank_without_memory_for_its_engine(place: Path) -> None:
    code = """
import types
from symlm import _symlm
from symlm.errors import MemoryPlanError
from symlm.ranks import opening
def refuse(*_):
    raise MemoryPlanError("training needs 9 GB of memory", "use less")
if RANK == 2:
    opening._symlm = types.SimpleNamespace(**{**vars(_symlm), "Engine": refuse})
"""
    done = changed(place, 3, code, "train", "text.txt", *SETTINGS, "--out-dir", "short")
    assert done.returncode == 4, done.stderr
    assert "error: rank 2 on " in done.stderr
    assert "training needs 9 GB of memory" in done.stderr


@needs_mpi
@pytest.mark.parametrize("rank", [0, 1])
def test_text_that_becomes_unreadable_under_way(place: Path, rank: int) -> None:
    folder = place / f"unreadable-{rank}"
    folder.mkdir()
    script = folder / "own_cache.py"
    cache = f"os.environ['SYMLM_CACHE_DIR'] = os.path.join({str(folder)!r}, 'cache-%d' % RANK)\n"
    script.write_text(HEAD + cache + TAIL, encoding="utf-8")
    command = mpirun(2, "train", "../text.txt", *SETTINGS, *LONG, "--out-dir", "run")
    at = command.index("-m")
    command = [*command[:at], str(script), *command[at + 2 :]]
    with subprocess.Popen(command, cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True) as job:
        until = time.monotonic() + LIMIT_S
        while not list((folder / "run" / "checkpoints").glob("step-*")):
            assert time.monotonic() < until and job.poll() is None
            time.sleep(0.05)
        for shard in (folder / f"cache-{rank}").glob("*-train.ids"):
            os.truncate(shard, 64)
        _, stderr = job.communicate(timeout=LIMIT_S)
    assert job.returncode in ({3} if rank == 0 else {3, 7}), stderr
    assert f"error: rank {rank} on " in stderr
    assert "Traceback" not in stderr


@needs_mpi
def test_a_full_disk_where_the_text_arrives(place: Path) -> None:
    code = f"""
import resource
from symlm.ranks import shard
os.environ["SYMLM_CACHE_DIR"] = os.path.join({str(place)!r}, "full-%d" % RANK)
shard._PART = 1 << 12
receive = shard.receive
def limited(*given):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 13, resource.RLIM_INFINITY))
    try:
        return receive(*given)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
if RANK == 1:
    shard.receive = limited
"""
    words = ("text.txt", *SETTINGS, "--data-from", "rank0", "--out-dir", "full")
    done = changed(place, 3, code, "train", *words)
    assert done.returncode == 1, done.stderr
    assert "error: rank 1 on " in done.stderr
    assert "cannot write the encoded text of rank 0: file too large" in done.stderr


@needs_mpi
@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_before_the_first_update(place: Path, rank: int) -> None:
    code = f"""
from symlm.ranks import opening
identity = opening.identity
def struck(*given):
    os.kill(os.getpid(), signal.SIGTERM)
    return identity(*given)
if RANK == {rank}:
    opening.identity = struck
"""
    done = changed(place, 2, code, "train", "text.txt", *SETTINGS, "--out-dir", f"struck-{rank}")
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    # Rank 0 may have begun when the word of another rank comes: then it saves.
    said = ("stopped by SIGTERM before the first update", "stopped: signal SIGTERM")
    assert any(word in done.stderr for word in said[: 1 if rank == 0 else 2])


@needs_mpi
def test_a_signal_while_the_ranks_meet(place: Path) -> None:
    code = """
from symlm.ranks.world import World
join = World.join
def struck(*given):
    os.kill(os.getpid(), signal.SIGTERM)
    return join(*given)
if RANK == 0:
    World.join = struck
"""
    done = changed(place, 2, code, "train", "text.txt", *SETTINGS, "--out-dir", "met")
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert not (place / "met" / "checkpoints").exists()


@needs_mpi
def test_a_fault_of_another_rank_that_nobody_foresaw(place: Path) -> None:
    code = """
from symlm.ranks.follower import Follower
def wrong(*_):
    raise KeyError("unforeseen")
if RANK == 1:
    Follower._train = wrong
"""
    done = changed(place, 2, code, "train", "text.txt", *SETTINGS, "--out-dir", "fault")
    assert done.returncode != 0
    assert "error: rank 1 on " in done.stderr
    assert "KeyError: 'unforeseen'" in done.stderr


PROGRAM = """
import json, sys
from pathlib import Path
if sys.argv[1] == "own":
    from mpi4py import MPI
import symlm
settings = json.loads(sys.argv[2])
class Faulty(symlm.Callback):
    def on_step(self, event):
        if event["step"] == 3:
            raise ValueError("of the callback")
for name in ("first", "second"):
    run = symlm.Trainer(symlm.TrainConfig(**settings, out_dir=f"{sys.argv[1]}-{name}"), "text.txt").fit()
    assert run.finished and run.step == 9
if sys.argv[1] == "own":
    assert MPI.COMM_WORLD.allreduce(1) == 3
if sys.argv[1] == "faulty":
    config = symlm.TrainConfig(**settings, out_dir="faulty-third")
    symlm.Trainer(config, "text.txt", callbacks=[Faulty()]).fit()
"""


def settings() -> str:
    words = [word for word in SETTINGS if word != "--progress" and word != "plain"]
    pairs = zip(words[::2], words[1::2], strict=True)
    values = {name[2:].replace("-", "_"): value for name, value in pairs}
    return json.dumps({**{name: number_of(value) for name, value in values.items()}, "progress": "off"})


def number_of(text: str) -> int | float | str:
    """A value of a flag as a program gives it."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


@needs_mpi
@pytest.mark.parametrize("kind", ["own", "plain", "faulty"])
def test_a_program_that_trains_twice(place: Path, kind: str) -> None:
    """With an MPI that the program began, without, and with an error in the middle of updates."""
    script = place / "program.py"
    script.write_text(PROGRAM, encoding="utf-8")
    command = mpirun(3, "train")
    done = run(place, [*command[: command.index("-m")], str(script), kind, settings()])
    assert (done.returncode == 0) == (kind != "faulty"), done.stderr
    assert ("of the callback" in done.stderr) == (kind == "faulty")
    assert hashes(place / f"{kind}-first") == hashes(place / f"{kind}-second") == hashes(place / "one")


@needs_mpi
def test_the_switch_turns_ranks_off_for_every_command(place: Path) -> None:
    words = ("generate", "one", "--prompt", "a", "--max-new-tokens", "3")
    done = run(place, mpirun(2, *words), SYMLM_MPI="off")
    assert done.returncode == 0, done.stderr
    refused = run(place, mpirun(2, *words))
    assert refused.returncode == 2
    assert refused.stderr.count("error: ") == 1
    assert "SYMLM_MPI=off" in refused.stderr


def test_threads_of_a_plan_are_divided_among_the_ranks_of_a_host(cli: Cli, text: Path) -> None:
    assert here({}) == 1
    assert here({"PMI_SIZE": "6", "PMI_RANK": "1", "MPI_LOCALNRANKS": "2"}) == 2
    assert here({"SLURM_STEP_NUM_TASKS": "6", "SLURM_PROCID": "1", "SLURM_STEP_TASKS_PER_NODE": "3(x2)"}) == 3
    words = ("--preset", "tiny", "--max-steps", 9, "--dry-run", "--progress", "json")
    launcher = {"PMI_SIZE": "4", "PMI_RANK": "0", "MPI_LOCALNRANKS": "4"}
    plan = json.loads(cli("train", text, *words, env=launcher).stdout)
    bound = len(os.sched_getaffinity(0)) < (os.cpu_count() or 1)
    assert plan["threads"] == resolve_threads("auto", 1 if bound else 4)[0]


def test_doctor_says_what_ranks_there_are(cli: Cli) -> None:
    assert "rank 2 of 4" in cli("doctor", env={"PMI_SIZE": "4", "PMI_RANK": "2"}).stdout
    assert "off (SYMLM_MPI=off)" in cli("doctor", env={"PMI_SIZE": "4", "PMI_RANK": "2", "SYMLM_MPI": "off"}).stdout
