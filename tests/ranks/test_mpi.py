"""Ranks as processes: mpirun gives the files of one process, and all ranks end cleanly whatever happens to one."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpirun import (
    LIMIT_S,
    LONG,
    SETTINGS,
    alone,
    environment,
    good,
    hashes,
    metrics,
    mpirun,
    needs_mpi,
    run,
    with_one_process,
)
from symlm import _symlm
from symlm.ranks.launch import Launch, launched

pytestmark = needs_mpi


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a text, and runs of one process beside which those of several are held."""
    folder = with_one_process(tmp_path_factory.mktemp("mpi"))
    lines = [{"prompt": f"{i} and", "completion": f" {i + 1}."} for i in range(300)]
    (folder / "examples.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    yield folder


@pytest.mark.parametrize("ranks", [2, 3, 7])
def test_ranks_give_the_files_of_one_process(place: Path, ranks: int) -> None:
    good(place, mpirun(ranks, "train", "text.txt", *SETTINGS, "--out-dir", f"r{ranks}"))
    assert hashes(place / f"r{ranks}") == hashes(place / "one")
    assert metrics(place / f"r{ranks}") == metrics(place / "one")


def test_stopped_on_four_ranks_and_resumed_on_others(place: Path) -> None:
    good(place, mpirun(4, "train", "text.txt", *SETTINGS, "--out-dir", "stopped", "--stop-at-step", "4"))
    for ranks in (1, 3, 12):
        name = f"resumed-{ranks}"
        shutil.copytree(place / "stopped", place / name)
        good(place, mpirun(ranks, "train", "--resume", "auto", "--out-dir", name))
        assert hashes(place / name) == hashes(place / "one")


def test_adapters_on_three_ranks_and_the_commands_for_one_machine(place: Path) -> None:
    words = ["examples.jsonl", "--lora-rank", "3", "--max-steps", "6", "--batch-size", "5", "--sample-every", "0"]
    good(place, alone("finetune", "one", *words, "--out-dir", "tuned-one"))
    # The specification, but not with multiply-adds in software, which are slow.
    isa = next(isa for isa in reversed(_symlm.available_isas()) if not isa.endswith("soft"))
    good(place, mpirun(3, "finetune", "one", *words, "--out-dir", "tuned-three"), SYMLM_ISA=isa)
    assert hashes(place / "tuned-three") == hashes(place / "tuned-one")
    good(place, alone("verify", "tuned-three"))
    shown = [run(place, [*command, "eval", "one", "text.txt", "--json"]).stdout for command in (alone(), mpirun(2))]
    assert shown[0] == shown[1]
    refused = run(place, mpirun(2, "generate", "one"))
    assert refused.returncode == 2
    assert refused.stderr.count("symlm generate runs as one process, found 2") == 1


def test_text_of_rank_0_travels_to_hosts_without_it(place: Path) -> None:
    # Each rank has a separate cache, and only rank 0 has the text.
    script = place / "rank.sh"
    script.write_text(
        "rank=${PMI_RANK:-$OMPI_COMM_WORLD_RANK}\nmkdir -p host$rank && cd host$rank || exit 1\n"
        '[ "$rank" = 0 ] && cp ../text.txt .\nexport SYMLM_CACHE_DIR=$PWD/cache\nexec "$@"\n',
        encoding="utf-8",
    )
    command = mpirun(3, "train", "text.txt", *SETTINGS, "--out-dir", str(place / "travelled"))
    at = command.index(sys.executable)
    command = [*command[:at], "bash", str(script), *command[at:]]
    missing = run(place, command)
    assert missing.returncode == 3
    assert re.search("error: rank [12] on .*: found no file or folder at text.txt", missing.stderr)
    shutil.rmtree(place / "travelled", ignore_errors=True)
    good(place, [*command, "--data-from", "rank0"])
    assert hashes(place / "travelled") == hashes(place / "one")
    # Another text on one host is found before the first update.
    (place / "host2" / "text.txt").write_text("other " * 9000, encoding="utf-8")
    (place / "host1" / "text.txt").write_bytes((place / "text.txt").read_bytes())
    other = run(place, [*command, "--data-from", "own", "--resume", "auto", "--out-dir", str(place / "other")])
    assert other.returncode == 1
    assert "error: rank 2 on " in other.stderr
    assert "has another text (train_sha256)" in other.stderr


def _process(rank: int, folder: Path) -> int | None:
    """The number of the process of a rank whose working folder is `folder`, None where there is none."""
    marks = {f"PMI_RANK={rank}", f"OMPI_COMM_WORLD_RANK={rank}"}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            mine = (entry / "cwd").readlink() == folder and "python" in (entry / "exe").readlink().name
            if mine and marks & set((entry / "environ").read_text(errors="replace").split("\0")):
                return int(entry.name)
        except OSError:
            continue
    return None


@pytest.mark.parametrize(
    ("signum", "rank", "codes", "said"),
    [
        (signal.SIGSTOP, 1, None, "error: rank 1 on "),
        (signal.SIGKILL, 2, None, ""),
        (signal.SIGTERM, 2, {128 + signal.SIGTERM}, ""),
        (signal.SIGINT, 0, {128 + signal.SIGINT}, ""),
    ],
)
def test_all_ranks_end_whatever_happens_to_one(
    place: Path, signum: int, rank: int, codes: set[int] | None, said: str
) -> None:
    folder = place / f"signal-{signum}"
    folder.mkdir()
    command = mpirun(3, "train", "../text.txt", *SETTINGS, *LONG, "--out-dir", "run")
    with subprocess.Popen(
        command, cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as job:
        until = time.monotonic() + LIMIT_S
        while not list((folder / "run" / "checkpoints").glob("step-*")):
            assert time.monotonic() < until and job.poll() is None
            time.sleep(0.05)
        struck = _process(rank, folder)
        assert struck is not None
        os.kill(struck, signum)
        _, stderr = job.communicate(timeout=LIMIT_S)
    assert job.returncode != 0
    assert codes is None or job.returncode in codes, stderr
    assert said in stderr
    # The launcher may end before the processes that it kills.
    until = time.monotonic() + LIMIT_S
    while _process(rank, folder) is not None:
        assert time.monotonic() < until
        time.sleep(0.05)
    # The last checkpoint is whole: it resumes alone.
    step = int(sorted((folder / "run" / "checkpoints").glob("step-*"))[-1].name.rpartition("-")[2])
    words = ["--resume", "auto", "--out-dir", "run", "--stop-at-step", str(step + 1), "--progress", "off"]
    good(folder, alone("train", *words))


def test_a_flipped_bit_in_a_copy_is_found_with_its_host(place: Path) -> None:
    script = place / "flipped.py"
    script.write_text(
        "import sys\nfrom symlm.cli import main\nfrom symlm.ranks.world import World\n"
        "def flip(self, update, owner):\n"
        "    return 5 if (self.rank, update, owner) == (1, 3, 2) else None\n"
        "World.flip = flip\nsys.exit(main())\n",
        encoding="utf-8",
    )
    command = mpirun(3, "train", "text.txt", *SETTINGS, "--out-dir", "flipped", "--save-interval", "1")
    at = command.index("-m")
    found = run(place, [*command[:at], str(script), *command[at + 2 :]])
    assert found.returncode != 0
    assert "rank 1 on " in found.stderr
    assert "its copy of the new values of rank 2 on " in found.stderr
    steps = sorted((place / "flipped" / "checkpoints").glob("step-*"))
    assert [step.name for step in steps] == ["step-00000001", "step-00000002"]


def test_a_launcher_is_known_by_its_environment() -> None:
    assert launched({}) is None
    assert launched({"PMI_SIZE": "1", "PMI_RANK": "0"}) is None
    # What mpirun starts as one process is one, though srun has started mpirun as one of several.
    inside = {"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5"}
    assert launched({"PMI_SIZE": "1", "PMI_RANK": "0", **inside}) is None
    assert launched({"SYMLM_MPI": "off", **inside}) is None
    assert launched({"PMI_SIZE": "4", "PMI_RANK": "2"}) == Launch("MPICH or Intel MPI", 4, 2)
    assert launched({"OMPI_COMM_WORLD_SIZE": "3", "OMPI_COMM_WORLD_RANK": "0"}) == Launch("Open MPI", 3, 0)
    # A job script is not a step of several tasks.
    assert launched({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}) is None
    assert launched({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5"}) == Launch("SLURM", 8, 5)


def test_without_a_launcher_mpi4py_is_not_imported(place: Path) -> None:
    code = (
        "import sys\nfrom symlm.cli import main\ncode = main(sys.argv[1:])\n"
        "assert 'mpi4py' not in sys.modules\nsys.exit(code)\n"
    )
    words = ["train", "text.txt", *SETTINGS, "--stop-at-step", "1", "--out-dir", "unlaunched"]
    good(place, [sys.executable, "-c", code, *words])
