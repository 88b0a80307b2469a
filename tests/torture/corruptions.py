"""One damaged file, then the commands that read it: each must notice, or not be affected."""

from __future__ import annotations

import random
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .lab import (
    Ended,
    Reference,
    Training,
    environment,
    look,
    make_reference,
    make_training,
    run,
    sha256,
    write_text,
)
from .report import Case, Part, in_parallel

STOP_BEFORE = 7
"""The damaged run was stopped this many updates before its end."""

_BLOCK = 512
_TOLD = re.compile(r"^(warning|note): ", re.MULTILINE)
_SEEDS = ("--prompt", "a", "--seed", "1", "--max-new-tokens", "40")


@dataclass(frozen=True)
class Patient:
    """A run that was stopped shortly before its end, and what the other commands say about it while it is whole."""

    reference: Reference
    folder: Path
    other: Path
    answers: dict[tuple[object, ...], str]

    @property
    def training(self) -> Training:
        """The training of the run."""
        return self.reference.training

    def questions(self, folder: Path) -> dict[tuple[object, ...], list[object]]:
        """Commands that read a run, by a name for each."""
        asked: dict[tuple[object, ...], list[object]] = {}
        for which in ("best", "last"):
            asked["generate", which] = ["generate", folder, "--checkpoint", which, *_SEEDS]
            asked["eval", which] = [
                "eval", folder, self.other, "--checkpoint", which, "--json", "--threads", 1, "--progress", "off",
            ]  # fmt: skip
        return asked


def make_patient(folder: Path) -> Patient:
    """Train the undisturbed run and the one to be damaged."""
    folder.mkdir(parents=True)
    shape = ("--seq-len", 16, "--batch-size", 6, "--vocab-size", 300, "--num-heads", 2, "--hidden-size", 32,
             "--intermediate-size", 48)  # fmt: skip
    training = make_training(folder, size=60_000, steps=60, save=8, shape=shape)
    reference = make_reference(training, folder / "reference")
    other = folder / "other.txt"
    write_text(other, 5_000, 2)
    patient = Patient(reference, folder / "patient", other, {})
    patient.folder.mkdir()
    env = environment(patient.folder / "cache")
    stop = training.max_steps - STOP_BEFORE
    words = ["train", *training.words, "--out-dir", patient.folder / "run", "--stop-at-step", stop]
    stages = [("train", words)]
    stages += [(" ".join(map(str, key)), asked) for key, asked in patient.questions(patient.folder / "run").items()]
    for (name, asked), key in zip(stages, (None, *patient.questions(patient.folder)), strict=True):
        ended = run(asked, env, folder, name.replace(" ", "-"))
        if ended.code != 0:
            raise RuntimeError(f"the undamaged run in {folder} fails at {name}: {ended.last_lines()}")
        if key is not None:
            patient.answers[key] = ended.out
    return patient


# --- damage -----------------------------------------------------------------------------------------------------------


def _flip(path: Path, rng: random.Random, count: int) -> str:
    raw = bytearray(path.read_bytes())
    places = [(rng.randrange(len(raw)), rng.randrange(8)) for _ in range(count)]
    for at, bit in places:
        raw[at] ^= 1 << bit
    _overwrite(path, bytes(raw))
    return "bits flipped: " + ", ".join(f"{at}.{bit}" for at, bit in places)


def _overwrite(path: Path, raw: bytes) -> None:
    """New bytes in the same file: where two names share it, as a checkpoint and the best one may, both see them."""
    with path.open("r+b") as file:
        file.write(raw)
        file.truncate(len(raw))


def _bit(path: Path, rng: random.Random, _: Sequence[Path]) -> str:
    return _flip(path, rng, 1)


def _bits(path: Path, rng: random.Random, _: Sequence[Path]) -> str:
    return _flip(path, rng, rng.randint(2, 16))


def _digit(path: Path, rng: random.Random, files: Sequence[Path]) -> str:
    """Another digit in a text: the file stays well-formed, and says something else."""
    raw = path.read_bytes()
    places = [at for at, byte in enumerate(raw) if chr(byte) in "0123456789"]
    if not places or not raw.isascii():
        return _flip(path, rng, 1)
    at = rng.choice(places)
    new = rng.choice([digit for digit in b"0123456789" if digit != raw[at]])
    _overwrite(path, raw[:at] + bytes([new]) + raw[at + 1 :])
    return f"digit {chr(raw[at])} at {at} changed to {chr(new)}"


def _cut(path: Path, rng: random.Random, _: Sequence[Path]) -> str:
    length = rng.choice((0, rng.randrange(path.stat().st_size), path.stat().st_size - 1))
    _overwrite(path, path.read_bytes()[:length])
    return f"cut to {length} bytes"


def _block(path: Path, rng: random.Random, _: Sequence[Path]) -> str:
    raw = path.read_bytes()
    at = rng.randrange(len(raw)) // _BLOCK * _BLOCK
    length = min(_BLOCK, len(raw) - at)
    new, name = rng.choice(((bytes(length), "zeros"), (rng.randbytes(length), "noise")))
    _overwrite(path, raw[:at] + new + raw[at + length :])
    return f"{length} bytes of {name} at {at}"


def _append(path: Path, rng: random.Random, _: Sequence[Path]) -> str:
    more = rng.randbytes(rng.choice((1, rng.randint(2, 4096))))
    _overwrite(path, path.read_bytes() + more)
    return f"{len(more)} bytes of noise appended"


def _delete(path: Path, _rng: random.Random, _: Sequence[Path]) -> str:
    path.unlink()
    return "deleted"


def _folder(path: Path, _rng: random.Random, _: Sequence[Path]) -> str:
    path.unlink()
    path.mkdir()
    return "a folder in its place"


def _other(path: Path, rng: random.Random, files: Sequence[Path]) -> str:
    """The content of another file, of the same name if there is one: as after a copy that mixed two runs up."""
    same = [file for file in files if file.name == path.name and sha256(file) != sha256(path)]
    source = rng.choice(same or [file for file in files if file != path])
    _overwrite(path, source.read_bytes())
    return f"the content of {source.parent.name}/{source.name}"


def _gone(path: Path, _rng: random.Random, _: Sequence[Path]) -> str:
    if path.parent.name == "run":
        path.unlink()
        return "deleted"
    shutil.rmtree(path.parent)
    return "deleted with its folder"


@dataclass(frozen=True)
class Kind:
    """A kind of damage; `do` gets the file, and all files of the run, and says what it did."""

    name: str
    weight: int
    do: Callable[[Path, random.Random, Sequence[Path]], str]


KINDS = (
    Kind("bit flip", 30, _bit),
    Kind("bit flips", 10, _bits),
    Kind("digit", 12, _digit),
    Kind("truncation", 18, _cut),
    Kind("block", 12, _block),
    Kind("appended", 8, _append),
    Kind("deleted", 5, _delete),
    Kind("folder", 3, _folder),
    Kind("other file", 5, _other),
    Kind("folder deleted", 2, _gone),
)


def role(name: str) -> str:
    """A file's place for the table: the same for all checkpoints and shards."""
    parts = Path(name).parts
    if parts[0] == "cache":
        return "token cache"
    if len(parts) > 2 and parts[1] in ("checkpoints", "best"):
        return f"{'best' if parts[1] == 'best' else 'checkpoint'}/{parts[-1]}"
    return parts[-1]


# --- cases ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Damage:
    """One case: its number decides the file, the kind and the place."""

    number: int
    seed: int
    patient: Patient
    folder: Path

    def work(self) -> list[Case]:
        """Damage a copy and run the commands on it."""
        rng = random.Random(f"{self.seed} corruption {self.number}")
        # With hard links as in the original: what two names share is damaged under both.
        self.folder.mkdir(parents=True)
        _copy(self.patient.folder, self.folder)
        roots = [self.folder / "run", self.folder / "cache"]
        files = sorted(path for root in roots for path in root.rglob("*") if path.is_file() and path.stat().st_size)
        name, path = self._choose(rng, files)
        before, detail = sha256(path), ""
        while sha256(path) == before:
            kind = rng.choices(KINDS, [kind.weight for kind in KINDS])[0]
            detail = kind.do(path, rng, files)
        sound = look(self.folder / "run").complete
        problems: list[str] = []
        said: list[str] = []
        env = environment(self.folder / "cache")
        if rng.random() < 0.4:
            # About the checkpoint that was damaged, if it was one.
            aimed = {"best": "best", "checkpoints": "last", "last": "last"}.get(Path(name).parts[1])
            asked = self.patient.questions(self.folder / "run").items()
            key, words = rng.choice([item for item in asked if aimed in (None, item[0][1])])
            problems += self._ask(key, run(words, env, self.folder, "question"), said)
        words = ["train", "--resume", "auto", "--out-dir", self.folder / "run", "--threads", rng.choice((1, 2))]
        if rng.random() < 0.3:
            words[1:1] = self.patient.training.words
        outcome, found = self._judge(run(words, env, self.folder, "resume"), sound)
        problems += found
        what = f"{kind.name} in {name}: {detail}"
        if problems:
            hint = "to repeat: python -m torture --only corruption:{} --seed {}"
            problems.append(hint.format(self.number, self.seed))
            problems.append(f"the file had sha256 {before}")
        else:
            shutil.rmtree(self.folder)
        outcome = " and ".join(sorted({*said, outcome}))
        return [Case("corruption", self.number, what, role(name), outcome, problems, str(self.folder))]

    def _choose(self, rng: random.Random, files: Sequence[Path]) -> tuple[str, Path]:
        """A file: each role equally often, the configuration, which is all text that counts, three times as often."""
        roles: dict[str, list[tuple[str, Path]]] = {}
        for path in files:
            name = str(path.relative_to(self.folder))
            roles.setdefault(role(name), []).append((name, path))
        names = sorted(roles)
        chosen = rng.choices(names, [3 if name == "config.toml" else 1 for name in names])[0]
        return rng.choice(roles[chosen])

    def _ask(self, key: tuple[object, ...], ended: Ended, said: list[str]) -> list[str]:
        name = " ".join(map(str, key))
        if ended.code == 0:
            same, told = ended.out == self.patient.answers[key], _TOLD.search(ended.err) is not None
            said.append("harmless" if same else "another one used, and said so")
            if same or told:
                return ended.ugly()
            return [f"WRONG: {name} gives another answer without a word: {ended.out[:200]!r}"]
        said.append("refused")
        return [f"{name}: {problem}" for problem in ended.unclear()]

    def _judge(self, ended: Ended, sound: tuple[int, ...]) -> tuple[str, list[str]]:
        """What the resume came to, and what is wrong with that."""
        truth, folder = self.patient.reference.truth, self.folder / "run"
        if ended.code != 0:
            problems = ended.unclear()
            if ended.code == 4 and "--batch-size" not in ended.err:
                problems.append(f"an error about memory: {ended.error()}")
            lost = set(sound) - set(look(folder).complete)
            if lost:
                problems.append(f"refused, and the good checkpoints {sorted(lost)} are gone")
            return "refused", problems
        problems = ended.ugly()
        weights = sha256(folder / "checkpoints" / f"step-{truth.step:08d}" / "model.safetensors")
        if weights != truth.weights:
            problems.append(f"WRONG: ends with sha256 {weights or 'none'}, expected {truth.weights}, without an error")
        if sha256(folder / "tokenizer.json") != sha256(self.patient.reference.folder / "run" / "tokenizer.json"):
            problems.append("WRONG: ends with another tokenizer, or none, without an error")
        noticed = ended.events("warning") or "damaged" in ended.err
        return "older one taken" if noticed else "harmless", problems


def _copy(source: Path, target: Path) -> None:
    """Copy run and cache, names that share a file sharing it again."""
    known: dict[int, Path] = {}
    for path in sorted(source.rglob("*")):
        new = target / path.relative_to(source)
        if path.is_dir():
            new.mkdir()
        elif (first := known.get(path.stat().st_ino)) is not None:
            new.hardlink_to(first)
        else:
            known[path.stat().st_ino] = new
            shutil.copy2(path, new)


def torture(numbers: Sequence[int], seed: int, jobs: int, folder: Path, say: Callable[[str], None]) -> Part:
    """The cases of these numbers."""
    began = time.monotonic()
    part = Part("corruption")
    patient = make_patient(folder)
    damages = [Damage(number, seed, patient, folder / f"case-{number:03}") for number in numbers]
    part.cases = in_parallel(damages, jobs, Damage.work, say)
    wrong = sum(any(problem.startswith("WRONG") for problem in case.problems) for case in part.cases)
    part.facts.append(
        f"{wrong} wrong results; sha256 of model.safetensors at the end: {patient.reference.truth.weights}"
    )
    part.seconds = time.monotonic() - began
    return part
