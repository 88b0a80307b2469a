"""SIGKILL at any instant, then `--resume auto`, again and again until the run is finished."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .lab import Ended, Reference, Sight, environment, finish, isas, look, make_reference, make_training
from .lab import start as start_process
from .report import Case, Part, in_parallel
from .watch import READY, SETUP, WRITES, Trigger, Watch

MOST_IN_A_CHAIN = 12
MISSES = 60
"""Runs in a row that may end before the kill comes."""

MISSES_OF_ONE = 5
"""And where one trigger is waited for, which may never come."""

THREADS = (1, 2, 3)
_ORDER = ("model.safetensors", "optimizer.safetensors", "trainer_state.json", "config.json", "MANIFEST.json")


@dataclass(frozen=True)
class Plan:
    """When to kill: a while after the start, or after the `count`-th time that a trigger comes."""

    delay: float
    trigger: Trigger | None = None
    count: int = 1

    def __str__(self) -> str:
        after = "the start" if self.trigger is None else f"{self.trigger.name} no. {self.count}"
        return f"SIGKILL {self.delay * 1e3:.2f} ms after {after}"

    def wait(self, watch: Watch, process: subprocess.Popen[bytes]) -> bool:
        """Wait for the instant; False when the process is gone before."""
        if self.trigger is not None and not watch.wait(self.trigger, self.count, process, 60):
            return False
        end = time.monotonic() + self.delay
        while (left := end - time.monotonic()) > 0:
            if process.poll() is not None:
                return False
            time.sleep(min(left, 0.02))
        return True


def place(folder: Path, sight: Sight, ended: Ended) -> str:
    """Where the kill hit, as far as the files tell."""
    if not (folder / "config.toml").exists():
        return "setting up" if folder.exists() else "start-up"
    if not ended.events("start", "resume"):
        return "start-up"
    for name in sight.hidden:
        if "step-" in name:
            inside = {path.name for path in (folder / "checkpoints" / name).glob("*")}
            newest = next((file for file in reversed(_ORDER) if file in inside), "the folder")
            return f"writing {newest}"
        return f"writing {name.removeprefix('.tmp-').removeprefix('.old-')}"
    if sight.faults:
        return "removing a checkpoint"
    return "between name and pointer" if sight.newest > sight.pointer else "training"


@dataclass
class Chain:
    """Runs that are killed `kills` times in all; each is resumed until it is finished."""

    number: int
    kills: int
    first: int
    reference: Reference
    folder: Path
    rng: random.Random
    only: Trigger | None = None
    cases: list[Case] = field(default_factory=list)
    hits: Counter[str] = field(default_factory=Counter)
    drawn: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    under_way: int = 0
    beyond: int = 0

    def work(self) -> list[Case]:
        """Do all of it."""
        self.folder.mkdir(parents=True)
        run, session, misses = 1, 0, 0
        while len(self.cases) < self.kills or (self.folder / f"run-{run}").exists():
            session += 1
            folder = self.folder / f"run-{run}"
            plan = None
            if len(self.cases) < self.kills and misses < (MISSES if self.only is None else MISSES_OF_ONE):
                plan = self._draw(fresh=not (folder / "config.toml").exists())
            finished, problems = self._session(folder, session, plan)
            if finished and problems:
                self._blame(problems)
            if finished:
                misses += plan is not None
                if plan is None and len(self.cases) < self.kills:
                    self._blame([f"{misses} kills came too late"])
                    break
            if finished or problems:
                # A run with a problem stays as it is.
                if not problems:
                    shutil.rmtree(folder, ignore_errors=True)
                shutil.rmtree(self.folder / "cache", ignore_errors=True)
                run += 1
        if not any(case.problems for case in self.cases):
            shutil.rmtree(self.folder)
        return self.cases

    def _draw(self, *, fresh: bool) -> Plan:
        """An instant: half of them inside the writing of a checkpoint, the others while starting or anywhere. The
        triggers take turns, and the chains begin at different ones."""
        rng, reference = self.rng, self.reference
        choice = rng.random()
        delay = rng.choice((0.0, rng.uniform(0, 0.0005), rng.uniform(0, 0.004)))
        if self.only is not None:
            return Plan(delay, self.only)
        if fresh and choice < 0.6:
            self.drawn["setup"] += 1
            return Plan(delay, SETUP[(self.number + self.drawn["setup"]) % len(SETUP)])
        if choice < 0.55:
            self.drawn["write"] += 1
            return Plan(delay, WRITES[(3 * self.number + self.drawn["write"]) % len(WRITES)], rng.randint(1, 3))
        if choice < 0.7:
            return Plan(rng.uniform(0, reference.ready))
        return Plan(rng.uniform(0, 0.6) * (reference.seconds - reference.ready), READY)

    def _session(self, folder: Path, session: int, plan: Plan | None) -> tuple[bool, list[str]]:
        """One process, killed by the plan. Gives whether it came to its end, and what is wrong."""
        rng = self.rng
        before = look(folder)
        words: list[object] = ["train"]
        # Once there is a run, its folder is enough; the words of the first start may be repeated.
        if not (folder / "config.toml").exists() or rng.random() < 0.5:
            words += self.reference.training.words
        threads, isa = rng.choice(THREADS), rng.choice(isas())
        words += ["--resume", "auto", "--out-dir", folder, "--threads", threads, "--progress", "json"]
        if rng.random() < 0.3:
            words += ["--sectors-in-flight", rng.randint(1, 12)]
        cache = self.folder / "cache"
        cache.mkdir(exist_ok=True)
        name = f"session-{session:02}"
        with Watch(self.folder) as watch:
            began = time.monotonic()
            process = start_process(words, environment(cache, isa), self.folder, name)
            in_time = plan is not None and plan.wait(watch, process)
            if in_time:
                process.kill()
            ended = finish(process, self.folder, name, began)
        sight = look(folder)
        problems = [f"checkpoint {fault}" for fault in sight.faults]
        started = ended.events("start", "resume")
        if started and started[0]["step"] < before.newest:
            problems.append(f"resumed at step {started[0]['step']}, but step {before.newest} was complete")
        if plan is None or not in_time or ended.code != -9:
            if ended.code != 0:
                problems.append(f"exit code {ended.code}: {ended.last_lines()}")
            else:
                problems += self.reference.truth.differences(folder)
            return True, problems
        problems += Ended(0, ended.out, ended.err, 0).ugly()
        problems += self._account(sight)
        where = place(folder, sight, ended)
        if plan.trigger is not None:
            self.hits[plan.trigger.name] += 1
        what = f"{plan}, {threads} threads, {isa}, {folder.name}, session {session}"
        # What the kill did shows in this look and in the next session, which adds to it.
        self.cases.append(
            Case("kill", self.first + len(self.cases), what, where, "resumed", problems, str(self.folder))
        )
        return False, problems

    def _account(self, sight: Sight) -> list[str]:
        """How many updates the kill cost: at most those since the last save. While a checkpoint is being written the
        updates continue, up to the next one: those are lost as well, and counted apart."""
        lost, interval = max(sight.trained - sight.newest, 0), self.reference.training.save_interval
        self.lost = max(self.lost, lost)
        writing = [int(name[-8:]) for name in sight.hidden if re.fullmatch(r"\.tmp-step-\d{8}", name)]
        during = max((sight.trained - step for step in writing if step > sight.newest), default=0)
        self.under_way += during > 0
        allowed = interval + min(max(during, 0), interval)
        if lost <= allowed:
            return []
        self.beyond += lost - allowed
        return [f"{lost} updates lost (newest checkpoint {sight.newest}, trained {sight.trained}), allowed {allowed}"]

    def _blame(self, problems: list[str]) -> None:
        """Put what is wrong with a finished run on the last kill, or on a separate case."""
        if self.cases:
            last = self.cases.pop()
            problems = [*last.problems, *problems]
            self.cases.append(Case("kill", last.number, last.what, last.where, "FAILED", problems, str(self.folder)))
        else:
            self.cases.append(Case("kill", self.first, "no kill", "start", "FAILED", problems, str(self.folder)))


def _shares(total: int, rng: random.Random, jobs: int) -> Iterator[int]:
    """Numbers of kills that add up to `total`; enough of them that no job is left alone for long."""
    most = max(min(MOST_IN_A_CHAIN, -(-total // jobs)), 1)
    while total > 0:
        share = min(rng.randint(max(most // 3, 1), most), total)
        total -= share
        yield share


def torture(total: int, seed: int, jobs: int, folder: Path, say: Callable[[str], None], *, every: bool) -> Part:
    """`total` kills. With `every`, each instant inside a write has to be hit at least once."""
    began = time.monotonic()
    part = Part("kill")
    folder.mkdir(parents=True)
    shape = ("--seq-len", 32, "--batch-size", 6, "--vocab-size", 400, "--hidden-size", 64, "--intermediate-size", 160)
    training = make_training(folder, size=400_000, steps=120, save=8, shape=shape)
    reference = make_reference(training, folder / "reference")
    say(f"kill: an undisturbed run takes {reference.seconds:.1f} s, {reference.ready:.1f} s of them to start")
    rng = random.Random(f"{seed} kill")
    chains: list[Chain] = []
    first = 1
    for number, kills in enumerate(_shares(total, rng, jobs), 1):
        chain_rng = random.Random(f"{seed} kill {number}")
        chains.append(Chain(number, kills, first, reference, folder / f"chain-{number:03}", chain_rng))
        first += kills
    part.cases = in_parallel(chains, jobs, Chain.work, say)
    if every:
        # Chance may have left one out.
        hits = sum((chain.hits for chain in chains), Counter[str]())
        more = [
            Chain(0, 1, first + place, reference, folder / f"more-{place}", random.Random(f"{seed} {place}"), trigger)
            for place, trigger in enumerate(trigger for trigger in (*WRITES, *SETUP) if not hits[trigger.name])
        ]
        part.cases += in_parallel(more, jobs, Chain.work, say)
        chains += more
    hits = sum((chain.hits for chain in chains), Counter[str]())
    lost, beyond = max(chain.lost for chain in chains), sum(chain.beyond for chain in chains)
    part.facts.append(f"sha256 of model.safetensors at the end: {reference.truth.weights}")
    under_way = sum(chain.under_way for chain in chains)
    part.facts.append(
        f"at most {lost} updates lost by a kill: the {training.save_interval} of a save interval, and those done while "
        f"the next checkpoint was being written ({under_way} kills); {beyond} beyond that"
    )
    part.facts.append("aimed at: " + ", ".join(f"{t.name} {hits[t.name]}" for t in (*WRITES, *SETUP)))
    if every:
        never = [trigger.name for trigger in (*WRITES, *SETUP) if not hits[trigger.name]]
        part.problems += [f"no kill came at: {name}" for name in never]
    if len(part.cases) < total:
        part.problems.append(f"only {len(part.cases)} of {total} kills were made")
    part.seconds = time.monotonic() - began
    return part
