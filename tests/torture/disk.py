"""A disk that is full, or becomes full, and then has room again.

Each case has its own small file system (tmpfs, in its own mount namespace, which an ordinary user may make
where the system allows it). Where that is not possible, a limit on the size of files takes its place: writes then fail
in the same places with another reason.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .lab import Ended, Reference, Truth, environment, finish, look, make_reference, make_training, run, start
from .report import Case, Part, in_parallel
from .watch import SETUP, WRITES, Watch

DRAWS = 12
"""Runs that may get by with the space they have before the case counts as one that cannot be made."""

INODES = "inodes"
SMALL = "small"
FILLED = "filled"
_SPACE_WORDS = ("no space left", "free on its disk", "file too large", "disk quota")
_MANY_INODES = 10_000


def namespace() -> list[str] | None:
    """The words before a command that give it separate mounts; None where the system does not allow it."""
    for words in (["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"]):
        test = [*words, "sh", "-c", "mount -t tmpfs -o size=64k none /mnt"]
        try:
            if subprocess.run(test, capture_output=True, timeout=30, check=False).returncode == 0:
                return words
        except (OSError, subprocess.TimeoutExpired):
            return None
    return None


@dataclass(frozen=True)
class Order:
    """What a process inside a namespace needs to know to do one case."""

    number: int
    seed: int
    words: list[str]
    step: int
    peak: int
    checkpoint: int
    folder: str
    reference: str
    mounts: bool


class Disk:
    """The place of a case that has little room, and then enough."""

    def __init__(self, folder: Path, mounts: bool) -> None:
        self.folder = folder
        self.mounts = mounts
        folder.mkdir()

    def make(self, size: int, inodes: int) -> None:
        """An empty disk."""
        if self.mounts:
            self._mount(f"size={size},nr_inodes={inodes}")
        else:
            shutil.rmtree(self.folder)
            self.folder.mkdir()

    def _mount(self, options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(self.folder)], check=True)

    def fill(self, left: int, process: subprocess.Popen[bytes]) -> None:
        """Another program takes all but `left` bytes."""
        if not self.mounts:
            hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)[1]
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (left, hard))
            return
        with (self.folder / "ballast").open("wb") as file:
            while (size := shutil.disk_usage(self.folder).free - left) > 0:
                try:
                    os.posix_fallocate(file.fileno(), file.tell(), size)
                    file.seek(0, os.SEEK_END)
                except OSError:
                    # The training was quicker.
                    continue

    def give_room(self, size: int) -> None:
        """Space has returned."""
        (self.folder / "ballast").unlink(missing_ok=True)
        if self.mounts:
            self._mount(f"remount,size={size},nr_inodes={_MANY_INODES}")

    def clear(self) -> None:
        """Away with it."""
        if self.mounts:
            subprocess.run(["umount", str(self.folder)], check=True)


def _until_full(order: Order, rng: random.Random, disk: Disk, folder: Path) -> tuple[str, str, Ended]:
    """Train where the space does not suffice; gives what was done, where that is, and how it ended."""
    way = rng.choices((SMALL, INODES, FILLED), (1, 1, 4))[0] if order.mounts else FILLED
    words: list[object] = ["train", *order.words, "--out-dir", disk.folder / "run", "--threads", rng.choice((1, 2))]
    words += ["--resume", "auto"]
    env = environment(disk.folder / "cache")
    if way == SMALL:
        # A part from nothing to a little more than the preparation needs: the training itself looks before it starts.
        size = max(int(order.peak * rng.uniform(0.01, 0.9)), 4096)
        disk.make(size, _MANY_INODES)
        return f"a disk of {size} bytes", "small from the start", run(words, env, folder, "full")
    if way == INODES:
        count = rng.randint(3, 40)
        disk.make(4 * order.peak, count)
        return f"a disk of {count} inodes", "few inodes", run(words, env, folder, "full")
    trigger = rng.choice((*WRITES, *SETUP))
    count = rng.randint(1, 5) if trigger in WRITES else 1
    left = rng.choice((0, rng.randint(0, 8192), rng.randint(0, order.checkpoint)))
    disk.make(2 * order.peak, _MANY_INODES)
    with Watch(disk.folder) as watch:
        began = time.monotonic()
        process = start(words, env, folder, "full")
        if watch.wait(trigger, count, process, 60):
            disk.fill(left, process)
        ended = finish(process, folder, "full", began)
    return f"all but {left} bytes taken at {trigger.name} no. {count}", trigger.name, ended


def one_case(order: Order) -> Case:
    """A training run on a full disk and its continuation; runs inside the namespace."""
    rng = random.Random(f"{order.seed} disk {order.number}")
    folder = Path(order.folder)
    disk = Disk(folder / "disk", order.mounts)
    truth = Truth.of(Path(order.reference), order.step)
    for _ in range(DRAWS):
        what, where, ended = _until_full(order, rng, disk, folder)
        if ended.code != 0:
            break
        disk.clear()
    else:
        return Case("disk full", order.number, what, where, "the space sufficed", ["no draw made the disk full"])
    problems = ended.unclear()
    if not problems and not any(word in ended.err.lower() for word in _SPACE_WORDS):
        problems.append(f"the error does not name the space: {ended.error()}")
    run_folder = disk.folder / "run"
    sight = look(run_folder)
    problems += [f"checkpoint {fault}" for fault in sight.faults]
    outcome = f"clear error, {'checkpoint kept' if sight.complete else 'nothing saved yet'}, resumed"
    disk.give_room(8 * order.peak)
    words: list[object] = ["train", *order.words, "--out-dir", run_folder, "--resume", "auto"]
    again = run([*words, "--threads", rng.choice((1, 2, 3))], environment(disk.folder / "cache"), folder, "resume")
    started = again.events("start", "resume")
    if started and started[0]["step"] < sight.newest:
        problems.append(f"resumed at step {started[0]['step']}, but step {sight.newest} was complete")
    if again.code != 0:
        problems.append(f"with room again: exit code {again.code}: {again.last_lines()}")
    else:
        problems += truth.differences(run_folder)
    if problems:
        shutil.copytree(disk.folder, folder / "kept", ignore=shutil.ignore_patterns("ballast"))
        problems.append(f"to repeat: python -m torture --only disk:{order.number} --seed {order.seed}")
    disk.clear()
    return Case("disk full", order.number, what, where, outcome, problems, str(folder))


def main(words: Sequence[str]) -> int:
    """Inside the namespace: do the case that the only word describes, and print what came of it as JSON."""
    print(json.dumps(asdict(one_case(Order(**json.loads(words[0]))))))
    return 0


def _work(order: Order, before: Sequence[str]) -> list[Case]:
    folder = Path(order.folder)
    folder.mkdir(parents=True)
    command = [*before, sys.executable, "-m", "torture.disk", json.dumps(asdict(order))]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        problems = [f"the case could not be made: {done.stderr[-2000:]}"]
        return [Case("disk full", order.number, "none", "none", "none", problems, order.folder)]
    case = Case(**json.loads(done.stdout))
    if not case.problems:
        shutil.rmtree(folder)
    return [case]


def _sizes(reference: Reference) -> tuple[int, int]:
    """Bytes that a run needs at most, and those of a checkpoint."""
    last = next((reference.folder / "run" / "checkpoints").iterdir())
    checkpoint = sum(path.stat().st_size for path in last.iterdir())
    files = (path for path in reference.folder.rglob("*") if path.is_file())
    return sum(path.stat().st_size for path in files) + 2 * checkpoint, checkpoint


def torture(numbers: Sequence[int], seed: int, jobs: int, folder: Path, say: Callable[[str], None]) -> Part:
    """The cases of these numbers."""
    began = time.monotonic()
    part = Part("disk full")
    folder.mkdir(parents=True)
    shape = ("--seq-len", 32, "--batch-size", 6, "--vocab-size", 400, "--hidden-size", 64, "--intermediate-size", 96)
    training = make_training(folder, size=200_000, steps=60, save=8, shape=shape)
    reference = make_reference(training, folder / "reference")
    before = namespace()
    peak, checkpoint = _sizes(reference)
    orders = [
        Order(number, seed, training.words, training.max_steps, peak, checkpoint, str(folder / f"case-{number:03}"),
              str(reference.folder / "run"), before is not None)
        for number in numbers
    ]  # fmt: skip
    part.cases = in_parallel(orders, jobs, lambda order: _work(order, before or []), say)
    way = "separate file systems (tmpfs)" if before is not None else "a limit on the size of files"
    part.facts.append(f"by {way}; sha256 of model.safetensors at the end: {reference.truth.weights}")
    part.seconds = time.monotonic() - began
    return part


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
