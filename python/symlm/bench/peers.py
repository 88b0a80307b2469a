"""Other programs as peers, each in a separate process, which waits while others take their turn: PyTorch with the same
updates, llama.cpp with the same weights."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..config.train_config import TrainConfig
from ..errors import UserError
from ..system.files import temporary_file
from ..system.signals import StopSignals

POLL_S = 0.2
FIND_TIMEOUT_S = 120.0


class PeerFailed(Exception):
    """A peer has ended, or does something else than it should; the message says what, or is the last line it wrote."""


def find_torch(python: str | None) -> str:
    """The interpreter to use, made sure that it can import torch; UserError if it cannot."""
    path = sys.executable if python is None else python
    hint = "pip install torch there, or name another interpreter with --torch-python"
    found = shutil.which(path)
    if found is None:
        raise UserError(f"{path}: no such interpreter", hint)
    try:
        done = subprocess.run(
            [found, "-c", "import torch"], capture_output=True, text=True, timeout=FIND_TIMEOUT_S, check=False,
            env=_environment(),
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{path}: cannot run it: {error}", hint) from None
    if done.returncode != 0:
        raise UserError(f"{path}: cannot import torch: {_last_line(done.stderr)}", hint)
    return found


def _environment(threads: int | None = None) -> dict[str, str]:
    # The folder of the script holds modules of symlm, which must not come before those that torch imports.
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    if threads is not None:
        environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return environment


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


_GUARD = """
import os, signal, sys
if sys.stdin.read() == "":
    os.killpg(int(sys.argv[1]), signal.SIGKILL)
"""
"""Ends a peer whose owner was killed: a stopped process does not see that its input has ended."""


class Turns:
    """Stops the processes of a peer outside its turns, so that nothing of it runs beside others: threads of mathematics
    libraries look for work for a while after their last. On Windows, which cannot stop a process, nothing happens."""

    def __init__(self, group: int) -> None:
        self._group = group
        self._guard: subprocess.Popen[bytes] | None = None
        if sys.platform != "win32":
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _GUARD, str(group)], stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Let the peer run."""
        self._signal("SIGCONT")
        try:
            yield
        finally:
            self._signal("SIGSTOP")

    def _signal(self, name: str) -> None:
        if sys.platform != "win32":
            # On macOS a group of which only zombies are left is not ours.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._group, getattr(signal, name))

    def end(self) -> None:
        """End the guard: the processes of the peer are killed, and their group is not yet that of others."""
        if self._guard is not None:
            self._guard.communicate(b"ended")
            self._guard = None


class Peer:
    """Another program that takes turns, and is stopped outside of them; `close` ends its process."""

    def __init__(self, name: str, python: str, script: str, spec: Any, threads: int, signals: StopSignals) -> None:
        self.name = name
        self.version = ""
        self.parameters = 0
        self._signals = signals
        self._log = temporary_file()
        # A separate session: Ctrl-C goes to symlm, which ends the peer when it has written its figures.
        self._process = subprocess.Popen(
            [python, str(Path(__file__).parent / script), json.dumps(spec)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=self._log, env=_environment(threads), start_new_session=True,
        )  # fmt: skip
        self._turns: Turns | None = None
        try:
            self._turns = Turns(self._process.pid)
        except OSError:
            self.close()
            raise

    def start(self) -> None:
        """Wait until it is warm (compiling takes a minute or so)."""
        with self._turn():
            version, parameters = self._read("version", "parameters")
        self.version, self.parameters = str(version), int(parameters)

    def run(self, task: int | str) -> float:
        """Seconds for some updates, or for what the peer calls so."""
        assert self._process.stdin is not None
        with self._turn():
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(f"{task}\n".encode())
                self._process.stdin.flush()
            (seconds,) = self._read("seconds")
        return float(seconds)

    def _turn(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self._turns is None else self._turns.turn()

    def _read(self, *keys: str) -> list[Any]:
        """Values of the next line; raises `Stopped` after a signal, and `PeerFailed` when the process has ended or
        writes something else."""
        stdout = self._process.stdout
        assert stdout is not None
        # Windows cannot wait for a pipe: there a signal ends the peer's turn first.
        while sys.platform != "win32" and not select.select([stdout], [], [], POLL_S)[0]:
            self._signals.check()
        line = stdout.readline()
        if not line:
            self._log.seek(0)
            raise PeerFailed(_last_line(self._log.read().decode(errors="replace")))
        try:
            record = json.loads(line)
            return [record[key] for key in keys]
        except (ValueError, TypeError, KeyError):
            text = line.decode(errors="replace").strip()
            raise PeerFailed(f'found "{text}", expected a line with its {" and ".join(keys)}') from None

    def close(self) -> None:
        """End the process, and those that it started to compile: they are the rest of its session."""
        # Even if it has ended itself, those may be left. Before the wait, as its id may belong to others afterwards.
        if sys.platform == "win32":
            self._process.kill()
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        if self._turns is not None:
            self._turns.end()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


class TorchPeer(Peer):
    """PyTorch, eager or compiled. `start` it, then take turns."""

    def __init__(self, python: str, config: TrainConfig, threads: int, *, compiled: bool, signals: StopSignals) -> None:
        spec = {
            "model": config.model.as_dict(),
            "threads": threads,
            "compile": compiled,
            **{key: getattr(config, key) for key in (
                "batch_size", "learning_rate", "beta1", "beta2", "eps", "weight_decay", "grad_clip",
            )},
        }  # fmt: skip
        name = f"PyTorch {'compiled' if compiled else 'eager'}"
        super().__init__(name, python, "torch_peer.py", spec, threads, signals)


class LlamaPeer(Peer):
    """llama.cpp on a GGUF file. `run("decode N")` writes N tokens, `run("prefill N")` reads so many."""

    def __init__(self, path: Path, what: str, threads: int, positions: int, signals: StopSignals) -> None:
        spec = {"path": str(path), "threads": threads, "positions": positions}
        super().__init__(f"llama.cpp {what}", sys.executable, "llama_peer.py", spec, threads, signals)
        self.threads = threads
