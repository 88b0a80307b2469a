"""Training runs under a launcher: started, watched, and gone when the test is."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from conftest import HANG_S

from .hosts import Hosts
from .launch import Launcher

MARK = "MARK_OF_RANKS"
_RANK_NAMES = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK")


def wait_for(holds: Callable[[], bool], what: str, seconds: float = HANG_S) -> float:
    """Wait until something holds; gives the seconds that it took."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds, f"{what}: not after {seconds:.0f} s"
        time.sleep(0.02)
    return time.monotonic() - began


def _environ(pid: int) -> dict[str, str]:
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    return dict(entry.partition("=")[::2] for entry in raw.decode(errors="replace").split("\0") if "=" in entry)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


@dataclass
class Job:
    """One call of a launcher."""

    process: subprocess.Popen[bytes]
    mark: str
    folder: Path
    name: str
    launcher: int
    """Number of the launcher's own process."""

    @property
    def out(self) -> str:
        """What it wrote to standard output so far."""
        return (self.folder / f"{self.name}.out").read_text(errors="replace")

    @property
    def err(self) -> str:
        """What it wrote to standard error so far."""
        return (self.folder / f"{self.name}.err").read_text(errors="replace")

    def trained(self) -> int:
        """The last update of this job, as its display in JSON tells."""
        found = 0
        for line in self.err.splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                record = json.loads(line)
                found = record["step"] if record["event"] == "train" else found
        return found

    def members(self) -> list[int]:
        """All processes of the job that live, launchers and helpers too."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and _environ(int(entry.name)).get(MARK) == self.mark:
                found.append(int(entry.name))
        return [pid for pid in found if _state(pid) != "Z"]

    def ranks(self) -> dict[int, int]:
        """Rank -> number of its process."""
        found = {}
        for pid in self.members():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                rank = next((value for name in _RANK_NAMES if (value := _environ(pid).get(name))), None)
                if rank is not None and words[1:3] == [b"-m", b"symlm"]:
                    found[int(rank)] = pid
        return found

    def wait(self) -> int:
        """Its exit code."""
        return self.process.wait(HANG_S)

    def gone(self) -> bool:
        """Whether nothing of it lives."""
        return self.process.poll() is not None and not self.members()

    def without_ranks(self) -> bool:
        """Whether no rank lives, whatever else does."""
        return not self.ranks()

    def end(self) -> None:
        """Kill all that is left of it."""
        while members := self.members():
            for pid in members:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        self.process.wait()


@dataclass
class Jobs:
    """Starts `symlm` under a launcher, in `folder`; use it as a context manager."""

    launcher: Launcher
    folder: Path
    started: list[Job] = field(default_factory=list)

    def __enter__(self) -> Jobs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for job in self.started:
            job.end()

    def start(
        self, ranks: int, words: Sequence[object], *, isas: Sequence[str] = (), hosts: Hosts | None = None,
        variables: dict[str, str] | None = None,
    ) -> Job:  # fmt: skip
        """Start `symlm WORDS` on so many ranks, or without a launcher for 0. `isas` are given to the ranks in turn."""
        command = [sys.executable, "-m", "symlm", *map(str, words)]
        if ranks and isas:
            each = [["env", f"SYMLM_ISA={isas[rank % len(isas)]}", *command] for rank in range(ranks)]
            command = self.launcher.several(each, hosts)
        elif ranks:
            command = self.launcher.words(ranks, command, hosts)
        mark, name = uuid.uuid4().hex, f"job-{len(self.started)}"
        kept = {key: value for key, value in os.environ.items() if not key.startswith("SYMLM_")}
        own = {"SYMLM_CACHE_DIR": str(self.folder / "cache"), MARK: mark, **(variables or {})}
        if not ranks and isas:
            own["SYMLM_ISA"] = isas[0]
        env = {**kept, **own, **self.launcher.environment(hosts)}
        if hosts is not None:
            inside = hosts[0].start(command, env, self.folder, name)
            process, launcher = inside.handle, inside.pid
        else:
            with (self.folder / f"{name}.out").open("wb") as out, (self.folder / f"{name}.err").open("wb") as err:
                process = subprocess.Popen(
                    command, cwd=self.folder, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err
                )
            launcher = process.pid
        job = Job(process, mark, self.folder, name, launcher)
        self.started.append(job)
        return job

    def run(
        self, ranks: int, words: Sequence[object], *, isas: Sequence[str] = (), hosts: Hosts | None = None,
        variables: dict[str, str] | None = None,
    ) -> Job:  # fmt: skip
        """Run to the end, which has to be good."""
        job = self.start(ranks, words, isas=isas, hosts=hosts, variables=variables)
        code = job.wait()
        assert code == 0, f"exit code {code}: {job.err[-3000:]}"
        wait_for(job.gone, "the end of all processes")
        return job
